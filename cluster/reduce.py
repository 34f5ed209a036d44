"""Reducing by method and range of samples, on Ray where it takes long; results go to storage, not through the driver.

A worker that only reduces starts without torch, in a second instead of three.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from salcore import shards
from salcore.layout import maps_folder, stats_folder
from salcore.reduce import VERSION, reduce_range
from salcore.storage import Store
from salcore.summary import read_stats, write_stats

START_S = 2.0
"""A worker takes so long to start: what is reduced by then is reduced by the driver."""
SMALL = 64 << 20
"""Bytes of a range's maps that the driver may reduce: its memory and time are for other things."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One file of statistics to make: which method and range, from which members' shards, of so many `bytes` in all.

    `inputs` is a digest of those shards' hashes: a file that carries another one, or another version of the statistics,
    is out of date.
    """

    method: str
    path: str
    members: tuple[int, ...]
    inputs: str
    bytes: int
    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The file of statistics."""
        return f"{stats_folder(self.method)}/{self.path}"

    def done(self, store: Store) -> bool:
        """Whether the file is there, comes from exactly these shards and holds what this version computes of them."""
        try:
            about = read_stats(store, self.name).metadata
        except (FileNotFoundError, shards.CorruptShard):
            return False
        return about.get("version") == VERSION and about["inputs"] == self.inputs

    def do(self, store: Store) -> None:
        """Reduce the range's shards and write its statistics."""
        names = [f"{maps_folder(self.method, member)}/{self.path}" for member in self.members]
        reduced = reduce_range(
            [partial(shards.read, store, name) for name in names],
            members=self.members,
            inputs_digest=self.inputs,
            metadata=self.metadata,
        )
        write_stats(store, self.name, reduced)


def reduce(work: Sequence[Work], store: Store, connect: Callable[[], None]) -> Iterator[Work]:
    """Do all the work; yields each range when it is done.

    The driver begins with what is small. What it has not done within `START_S` is done by tasks, as many at a time as
    there are cores; before the first one `connect` joins the cluster.
    """
    waiting, over = deque(work), time.monotonic() + START_S
    while waiting and waiting[0].bytes <= SMALL and time.monotonic() < over:
        waiting[0].do(store)
        yield waiting.popleft()
    if not waiting:
        return
    connect()
    pending = {_reduce.options(name=f"reduce {each.name}").remote(each, store): each for each in waiting}
    while pending:
        [done], _ = ray.wait(list(pending), num_returns=1)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # whose message is the remote traceback
        yield pending.pop(done)


@ray.remote(num_cpus=1, max_retries=-1)
def _reduce(work: Work, store: Store) -> None:
    work.do(store)
