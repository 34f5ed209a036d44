"""The README's table of figures, from `results.parquet`: `python -m tests.benchmarks.readme` writes it there anew.

A test fails where the two differ, and where a row that misses its goal is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import harness
from tests.benchmarks.harness import Row

README = Path(__file__).parents[2] / "README.md"
BETWEEN = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end -->)", re.DOTALL)
MACHINE = "AMD EPYC, 2 cores, 24 GiB"
G1 = "G1 training, {}, {} against the loop as published"
GUIDED = "G3 guided step against the published procedure, {}, {} against float32"
RATIO, MASKING = "G3 guided step / standard step, {}", "G3 ranking, filling and masking in a guided step, {}"
CAPTUM = "G4 {}, against Captum as published"
PROFILES = "G5 filter profiles, {}"
STATISTICS = "G6 mean, variance, SNR against {}"
JOB = "whole job, 8 x {}, 10000 images, against a plain script"
ROWS = {
    G1.format("small CNN", "float32"): "a member's epoch, small CNN, against a plain loop",
    G1.format("small CNN", "bfloat16"): "the same in bfloat16",
    G1.format("MNIST CNN", "float32"): "MNIST CNN",
    G1.format("MNIST CNN", "bfloat16"): "MNIST CNN in bfloat16",
    G1.format("ResNet-18", "float32"): "ResNet-18 at 32 px",
    G1.format("ResNet-18", "bfloat16"): "ResNet-18 in bfloat16",
    "G2 ensemble of 16, small_cnn on the digits, against one after the other": (
        "16 tiny CNNs in 2 slots, against one after the other on 2 cores, start-up left out"
    ),
    "G2 ensemble of 4, ResNet-18, against one after the other": "4 ResNet-18, likewise",
    GUIDED.format("MNIST CNN", "float32"): "a guided step, MNIST CNN, against the published procedure",
    GUIDED.format("MNIST CNN", "bfloat16"): "the same in bfloat16",
    GUIDED.format("ResNet-18", "float32"): "ResNet-18",
    GUIDED.format("ResNet-18", "bfloat16"): "ResNet-18 in bfloat16",
    RATIO.format("MNIST CNN"): "a guided step over a standard step, MNIST CNN",
    RATIO.format("ResNet-18"): "ResNet-18",
    RATIO.format("TCN"): "TCN",
    RATIO.format("LSTM"): "LSTM",
    RATIO.format("bidirectional LSTM"): "bidirectional LSTM",
    MASKING.format("TCN"): "masking in a guided step, TCN",
    MASKING.format("LSTM"): "LSTM",
    CAPTUM.format("gradient family, small CNN"): "gradient methods, small CNN, against Captum",
    CAPTUM.format("gradient family, ResNet-18"): "gradient methods, ResNet-18",
    CAPTUM.format("DeepLIFT, small CNN"): "DeepLIFT, small CNN",
    CAPTUM.format("LIME, small CNN"): "LIME, small CNN at 3 x 32 x 32",
    CAPTUM.format("LIME, small CNN at 1 x 28 x 28"): "LIME, small CNN at 1 x 28 x 28",
    CAPTUM.format("KernelSHAP, small CNN"): "KernelSHAP, small CNN at 3 x 32 x 32",
    CAPTUM.format("KernelSHAP, small CNN at 1 x 28 x 28"): "KernelSHAP, small CNN at 1 x 28 x 28",
    CAPTUM.format("all methods, small CNN"): "all nine methods, small CNN",
    PROFILES.format("ResNet-18, against the published loop"): "filter profiles, ResNet-18, against the published loop",
    PROFILES.format("ResNet-18 for CIFAR, against the published loop"): "ResNet-18 with the CIFAR stem",
    PROFILES.format("ResNet-18 for CIFAR, extra memory of all samples' gradients"): (
        "their memory, of that of all samples' gradients"
    ),
    STATISTICS.format("numpy as published"): "mean, variance and SNR, against NumPy",
    STATISTICS.format("dask, threads on all cores"): "against dask",
    STATISTICS.format("DuckDB, threads on all cores"): "against DuckDB",
    "G6 share of the read bandwidth": "share of the bandwidth that memory is read at",
    JOB.format("small_cnn"): "the whole job, 8 small CNNs, against a plain script",
    JOB.format("resnet18"): "the whole job, 8 ResNet-18",
    "G7 orchestration overhead": "what Ray adds to a pool of processes",
    "G7 start-up": "start-up of Ray and its slots",
    "G8 work items driven": "work items handed out, 10,000 members x 20 shards",
    "G8 driver's growth": "the driver's growth by it",
    "G8 resume scan": "looking at what is finished",
}
"""What the rows are called there, in the order in which they stand. Times and shares count by themselves."""


def table(rows: dict[str, Row]) -> Iterator[str]:
    """The lines of the table."""
    yield "| what | figure | goal | met |"
    yield "| --- | --- | --- | --- |"
    for name, called in ROWS.items():
        row = rows[name]
        goal = row.goal.replace(">=", "at least").replace("<=", "at most")
        yield f"| {called} | {harness.figure(row)} | {goal} | {('no', 'yes')[row.met] if goal else ''} |"


def known() -> dict[str, Row]:
    """The rows of the machine that the README is of, by name."""
    return {row.name: row for row in harness.recorded() if row.machine == MACHINE}


def written(page: str) -> str:
    """The page with the table as it is to be."""
    lines = "".join(f"{line}\n" for line in table(known()))
    return BETWEEN.sub(lambda _: lines, page)


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
