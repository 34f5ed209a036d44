"""G2: an ensemble in slots, against its members one after the other with all cores.

`python -m tests.benchmarks g2`, 2 cores, some 15 minutes; `--quick`: one repeat and no goal, 3 minutes.

From the first member's start to the last one's end, `cluster.train` with a slot of one thread per core against one
process that trains the same members one after the other with as many threads as there are cores; start-up is G7's row.
Tiny networks (16 of `small_cnn` on the digits, 10 epochs): at least 1.6. ResNet-18 (4 members, 512 images of
3 x 32 x 32, 2 epochs): at least 1.15. What the planner chooses of the two (`training.threads: auto`) takes at most 5 %
longer than the better one.

Other threads add up in another order, so the two are not the same bits: losses of the first epoch have to agree within
5 %, and their means over members within 1 %.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: a slot has one

import numpy as np

from salcore.data import load
from salcore.layout import member_file
from salcore.member_files import HISTORY
from salcore.members import plan
from salcore.planner import measured
from salcore.spec import Spec, from_dict
from salcore.storage import Store
from tests.benchmarks import harness
from tests.benchmarks.bench_g7_orchestration import SLOTS, with_processes, with_ray

IMAGES, SHAPE, CLASSES = 512, (3, 32, 32), 10


def specs(folder: Path) -> dict[str, tuple[Spec, float]]:
    """What is trained, and how many times faster it is to be."""
    draws = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", IMAGES), ("test", CLASSES)):
        arrays[f"x_{part}"] = draws.integers(0, 256, (size, *SHAPE), np.uint8)
        arrays[f"y_{part}"] = np.arange(size) % CLASSES
    np.savez(folder / "images.npz", **arrays)
    tiny = {"data": {"name": "digits"}, "ensemble": {"members": 16}, "training": {"epochs": 10}}
    large = {
        "data": {"name": f"npz:{folder / 'images.npz'}", "validation_fraction": 0.0},
        "model": {"name": "resnet18"},
        "ensemble": {"members": 4},
        "training": {"epochs": 2},
    }
    return {"small_cnn on the digits": (from_dict(tiny), 1.6), "ResNet-18": (from_dict(large), 1.15)}


def losses(folder: Path, members: int) -> np.ndarray:
    """Training losses of each epoch of each member."""
    store = Store(str(folder / "run"))
    tables = [store.read_parquet(member_file(index, HISTORY)) for index in range(members)]
    return np.array([table.column("train_loss").to_pylist() for table in tables])


def rows(repeats: int, *, goals: bool) -> Iterator[harness.Row]:
    """Both ensembles."""
    with tempfile.TemporaryDirectory(prefix="g2-") as scratch:
        for name, (spec, least) in specs(Path(scratch)).items():
            data = load(spec.data)
            members = plan(spec, data.digest)
            folders = [[Path(scratch, f"{spec.model.name}-{side}-{of}") for of in range(repeats)] for side in range(2)]
            for folder in (*folders[0], *folders[1]):
                folder.mkdir()
            slots = partial(with_ray, spec, data, members)
            one = partial(with_processes, spec, data, members, processes=1, threads=SLOTS)
            ours, theirs = harness.interleaved(
                lambda repeat, work=slots, into=folders[0]: work(into[repeat]).work,
                lambda repeat, work=one, into=folders[1]: work(into[repeat]).work,
                repeats,
            )
            for pair in zip(*folders, strict=True):
                found, expected = (losses(folder, len(members)) for folder in pair)
                np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=0.05)
                np.testing.assert_allclose(found[:, 0].mean(), expected[:, 0].mean(), rtol=0.01)
            yield harness.measured(
                f"G2 ensemble of {len(members)}, {name}, against one after the other",
                np.divide(theirs, ours),
                unit="x",
                at_least=least if goals else None,
                detail=f"{SLOTS} slots of one thread against one process of {SLOTS}, start-up left out; "
                f"{np.median(ours):.3g} s against {np.median(theirs):.3g} s",
            )
            best = measured(members[0], data, cores=SLOTS, members=len(members))[0]
            chosen = ours if best.threads == 1 else theirs
            yield harness.measured(
                f"G2 the planner's choice against the best way, {name}",
                np.divide(chosen, min(ours, theirs, key=np.median)),
                unit="x",
                at_most=1.05 if goals else None,
                detail=f"`training.threads: auto` chooses {best.slots} slots of {best.threads}",
            )


if __name__ == "__main__":
    harness.command(__doc__, "one repeat", lambda quick: rows(1 if quick else harness.REPEATS, goals=not quick))
