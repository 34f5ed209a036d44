"""How time grows with members, samples, input size and slots: straight lines where they should be.

`python -m tests.benchmarks scaling`, some 4 minutes, one thread a slot. Each row is the exponent p of time ~ size^p
between the smallest and the largest size, 1 where time is proportional; for slots how many times the samples per second
of one slot all of them train together. Times at every size are in the row's last words. No goals.

- samples: an epoch of the small CNN on 1,280 to 10,240 images of 3 x 32 x 32;
- input size: the same on 1,280 images of 16 to 64 pixels a side, against the pixels;
- members: all statistics over 8 to 64 members' maps of 256 samples, 3 x 32 x 32;
- slots: the small CNN in one slot and in one for each core, all training at once.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: one thread, as a slot has

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from salcore.device import pin
from salcore.planner import Way, _paces
from salcore.training import fit
from tests.benchmarks import harness
from tests.benchmarks.bench_g1_training import CASES, SMALL
from tests.benchmarks.bench_g6_reduce import everything, make

CASE = CASES["small CNN"]


def exponents(sizes: Mapping[float, Callable[[], Any]]) -> tuple[list[float], str]:
    """Exponent of each repeat, and the median times in words."""
    for work in sizes.values():
        work()  # warm
    times = np.array([[harness.seconds(work) for work in sizes.values()] for _ in range(harness.REPEATS)])
    small, large = min(sizes), max(sizes)
    told = ", ".join(f"{size:g}: {took:.3g} s" for size, took in zip(sizes, np.median(times, 0), strict=True))
    return list(np.log(times[:, -1] / times[:, 0]) / np.log(large / small)), told


def epoch(images: int, side: int) -> Callable[[], Any]:
    """An epoch of the small CNN on so many images of so many pixels a side."""
    case = replace(CASE, images=images, shape=(3, side, side))
    data, member = case.data(), case.member()
    return lambda: list(fit(member, data))


def rows() -> Iterator[harness.Row]:
    """Each size in turn."""
    curves = {
        "samples": {count: epoch(count, 32) for count in (1280, 2560, 5120, 10240)},
        "pixels": {side * side: epoch(1280, side) for side in (16, 32, 64)},
    }
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        make(folder, members=64, ranges=1, rows=256)
        curves["members"] = {
            count: lambda count=count: everything(folder, 0, 256, members=count) for count in (8, 16, 32, 64)
        }
        for name, sizes in curves.items():
            found, told = exponents(sizes)
            what = "statistics of 256 samples" if name == "members" else "an epoch of the small CNN"
            yield harness.measured(f"scaling, exponent of the time in {name}", found, unit="", detail=f"{what}; {told}")
    yield slots()


def slots() -> harness.Row:
    """What all cores' slots train together, in units of one slot alone."""
    cores = len(os.sched_getaffinity(0))
    member = replace(CASE, training=SMALL.model_copy(update={"epochs": 1_000_000, "learning_rate": 1e-9})).member()
    ways = [Way(threads=1, slots=count) for count in (1, cores)]
    found = [_paces(member, CASE.data(), ways) for _ in range(harness.REPEATS)]
    gains = [cores * together / alone for alone, together in found]
    alone = np.median([pace for pace, _ in found])
    detail = f"small CNN, {cores} slots of one thread; {alone:.4g} samples/s of one alone"
    return harness.measured("scaling, slots", gains, unit="x", detail=detail)


if __name__ == "__main__":
    pin(1)
    harness.record(list(rows()))
