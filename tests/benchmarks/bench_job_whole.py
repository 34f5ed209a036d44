"""The whole job: `jobs.ensemble` against a plain script, from start to statistics, Ray's start-up included.

`python -m tests.benchmarks job`, 2 cores, about an hour; `--quick`: 1,000 images and no goal, 5 minutes. Eight members
of `small_cnn` (3 epochs) and of torchvision's ResNet-18 (1 epoch) on 10,000 images of 3 x 32 x 32, batch 128, Adam;
gradient and integrated gradients of 100 images by every member; mean, variance and SNR. The script
(`plain_ensemble.py`) is one process that uses all cores; ours also writes the likenesses, significance, report and
MLflow runs that it writes always, though the clock stops at the statistics. At least 1.5.

Before a figure is given our members' weights, put into the script, have to give our mean and variance, to 1 % of the
largest value and half of the images to 0.1 %, but for 5 % of them: a ReLU may lie at its edge, and falls to the other
side by rounding. A ResNet-18 has many.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from salcore.layout import SUMMARY, member_file
from salcore.member_files import WEIGHTS
from salcore.runs import Run
from tests.benchmarks import harness, plain_ensemble

MEMBERS, CLASSES, IMAGES, EVALUATED, SHAPE = 8, 10, 10_000, 100, (3, 32, 32)
NETWORKS = {"small_cnn": 3, "resnet18": 1}
REPEATS = 3
SPEC = """
name: whole
data: {{name: 'npz:{images}', eval_samples: {evaluated}, validation_fraction: 0}}
model: {network}
ensemble: {{members: {members}}}
training: {{epochs: {epochs}, batch_size: 128, optimizer: adam, schedule: constant, learning_rate: 0.001}}
attribution: {{methods: [gradient, {{name: integrated_gradients, num_steps: {steps}}}]}}
"""


def write_images(path: Path, count: int) -> None:
    """Random images and labels, of fixed seed."""
    draws = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", count), ("test", EVALUATED)):
        arrays[f"x_{part}"] = draws.integers(0, 256, (size, *SHAPE), np.uint8)
        arrays[f"y_{part}"] = np.arange(size) % CLASSES
    np.savez(path, **arrays)


def ours(folder: Path, number: int) -> float:
    """Seconds until the statistics are there."""
    run, began = folder / f"run-{number}", time.time()
    subprocess.run(
        [sys.executable, "-m", "jobs.ensemble", str(folder / "spec.yaml"), "--run-dir", str(run)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return (run / SUMMARY).stat().st_mtime - began


def theirs(folder: Path, network: str, epochs: int) -> float:
    """Seconds of the script."""
    command = [sys.executable, "-m", "tests.benchmarks.plain_ensemble", str(folder / "images.npz"), network]
    return harness.seconds(
        lambda: subprocess.run([*command, str(MEMBERS), str(epochs), str(folder / "out.npz")], check=True)
    )


def same(folder: Path, network: str) -> None:
    """Raise unless the script's Captum and NumPy make of our members what we made."""
    run = Run(folder / "run-0")
    with np.load(folder / "images.npz") as arrays:
        chosen = plain_ensemble.pictures(arrays["x_test"], arrays["y_test"], arrays["x_train"])
    maps: dict[str, list[np.ndarray]] = {}
    for member in run.members:
        model = plain_ensemble.network(network, SHAPE, CLASSES).eval()
        model.load_state_dict(load_file(folder / "run-0" / member_file(member, WEIGHTS)))
        for method, found in plain_ensemble.explain(model, chosen).items():
            maps.setdefault(method, []).append(found)
    for method, each in maps.items():
        expected, order = plain_ensemble.statistics(np.stack(each)), run.column(method, "sample")
        for key, found in (("mean", run.mean(method)), ("variance", run.variance(method))):
            apart = np.abs(found - expected[key][order]).max((1, 2, 3)) / np.abs(expected[key]).max()
            assert np.median(apart) < 1e-3, (method, key, apart)
            assert np.mean(apart > 1e-2) < 0.05, (method, key, apart)


def rows(images: int, *, goals: bool) -> Iterator[harness.Row]:
    """Both networks."""
    for network, epochs in NETWORKS.items():
        with tempfile.TemporaryDirectory(prefix="job-") as scratch:
            folder = Path(scratch)
            write_images(folder / "images.npz", images)
            asked = {"network": network, "epochs": epochs, "members": MEMBERS, "evaluated": EVALUATED}
            text = SPEC.format(images=folder / "images.npz", steps=plain_ensemble.STEPS, **asked)
            (folder / "spec.yaml").write_text(text)
            mine, other = harness.interleaved(
                lambda repeat, folder=folder: ours(folder, repeat),
                lambda _, folder=folder, network=network, epochs=epochs: theirs(folder, network, epochs),
                REPEATS,
            )
            same(folder, network)
            yield harness.measured(
                f"whole job, {MEMBERS} x {network}, {images} images, against a plain script",
                np.divide(other, mine),
                unit="x",
                at_least=1.5 if goals else None,
                detail=f"{epochs} epochs, gradient and integrated gradients of {EVALUATED} images, all cores; "
                f"{np.median(mine):.3g} s against {np.median(other):.3g} s",
            )


if __name__ == "__main__":
    harness.command(__doc__, "1,000 images", lambda quick: rows(1000 if quick else IMAGES, goals=not quick))
