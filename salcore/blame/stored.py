"""The filter profiles of one member on one split, read from their shards: never all of them at once."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from salcore import manifests, shards
from salcore.blame.marks import Marks
from salcore.layout import Range, part_file, profile_statistics_file, profiles_folder
from salcore.members import Member
from salcore.moments import Moments
from salcore.parameter_space import FilterTable, Layer, ProfileStatistics
from salcore.storage import Store

BLOCK_BYTES = 1 << 26
"""Of profiles that are in memory at a time."""


class Profiles:
    """The profiles (N, P) of the N samples of a split, in its order, with `sample`, `label` and `prediction` (N,).

    With `marks`, those of their spec: raises ValueError for shards of another one. Without, those of the manifest.
    Raises FileNotFoundError where there are none, or one is missing, and CorruptShard for a damaged one.
    """

    def __init__(self, store: Store, split: str, member: int, marks: Marks | None = None) -> None:
        folder = profiles_folder(split, member)
        parts = None if marks is None else marks.ranges[split]
        paths = sorted(manifests.read(store, folder)) if parts is None else [part_file(p.part) for p in parts]
        names = [f"{folder}/{path}" for path in paths]
        if not names or not all(store.exists(name) for name in names):
            raise FileNotFoundError(f"{store.path(folder)} lacks profiles: make them with python -m jobs.parameters")
        self._shards = [shards.read(store, name) for name in names]
        if marks is not None and parts is not None:
            self._require(marks, split, member, parts)
        self._starts = [0, *accumulate(shard.rows for shard in self._shards)]
        columns = {
            name: np.concatenate([shard.column(name) for shard in self._shards])
            for name in ("sample", "label", "prediction")
        }
        self.sample, self.label, self.prediction = columns.values()

    def _require(self, marks: Marks, split: str, member: int, parts: Sequence[Range]) -> None:
        """Raise ValueError for shards of another spec: their numbers of filters and samples may even be the same."""
        for part, shard in zip(parts, self._shards, strict=True):
            if shard.metadata["fingerprint"] != marks.profiles(member, split, part):
                raise ValueError(
                    f"the profiles of member {member} on the {split} samples are of another spec: python -m "
                    "jobs.parameters makes them anew"
                )

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def table(self) -> FilterTable:
        """The filters that the columns are of."""
        return table_of(self._shards[0])

    @property
    def wrong(self) -> np.ndarray:
        """Which samples are misclassified, (N,)."""
        return self.prediction != self.label

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All profiles (n, P) in order, some at a time, with their places among the N."""
        for first, shard in zip(self._starts, self._shards, strict=False):
            step = max(1, BLOCK_BYTES // (4 * shard.shape[0]))
            for start in range(0, shard.rows, step):
                stop = min(start + step, shard.rows)
                yield slice(first + start, first + stop), shard.maps(start, stop)

    def rows(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """The profiles of some samples, (n, P), by their places among the N."""
        found = np.empty((len(places), *self._shards[0].shape), np.float32)
        wanted = np.asarray(places)
        order = np.argsort(wanted, kind="stable")  # a shard that is not memory-mapped then reads each batch once
        for first, shard in zip(self._starts, self._shards, strict=False):
            for row in order[(first <= wanted[order]) & (wanted[order] < first + shard.rows)]:
                place = int(wanted[row]) - first
                found[row] = shard.maps(place, place + 1)[0]
        return found


def statistics_over(profiles: Profiles) -> ProfileStatistics:
    """Mean and deviation over all samples, summed up in float64."""
    moments = Moments.empty((len(profiles.table),))
    for _, block in profiles.blocks():
        moments = moments.merge(Moments.from_batch(block))
    return ProfileStatistics.of(moments, profiles.table)


def read_statistics(store: Store, member: int, mark: str | None = None) -> ProfileStatistics | None:
    """A member's statistics from their file; None if there are none, or they do not carry `mark`."""
    name = profile_statistics_file(member)
    if not store.exists(name):
        return None
    try:
        statistics, head = ProfileStatistics.decode(store.open(name))
    except ValueError:
        return None
    return statistics if mark in (None, head.get("fingerprint")) else None


def table_of(shard: shards.Shard) -> FilterTable:
    """The filters that a shard of profiles is of."""
    layers = shard.metadata["settings"]["layers"]
    return FilterTable(layers=tuple(Layer(**{**layer, "shape": tuple(layer["shape"])}) for layer in layers))


def statistics_of(store: Store, marks: Marks, member: Member) -> ProfileStatistics:
    """A member's statistics over the held-out split: read if they are there, else computed from its shards and written.

    Raises FileNotFoundError where there are no profiles yet, ValueError where they are of another spec.
    """
    mark = marks.statistics(member.index)
    found = read_statistics(store, member.index, mark)
    if found is None:
        found = statistics_over(Profiles(store, marks.parameters.held_out, member.index, marks))
        store.write(profile_statistics_file(member.index), found.encode({"fingerprint": mark}))
    return found
