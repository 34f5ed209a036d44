"""Data as workers take it: where a memory map lies on another node, what is loaded there has to be the same data."""

import platform
from pathlib import Path

import numpy as np
import pytest
import ray

from cluster.source import Source
from salcore.data import load
from salcore.errors import UserError
from salcore.spec import DataSpec


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A source on a node that does not see the files that the driver mapped, and the file that it reads instead."""

    def missing(reference):
        raise FileNotFoundError(reference)

    file = tmp_path / "images.npz"
    images(file, seed=0)
    spec = DataSpec(name=f"npz:{file}", eval_samples=4)
    monkeypatch.setattr(ray, "get", missing)
    return Source(spec=spec, digest=load(spec).digest, reference=None), file


def images(file: Path, seed: int) -> None:
    draws = np.random.default_rng(seed)
    parts = {"train": 40, "test": 10}
    arrays = {f"{part}_images": draws.integers(0, 256, (rows, 8, 8), np.uint8) for part, rows in parts.items()}
    np.savez(file, **arrays, **{f"{part}_labels": np.arange(rows) % 2 for part, rows in parts.items()})


def test_the_same_files_are_loaded_anew(elsewhere):
    source, _ = elsewhere
    assert source.get().digest == source.digest


def test_other_files_of_that_name_are_refused(elsewhere):
    source, file = elsewhere
    images(file, seed=1)
    with pytest.raises(UserError, match=f"data.name: expected the same files on every node; {platform.node()} has"):
        source.get()
