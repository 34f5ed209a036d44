"""G8: 10,000 members x 20 shards, with workers that make nothing: what the driver itself costs.

`python -m tests.benchmarks g8`, some 10 minutes; `--quick`: 1,000 members, 2 minutes, no goal.

- Explaining is driven as `jobs.explain` does it, through Ray Data's actors, manifests and indexes included, but an item
  is answered at once: at least 500 items a second, in ten stretches of the run, and the driver grows by at most 150 MB.
- A finished run is looked through at its next start in at most 5 s: every member's record and weights, every shard and
  every file of logits, by size and time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

from cluster import explain as explaining
from cluster import start
from jobs import stages
from jobs.prepare import Plan
from jobs.progress import Progress
from salcore import inventory, member_files
from salcore.data import Data, load
from salcore.explain import Item, Made, maps_fingerprints, predictions_marks
from salcore.layout import logits_folder, maps_folder, member_file, member_folder, part_file, ranges
from salcore.members import Member, plan, recipe
from salcore.shards import Entry
from salcore.spec import Spec, from_dict
from salcore.storage import Store
from salcore.work import range_digest
from tests.benchmarks import harness

MEMBERS, SHARDS, ROWS = 10_000, 20, 17
METHOD = "gradient"
STRETCHES = 10


def spec(members: int) -> Spec:
    """Twenty ranges of samples, explained by one method."""
    return from_dict(
        {
            "data": {"name": "digits", "eval_samples": SHARDS * ROWS},
            "ensemble": {"members": members},
            "attribution": {"shard_samples": ROWS, "methods": [METHOD]},
        }
    )


class Pretended:
    """Answers an item with small files in the place of a shard and of logits."""

    def __init__(self, spec: Spec, data: Data, members: Sequence[Member], store: Store) -> None:
        (self._method,) = spec.attribution.methods
        self._spec, self._members, self._store = spec, members, store
        parts = ranges(len(data.evaluation), spec.attribution.shard_samples)
        self._digests = {part: range_digest(data, part) for part in parts}

    def explain(self, item: Item) -> list[Made]:
        """A shard and a file of logits."""
        member, path = self._members[item.member], part_file(item.range.part)
        digest = self._digests[item.range]
        maps = maps_fingerprints(member, self._method, self._spec, self._members)(digest)
        shard = self._entry(maps_folder(METHOD, item.member), path, maps)
        logits = self._entry(logits_folder(item.member), path, predictions_marks(member)(digest))
        made = Made(member=item.member, method=None, entry=logits)
        return [made, Made(member=item.member, method=METHOD, entry=shard)]

    def _entry(self, folder: str, path: str, mark: str) -> Entry:
        assert self._store.local is not None
        file = self._store.local / folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"a shard")
        info = self._store.info(f"{folder}/{path}")
        assert info is not None
        return Entry(path=path, rows=ROWS, bytes=info.size, sha256="0" * 64, mtime_ns=info.mtime_ns, fingerprint=mark)


def train(store: Store, members: Sequence[Member]) -> None:
    """Records of trained members, and small files in the place of their weights."""
    folder = store.local
    assert folder is not None
    for member in members:
        (folder / member_folder(member.index)).mkdir(parents=True)
        (folder / member_file(member.index, member_files.WEIGHTS)).write_bytes(b"weights")
        record = {"index": member.index, "fingerprint": member.fingerprint, "weights_bytes": len(b"weights")}
        store.write_json(member_file(member.index, member_files.RECORD), record)


def drive(plan: Plan) -> tuple[list[float], float]:
    """Items a second in ten stretches of the run, and by how many bytes the driver grew at most."""
    session = stages.Session(plan=plan, progress=Progress())
    session.room(2)
    session.data()
    members, store, asked, data = plan.trained(), plan.store, plan.spec, plan.data
    explaining._start = lambda *_: Pretended(asked, data, members, store).explain  # type: ignore[assignment]
    process, times, most = psutil.Process(), [], 0
    before = process.memory_info().rss
    enter = inventory.Inventory.enter

    def watched(found: inventory.Inventory, made: list[Made]) -> None:
        nonlocal most
        enter(found, made)
        times.append(time.perf_counter())
        if len(times) % 1000 == 0:
            most = max(most, process.memory_info().rss - before)

    inventory.Inventory.enter = watched  # type: ignore[method-assign, assignment]
    found = stages.explain_members(session)
    inventory.Inventory.enter = enter  # type: ignore[method-assign]
    most = max(most, process.memory_info().rss - before)
    assert len(times) == found.shards_missing == len(plan.members) * SHARDS
    marks = [times[len(times) * stretch // STRETCHES - (stretch == STRETCHES)] for stretch in range(STRETCHES + 1)]
    lengths = [later - earlier for earlier, later in pairwise(marks)]
    return [len(times) / STRETCHES / length for length in lengths], most


def look(plan: Plan) -> float:
    """Seconds of what a command does first on a run that is finished."""
    member_files._READ.clear()
    began = time.perf_counter()
    found = inventory.take(plan.store, plan.spec, plan.data, plan.trained())
    took = time.perf_counter() - began
    assert not found.missing
    assert not found.problems
    return took


def rows(members: int, folder: Path, *, goals: bool) -> Iterator[harness.Row]:
    """Measure everything once for so many members."""
    asked, store = spec(members), Store(folder / "run")
    data = load(asked.data)
    planned = plan(asked, data.digest)
    whole = Plan(spec=asked, store=store, data=data, members=planned, fingerprint=recipe(asked, data.digest))
    train(store, planned)
    start.start()
    try:
        rates, grown = drive(whole)
    finally:
        start.stop()
    detail = f"{members} members x {SHARDS} shards, workers that make nothing"
    goal: dict[str, Any] = {"at_least": 500} if goals else {}
    yield harness.measured("G8 work items driven", rates, unit="items/s", detail=detail, **goal)
    goal = {"at_most": 150} if goals else {}
    yield harness.measured("G8 driver's growth", [grown / 1e6], unit="MB", detail=detail, **goal)
    goal = {"at_most": 5} if goals else {}
    detail = f"{members} records, {members * SHARDS} shards and as many files of logits, by size and time"
    yield harness.measured("G8 resume scan", [look(whole) for _ in range(7)], unit="s", detail=detail, **goal)


def measured(quick: bool) -> Iterator[harness.Row]:
    """All rows, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="g8-") as folder:
        yield from rows(1000 if quick else MEMBERS, Path(folder), goals=not quick)


if __name__ == "__main__":
    harness.command(__doc__, "1,000 members", measured)
