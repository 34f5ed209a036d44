"""How time grows with members, samples, input size and slots: straight lines where they should be.

`python -m tests.benchmarks scaling`, some 4 minutes, one thread a slot. Each row is the exponent p of time ~ size^p
between the smallest and the largest size, 1 where time is proportional; for slots how many times the samples per second
of one slot all of them train together. Times at every size are in the row's last words. No goals.

- samples: an epoch of the small CNN on 1,280 to 10,240 images of 3 x 32 x 32;
- input size: the same on 1,280 images of 16 to 64 pixels a side, against the pixels;
- members: all statistics over 8 to 64 members' maps of 256 samples, 3 x 32 x 32;
- slots: the small CNN in one slot and in one for each core, all training at once.

Draws `docs/scaling.png`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: one thread, as a slot has

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from salcore.device import pin
from salcore.figures import canvas
from salcore.planner import Way, _paces
from salcore.training import fit
from tests.benchmarks import harness
from tests.benchmarks.bench_g1_training import CASES, SMALL
from tests.benchmarks.bench_g6_reduce import everything, make

CASE = CASES["small CNN"]
PICTURE = Path(__file__).parents[2] / "docs" / "scaling.png"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Seconds of each repeat at each size, `(repeats, sizes)`; for slots, how many times the samples/s of one."""

    along: str
    what: str
    sizes: tuple[int, ...]
    values: np.ndarray

    @classmethod
    def of(cls, along: str, what: str, works: Mapping[int, Callable[[], Any]]) -> Curve:
        """The work of every size, timed in turns."""
        for work in works.values():
            work()  # warm
        values = np.array([[harness.seconds(work) for work in works.values()] for _ in range(harness.REPEATS)])
        return cls(along=along, what=what, sizes=tuple(works), values=values)

    def row(self) -> harness.Row:
        """The exponent between the smallest and the largest size."""
        exponents = np.log(self.values[:, -1] / self.values[:, 0]) / np.log(self.sizes[-1] / self.sizes[0])
        pairs = zip(self.sizes, np.median(self.values, 0), strict=True)
        told = ", ".join(f"{size}: {took:.3g} s" for size, took in pairs)
        name = f"scaling, exponent of the time in {self.along}"
        return harness.measured(name, exponents, unit="", detail=f"{self.what}; {told}")


def epoch(images: int, side: int) -> Callable[[], Any]:
    """An epoch of the small CNN on so many images of so many pixels a side."""
    case = replace(CASE, images=images, shape=(3, side, side))
    data, member = case.data(), case.member()
    return lambda: list(fit(member, data))


def times() -> Iterator[Curve]:
    """How time grows with samples, pixels and members."""
    samples = {count: epoch(count, 32) for count in (1280, 2560, 5120, 10240)}
    yield Curve.of("samples", "an epoch of the small CNN", samples)
    pixels = {side * side: epoch(1280, side) for side in (16, 32, 64)}
    yield Curve.of("pixels", "an epoch of the small CNN", pixels)
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        make(folder, members=64, ranges=1, rows=256)
        members = {count: partial(everything, folder, 0, 256, members=count) for count in (8, 16, 32, 64)}
        yield Curve.of("members", "statistics of 256 samples", members)


def slots() -> tuple[Curve, harness.Row]:
    """What the slots of all cores train together, in units of one slot alone."""
    cores = len(os.sched_getaffinity(0))
    member = replace(CASE, training=SMALL.model_copy(update={"epochs": 1_000_000, "learning_rate": 1e-9})).member()
    ways = [Way(threads=1, slots=count) for count in sorted({1, cores})]
    paces = np.array([_paces(member, CASE.data(), ways) for _ in range(harness.REPEATS)])
    counts = tuple(way.slots for way in ways)
    curve = Curve(along="slots", what="small CNN", sizes=counts, values=paces * counts / paces[:, :1])
    detail = f"small CNN, {cores} slots of one thread; {np.median(paces[:, 0]):.4g} samples/s of one alone"
    return curve, harness.measured("scaling, slots", curve.values[:, -1], unit="x", detail=detail)


def picture(curves: Sequence[Curve]) -> bytes:
    """A PNG: every curve beside a straight line through its first point, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, curve in zip(figure.subplots(1, len(curves)), curves, strict=True):
        canvas.dress(axes)
        low, middle, high = np.quantile(curve.values, (0, 0.5, 1), axis=0)
        sizes = np.array(curve.sizes)
        axes.plot(sizes, middle[0] * sizes / sizes[0], color=canvas.MUTED, linestyle="--", linewidth=1.2)
        axes.errorbar(sizes, middle, (middle - low, high - middle), color=canvas.BLUE, marker="o", capsize=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in curve.sizes])
        axes.set_yticks(middle, [f"{value:.2g}" for value in middle])
        axes.minorticks_off()
        axes.tick_params(axis="both", labelsize=8)
        axes.set_xlabel(curve.along)
        axes.set_ylabel("times one slot" if curve.along == "slots" else "seconds")
        axes.set_title(curve.what, fontsize=10, color=canvas.INK)
    return canvas.png(figure)


if __name__ == "__main__":
    pin(1)
    *curves, (along_slots, gain) = [*times(), slots()]
    harness.record([*(curve.row() for curve in curves), gain])
    PICTURE.write_bytes(picture([*curves, along_slots]))
