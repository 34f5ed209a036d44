"""Where the time of one member goes: reading and augmenting, forward, backward, masking, optimizer, checkpoint.

`python -m tests.benchmarks profile`, some 3 minutes, one thread. Two epochs of `train_member`, standard and guided, on
the small CNN and the MNIST CNN (2,560 images) and torchvision's ResNet-18 (512 images, 3 x 32 x 32), batch 128, its
files on a local disk. Each part is what its functions take; a guided step's forward holds its gradient by the inputs.
No goal. `other` is Python between them, validation and the schedule.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: one thread, as a slot has

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import wraps
from importlib import import_module
from typing import Any
from unittest import mock

import torch

from salcore import member_files, optimisation, training
from salcore.device import pin
from salcore.storage import Store
from tests.benchmarks import harness
from tests.benchmarks.bench_g1_training import CASES, Case

PARTS = ("data", "forward", "backward", "masking", "optimizer", "checkpoint", "other")


class Clock(Counter):
    """Seconds by part. Time of a part within another one is its own."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[list[Any]] = []

    def during(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted."""

        @wraps(work)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            self._open.append([part, 0.0])
            try:
                return work(*arguments, **keywords)
            finally:
                took = time.perf_counter() - started
                _, within = self._open.pop()
                self[part] += took - within
                if self._open:
                    self._open[-1][1] += took

        return timed

    def iterating(self, part: str, make: Callable[..., Iterable]) -> Callable[..., Iterator]:
        """The function that makes an iterator, the time of whose items is counted."""

        def timed(*arguments: Any, **keywords: Any) -> Iterator:
            items = iter(make(*arguments, **keywords))
            advance = self.during(part, lambda: next(items, None))
            while (item := advance()) is not None:
                yield item

        return timed


def shares(case: Case, objective: str) -> dict[str, float]:
    """Percent of a member's time that each part takes."""
    clock, data = Clock(), case.data()
    member = case.member(objective=objective, epochs=2)
    optimizers = (optimisation.Adam, optimisation.SGD, optimisation.Adadelta)
    with ExitStack() as patches, tempfile.TemporaryDirectory() as folder:
        for place, name, part in (
            *((optimizer, "step", "optimizer") for optimizer in optimizers),
            (torch.Tensor, "backward", "backward"),
            (import_module("salcore.objectives.guided"), "masked", "masking"),  # a function has the module's name
            (member_files, "_save_checkpoint", "checkpoint"),
            (member_files, "_finish", "checkpoint"),
        ):
            patches.enter_context(mock.patch.object(place, name, clock.during(part, getattr(place, name))))
        batches = clock.iterating("data", training.epoch_batches)
        patches.enter_context(mock.patch.object(training, "epoch_batches", batches))
        known = training.OBJECTIVES
        patches.enter_context(mock.patch.dict(known, {objective: clock.during("forward", known[objective])}))
        whole = harness.seconds(lambda: member_files.train_member(member, data, Store(folder)))
    unseen = [part for part in PARTS[:-1] if not clock[part] and (part, objective) != ("masking", "standard")]
    assert not unseen, f"nothing was counted as {', '.join(unseen)}: its functions are others by now"
    clock["other"] = whole - sum(clock.values())
    return {part: 100 * clock[part] / whole for part in PARTS}


def rows() -> Iterator[harness.Row]:
    """Every network and objective; a row for each part."""
    for name, case in CASES.items():
        for objective in ("standard", "guided"):
            shares(case, objective)  # warm
            found = [shares(case, objective) for _ in range(harness.REPEATS)]
            for part in PARTS:
                yield harness.measured(
                    f"profile, {name}, {objective}: {part}",
                    [each[part] for each in found],
                    unit="%",
                    detail=f"2 epochs of {case.images} images {case.shape}, batch 128, one thread",
                )


if __name__ == "__main__":
    pin(1)
    harness.record(list(rows()))
