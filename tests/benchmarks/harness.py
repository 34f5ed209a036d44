"""The shared measuring harness: two ways of doing one thing, side by side, and the table of what came out.

Runs are interleaved (A B B A ...), at least 7 times each; the figure is the median of the ratios of neighbours with a
95 % bootstrap interval, and the goal counts on the interval's worse end. Results are compared before the clock starts.
Two ceilings of the machine, GEMM GFLOP/s and read GB/s, are measured in the same process run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

FOLDER, PARQUET = Path(__file__).parent, "results.parquet"
REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a figure with its interval, the goal, and where and when it was measured."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    goal: str
    met: bool
    detail: str
    gemm_gflops: float
    read_gbs: float
    machine: str
    versions: str
    date: str


def compare(
    name: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    check: Callable[[], None],
    at_least: float | None = None,
    at_most: float | None = None,
    detail: str,
) -> Row:
    """How many times longer `theirs` takes than `ours`. `check` raises when their results differ; it comes first."""
    check()
    ours(), theirs()  # warm both
    mine, other = interleaved(lambda _: seconds(ours), lambda _: seconds(theirs), REPEATS)
    detail = f"{detail}; {np.median(mine):.3g} s against {np.median(other):.3g} s"
    return measured(name, np.divide(other, mine), unit="x", at_least=at_least, at_most=at_most, detail=detail)


def interleaved(
    ours: Callable[[int], float], theirs: Callable[[int], float], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of both sides, A B B A ...; each is told which repeat it is."""
    mine: list[float] = []
    other: list[float] = []
    for repeat in range(repeats):
        pair = [(mine, ours), (other, theirs)]
        for times, work in pair if repeat % 2 == 0 else reversed(pair):
            times.append(work(repeat))
        print(f"{repeat + 1}/{repeats}: {mine[-1]:.3g} s against {other[-1]:.3g} s", flush=True)
    return mine, other


def measured(
    name: str,
    values: Sequence[float] | np.ndarray,
    *,
    unit: str,
    detail: str,
    at_least: float | None = None,
    at_most: float | None = None,
    within: tuple[float, float] | None = None,
) -> Row:
    """A row from repeated figures: their median, and its interval unless one is given; goals are bounds of that."""
    low, high = interval(np.asarray(values)) if within is None else within
    met = (at_least is None or low >= at_least) and (at_most is None or high <= at_most)
    goal = (
        f">= {at_least:g} {unit}" if at_least is not None else f"<= {at_most:g} {unit}" if at_most is not None else ""
    )
    row = Row(
        name=name,
        value=float(np.median(values)),
        low=low,
        high=high,
        unit=unit,
        goal=goal,
        met=met,
        detail=detail,
        gemm_gflops=gemm_gflops(),
        read_gbs=read_gbs(),
        machine=machine(),
        versions=versions(),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )
    told = f" (goal {goal}: {'met' if met else 'NOT met'})" if goal else ""
    print(f"{row.name}: {figure(row)}{told}; {detail}", flush=True)
    return row


def versions() -> str:
    """Of what is measured with; a machine may have no Ray."""
    known = [name for name in ("torch", "numpy", "pyarrow", "ray") if find_spec(name)]
    return ", ".join(f"{name} {version(name)}" for name in known)


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, which must have finished its work when it returns."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(np.median(values[picks], axis=1), [0.025, 0.975])
    return float(low), float(high)


@cache
def gemm_gflops(side: int = 2048) -> float:
    """Float32 matrix product on all cores of this process, best of 7."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    return 2 * side**3 / min(seconds(lambda: a @ b) for _ in range(7)) / 1e9


@cache
def read_gbs(size: int = 1 << 28) -> float:
    """Reading 256 MB of float32 per core, all cores at once, best of 7."""
    cores = len(os.sched_getaffinity(0))
    blocks = [np.ones(size // 4, np.float32) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        best = min(seconds(lambda: list(pool.map(np.max, blocks))) for _ in range(7))
    return cores * size / best / 1e9


@cache
def machine() -> str:
    """Processor, cores and memory, and the GPU if there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.processor()}, {cores} cores, {memory:.0f} GiB{gpu}"


def command(about: str, less: str, rows: Callable[[bool], Iterable[Row]]) -> None:
    """The command of a module whose rows have a quick mode, `--quick`, with `less` work; nothing of it is recorded."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{less}, and nothing is recorded")
    quick = parser.parse_args().quick
    for row in rows(quick):
        if not quick:
            record([row])  # each as it comes: what was measured stays if a later one fails


def record(rows: Sequence[Row], folder: Path = FOLDER) -> None:
    """Put rows into `results.parquet` and `RESULTS.md`; a row replaces the earlier one of its name and machine."""
    kept = {(row.name, row.machine): row for row in [*recorded(folder), *rows]}
    ordered = [kept[key] for key in sorted(kept)]
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in ordered]), folder / PARQUET)
    (folder / "RESULTS.md").write_text(_page(ordered))


def recorded(folder: Path = FOLDER) -> list[Row]:
    """The rows that were measured so far."""
    path = folder / PARQUET
    return [Row(**row) for row in pq.read_table(path).to_pylist()] if path.exists() else []


_HEAD = """# Benchmark results

Written by `make bench`, or by one module, `python -m tests.benchmarks.bench_...`. Each figure is a median with its 95 %
interval in brackets; a goal is met when the worse end of the interval meets it. GEMM and read are ceilings of the
machine in the same run.
"""


def _page(rows: Sequence[Row]) -> str:
    columns = ("what", "figure", "goal", "met", "how", "GEMM GFLOP/s", "read GB/s", "date", "versions")
    sections = []
    for name in sorted({row.machine for row in rows}):
        lines = [f"\n## {name}\n", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
        for row in (row for row in rows if row.machine == name):
            met = "" if not row.goal else "yes" if row.met else "**no**"
            cells = (row.name, figure(row), row.goal, met, row.detail, f"{row.gemm_gflops:.0f}", f"{row.read_gbs:.1f}")
            lines.append(f"| {' | '.join((*cells, row.date, row.versions))} |")
        sections.append("\n".join(lines) + "\n")
    return _HEAD + "".join(sections)


def figure(row: Row) -> str:
    """A row's median and interval."""
    return f"{row.value:.3g} {row.unit} [{row.low:.3g}, {row.high:.3g}]"
