"""G7: what Ray adds to the training of 8 members of about 5 s in 2 slots, over pinned multiprocessing.

`python -m tests.benchmarks g7`, 2 cores, about 20 minutes; `--quick`: members of 4 s and 3 repeats, 3 minutes, no goal.

- From the first member's start to the last one's end, `cluster.train` takes at most 5 % longer than two processes of
  one thread each that do the same `train_member` work.
- Start-up is a row of its own: from no Ray at all to the first member's start, at most 25 s.

Both are read from what members leave: a member ends when its record is written, and starts the time of its epochs
earlier. So what lies between members counts, and the start of slots does not. Ray is started anew for every
repeat and stopped before the other side runs. Both sides' weights must be the same bits.

The goal is for members of 15 s. Those here are shorter, so hand-over weighs three times as much, and there are 21
repeats: a machine that others share is faster or slower by a third for ten seconds and more at a time. For the same
reason members take their time by the number of their images, 8 x 8, and not by the size of their network: what a wide
one moves through memory and to disk varies the most.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: one thread per process

import numpy as np

from cluster import start, train
from cluster.source import Source
from salcore.data import Data, load
from salcore.device import pin
from salcore.layout import member_file
from salcore.member_files import RECORD, Outcome, read_record, train_member
from salcore.members import Member, plan
from salcore.spec import Spec, from_dict
from salcore.storage import Store
from salcore.training import fit
from tests.benchmarks import harness

MEMBERS, SLOTS, EPOCHS = 8, 2, 5
MEMBER_S, REPEATS = 5.0, 21
CLASSES, SHAPE, PILOT = 10, (1, 8, 8), 10_000
_held: list[Data] = []


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds from the call to the first member's start, and from there to the last member's end."""

    startup: float
    work: float


def spec(images: int, folder: Path) -> Spec:
    """Members that are trained on so many random images, which are put into the folder."""
    draws, arrays = np.random.default_rng(0), {}
    for part, size in (("train", images), ("test", CLASSES)):
        arrays[f"x_{part}"] = draws.integers(0, 256, (size, *SHAPE), np.uint8)
        arrays[f"y_{part}"] = np.arange(size) % CLASSES
    path = folder / f"{images}.npz"
    np.savez(path, **arrays)
    return from_dict(
        {
            "data": {"name": f"npz:{path}", "validation_fraction": 0.0},
            "model": {"name": "small_cnn", "width": 64, "depth": 3},
            "ensemble": {"members": MEMBERS},
            "training": {"epochs": EPOCHS},
        }
    )


def sized(seconds: float, folder: Path) -> Spec:
    """The spec whose member takes about so long here, by the time of a shorter one."""
    return spec(round(PILOT * seconds / _member_seconds(spec(PILOT, folder))), folder)


def with_ray(spec: Spec, data: Data, members: Sequence[Member], folder: Path) -> Timing:
    """`cluster.train` as the main job calls it, from a start of Ray to its end."""
    began, store = time.time(), Store(str(folder / "run"))
    start.start()
    try:
        room = start.room(spec.cluster, spec.training.pinned, len(members), start.nodes())
        assert room == start.Room(slots=SLOTS, cpus=1, gpus=0.0), f"this needs {SLOTS} cores and no GPU, got {room}"
        run = train.Run(store=store, data=Source.of(data, spec.data), members=members)
        for _ in train.train([run], room, name=folder.name, attempts=1, scratch=str(folder / "scratch")):
            pass
    finally:
        start.stop()
    return _timing(store, members, began)


def with_processes(
    spec: Spec, data: Data, members: Sequence[Member], folder: Path, *, processes: int = SLOTS, threads: int = 1
) -> Timing:
    """The same work by a pool of processes that take one member after the other."""
    began, path = time.time(), str(folder / "run")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_hold, initargs=(data, threads)) as pool:
        outcomes = list(pool.map(_train, members, [path] * len(members)))
    assert all(outcome.reason is None for outcome in outcomes), outcomes
    return _timing(Store(path), members, began)


def _hold(data: Data, threads: int = 1) -> None:
    pin(threads)
    _held.append(data)


def _train(member: Member, folder: str) -> Outcome:
    return train_member(member, _held[0], Store(folder))


def _timing(store: Store, members: Sequence[Member], began: float) -> Timing:
    ends, starts = [], []
    for member in members:
        record = store.info(member_file(member.index, RECORD))
        assert record is not None, f"member {member.index} was not trained"
        rows = store.read_parquet(member_file(member.index, "history.parquet"))
        ends.append(record.mtime_ns / 1e9)
        starts.append(ends[-1] - sum(rows.column("seconds").to_pylist()))
    return Timing(startup=min(starts) - began, work=max(ends) - min(starts))


def _member_seconds(spec: Spec) -> float:
    """Time of a member while another one like it trains beside it, as in the slots."""
    data = load(spec.data)
    members = plan(spec, data.digest)[:SLOTS]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(SLOTS, mp_context=context, initializer=_hold, initargs=(data,)) as pool:
        return max(pool.map(_fit_seconds, members))


def _fit_seconds(member: Member) -> float:
    return harness.seconds(lambda: list(fit(member, _held[0])))


def weights(folder: Path, members: Sequence[Member]) -> list[str]:
    """Checksums of the members' weights."""
    records = [read_record(Store(str(folder / "run")), member.index) for member in members]
    return [record["weights_sha256"] for record in records if record]


def measure(seconds: float, repeats: int) -> tuple[list[Timing], list[Timing], str]:
    """Both sides, interleaved (A B B A ...), after their weights were found to be the same bits."""
    sides: tuple[tuple[Callable[..., Timing], list[Timing]], ...] = ((with_ray, []), (with_processes, []))
    with tempfile.TemporaryDirectory(prefix="g7-") as images:
        chosen = sized(seconds, Path(images))
        data = load(chosen.data)
    members = plan(chosen, data.digest)
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory(prefix="g7-") as scratch:
            for work, times in sides if repeat % 2 == 0 else reversed(sides):
                folder = Path(scratch) / work.__name__
                folder.mkdir()
                times.append(work(chosen, data, members, folder))
            found = [weights(Path(scratch) / work.__name__, members) for work, _ in sides]
            assert found[0] == found[1], "the two sides trained different networks"
        print(json.dumps({work.__name__: vars(times[-1]) for work, times in sides}), flush=True)
    ours, theirs = (times for _, times in sides)
    each = float(np.median([timing.work for timing in theirs])) * SLOTS / MEMBERS
    return ours, theirs, f"{MEMBERS} members of {each:.3g} s, {EPOCHS} epochs, {SLOTS} slots, {repeats} repeats"


def rows(*, quick: bool) -> Iterator[harness.Row]:
    """The overhead and the start-up."""
    ours, theirs, detail = measure(4.0, 3) if quick else measure(MEMBER_S, REPEATS)
    works = [[timing.work for timing in side] for side in (ours, theirs)]
    yield harness.measured(
        "G7 orchestration overhead",
        100 * (np.divide(*works) - 1),
        unit="%",
        at_most=None if quick else 5,
        detail=f"{detail}; {np.median(works[0]):.3g} s against {np.median(works[1]):.3g} s",
    )
    yield harness.measured(
        "G7 start-up",
        [timing.startup for timing in ours],
        unit="s",
        at_most=None if quick else 25,
        detail=f"Ray and its slots; processes: {np.median([timing.startup for timing in theirs]):.3g} s",
    )


if __name__ == "__main__":
    harness.command(__doc__, "members of 4 s, 3 repeats", lambda quick: rows(quick=quick))
