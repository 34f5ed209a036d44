"""The planner: how many threads a slot gets, found by two seconds of training that all ways to share the cores divide.

One thread in each of many slots is best for most networks, several where what each step moves is too much for the
cache that the slots share. Threads belong to what a member is (they decide in which order its sums are rounded), so the
choice is made once, and written down.
"""

import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np

from salcore.data import Data, Part
from salcore.device import pin
from salcore.explanations import explained
from salcore.members import Member
from salcore.training import Epoch, fit, teachable

SECONDS, ROUNDS, STEPS = 2.0, 2, 4
"""All ways are measured for so long together, each in so many turns; a turn has at least so many steps."""
MOST_CORES = 16
"""On a larger machine so many cores are measured, as if slots on the others took nothing from these."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to share a machine's cores: slots that train at the same time, threads of each, samples/s of one slot."""

    threads: int
    slots: int
    pace: float = math.nan

    def seconds(self, members: int) -> float:
        """Time for so many members of one sample each."""
        return math.ceil(members / self.slots) / self.pace


def ways(cores: int, most: int) -> list[Way]:
    """The ways to share so many cores, none of which is left over, with at most so many slots.

    >>> [(way.slots, way.threads) for way in ways(6, 4)]
    [(4, 1), (3, 2), (2, 3), (1, 6)]
    """
    threads = [count for count in range(1, cores + 1) if cores % count == 0]
    return [Way(threads=count, slots=min(cores // count, most)) for count in threads]


def measured(member: Member, data: Data, *, cores: int, members: int, slots: int | None = None) -> list[Way]:
    """The ways to train so many members like this one on so many cores, each with its pace, the best one first.

    There are at most so many `slots`; None: as many as fit.

    Trains copies on a few of the samples, in processes that end with the call; takes their start, some 5 seconds, and
    `SECONDS`, or the time of 12 steps in each way where that is more. Raises RuntimeError if one of them dies or fails.
    """
    most = members if slots is None else min(slots, members)
    trials = ways(min(cores, MOST_CORES), most)
    probe = replace(member, training=member.training.model_copy(update=_ENDLESS))
    told = explained(member, data) if member.taught_by is not None else data
    paces = _paces(probe, _few(teachable(member, told), STEPS * member.training.batch_size), trials)
    found = [
        Way(threads=way.threads, slots=min(cores // way.threads, most), pace=pace)
        for way, pace in zip(trials, paces, strict=True)
    ]
    return sorted(found, key=lambda way: way.seconds(members))


_ENDLESS = {"epochs": 1_000_000, "patience": None, "schedule": "constant", "learning_rate": 1e-9}
"""A training that neither ends nor diverges."""


def _few(data: Data, count: int) -> Data:
    """The set with so many of its training samples, and nothing else."""
    rows = data.train.index[:count]
    arrays = {name: values[rows] for name, values in vars(data.train).items() if values is not None and name != "index"}
    train = Part(index=np.arange(len(rows)), **arrays)
    none = replace(train, index=np.arange(0))
    return replace(data, train=train, validation=none, evaluation=none)


def _paces(member: Member, data: Data, trials: Sequence[Way]) -> list[float]:
    """Samples per second of one slot, for each way: the median of its turns, the mean over its slots."""
    context = multiprocessing.get_context("spawn")
    count = max(way.slots for way in trials)
    barrier, results = context.Barrier(count), context.SimpleQueue()
    processes = [
        context.Process(target=_take_turns, args=(number, member, data, trials, barrier, results), daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    try:
        left = list(processes)
        while left:
            wait([process.sentinel for process in left])
            left = [process for process in left if process.is_alive()]
            if any(process.exitcode for process in processes):
                raise RuntimeError("a process that measured how fast a member trains failed; set training.threads")
        turns = np.stack([results.get() for _ in processes])  # (processes, ways, rounds), NaN where one waited
    finally:
        for process in processes:
            process.kill()
    return np.median(np.nanmean(turns, axis=0), axis=1).tolist()


def _take_turns(number: int, member: Member, data: Data, trials: Sequence[Way], barrier: Barrier, results: Any) -> None:
    """One process: where a way has more slots than its number it trains, else it waits."""
    seconds = SECONDS / len(trials) / ROUNDS
    trainings = [fit(member, data) for _ in trials]
    turns = np.full((len(trials), ROUNDS), np.nan)

    def take(place: int, at_least: float) -> float:
        barrier.wait()
        way = trials[place]
        return _pace(trainings[place], len(data.train), way.threads, at_least) if number < way.slots else math.nan

    for place in range(len(trials)):
        take(place, 0.0)  # builds the network, and warms up
    for turn in range(ROUNDS):
        turns[:, turn] = [take(place, seconds) for place in range(len(trials))]
    results.put(turns)


def _pace(training: Iterator[Epoch], samples: int, threads: int, seconds: float) -> float:
    """Samples per second by so many threads, over whole epochs of so many samples."""
    pin(threads)
    epochs, started = 0, time.perf_counter()
    while epochs == 0 or time.perf_counter() - started < seconds:
        next(training)
        epochs += 1
    return epochs * samples / (time.perf_counter() - started)
