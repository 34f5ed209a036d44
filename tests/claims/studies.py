"""The studies of `python -m jobs.study` as claims: their small presets on the data of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from pyarrow import parquet

from salcore.studies import STUDIES
from tests.claims.ensembles import ROOT, mirror
from tests.claims.table import Row, interval

ON_PHOTOGRAPHS = (
    "noise_table", "noise_convergence", "noise_samples", "noise_similarity", "ensemble_dream",
    "blame_profiles", "blame_pruning", "blame_neighbours", "blame_finetuning",
)  # fmt: skip
"""Studies of CIFAR-10, and of Imagenette."""
ON_DIGITS = ("guided_mnist", "guided_masking", "guided_spread")
"""Studies of MNIST."""
ON_TEXTS, GENERATED = ("guided_eraser",), ("guided_timeseries", "guided_vanishing", "blame_masking")
"""Studies of texts, and of series and pictures that are drawn; what is in none of these is of FashionMNIST."""


def run(name: str, folder: Path) -> None:
    """Do the small preset of a study: its folder is `folder/name`, its ensembles are shared in `folder/ensembles`."""
    small = STUDIES[name].PRESETS["small"]
    if name in ON_PHOTOGRAPHS:
        overrides = [f"study.data={{{', '.join(_photographs(folder / 'data', small['data']))}}}"]
    elif name in ON_TEXTS:
        overrides = [f"study.data={json.dumps(_texts(small['data']))}"]
    elif name in GENERATED:
        overrides = []
    else:
        overrides = [f"data.mirror={mirror('mnist' if name in ON_DIGITS else 'fashion_mnist')}"]
    command = [sys.executable, "-m", "jobs.study", name, *overrides, "--run-dir", str(folder / name)]
    subprocess.run(command, cwd=ROOT, check=True)


def sallm(folder: Path) -> None:
    """All variants of SalLM on SST-5 with a small transformer, as `jobs/specs/sst5_tiny.yaml` says."""
    command = [sys.executable, "-m", "jobs.sallm", "sst5_tiny", f"data.name=sst:{mirror('sst5')}"]
    subprocess.run([*command, "--run-dir", str(folder / "sallm")], cwd=ROOT, check=True)


def rows(name: str, folder: Path, table: str = "study.parquet") -> Iterator[Row]:
    """What the study found, in the columns of the page."""
    for row in parquet.read_table(folder / name / table).to_pylist():
        yield Row(
            claim=row["what"],
            paper="" if row["paper"] is None else f"{row['paper']:.3f}",
            ours="" if np.isnan(row["ours"]) else f"{row['ours']:.3f}",
            interval="" if np.isnan(row["low"]) else interval(row["low"], row["high"]),
            holds=row["holds"],
            why=row["note"],
        )


def _photographs(folder: Path, wanted: dict[str, dict]) -> Iterator[str]:
    """The study's data sets made from the tests' parts of them, as values of a spec."""
    places = {"cifar10": f"npz:{cifar10(folder)}", "imagenette": f"folder:{imagenette(folder)}"}
    for name, where in wanted.items():
        rest = "".join(f", {key}: {value}" for key, value in where.items() if key != "name")
        yield f"{name}: {{name: '{places[name]}'{rest}}}"


def _texts(wanted: dict[str, dict]) -> dict[str, dict]:
    """The study's sets of texts, with the vectors that there are."""
    places = {"movies": f"eraser:{mirror('eraser_movies/movies.tar.gz')}", "sst5": f"sst:{mirror('sst5')}"}
    vectors = mirror("glove_twitter_25d/glove.twitter.27B.25d.subset.txt.gz")
    return {name: where | {"name": places[name], "vectors": vectors} for name, where in wanted.items()}


def cifar10(folder: Path) -> Path:
    """The 20,000 training and 1,000 test images of CIFAR-10 that there are, as an archive of arrays."""
    path, source = folder / "cifar10.npz", Path(mirror("cifar10_subset"))
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)

    def sheets(split: str) -> np.ndarray:
        opened = (
            np.asarray(Image.open(source / f"{split}_{n}.png")) for n in range(len(list(source.glob(f"{split}_*.png"))))
        )
        return np.concatenate([sheet.reshape(-1, 32, 32, 3) for sheet in opened])

    labels = {split: np.loadtxt(source / f"{split}_labels.txt", dtype=np.int64) for split in ("train", "test")}
    np.savez(
        path,
        train_images=sheets("train"),
        train_labels=labels["train"],
        test_images=sheets("test"),
        test_labels=labels["test"],
        classes=np.array((source / "class_names.txt").read_text().split()),
    )
    return path


def imagenette(folder: Path) -> Path:
    """The 2,000 training and 1,000 validation photographs of Imagenette that there are, as a tree."""
    tree = folder / "imagenette_224_subset"
    if not tree.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(Path(mirror("imagenette_224_subset")) / "imagenette_224_subset.tar") as archive:
            archive.extractall(folder, filter="data")
    return tree
