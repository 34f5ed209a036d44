"""From the members' map shards of one sample range to its statistics: two passes over blocks of samples.

Blocks of samples are outside and members inside, so the state is one block's, whatever the number of members. A
sample's statistics are the same bits however samples are cut into blocks and ranges; so a block in which some maps are
not finite is cut once more, into stretches of samples with the same finite members, and each is reduced over those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from salcore import shards, statistics
from salcore.finite import finite_rows, stretches
from salcore.passes import CURVES, MAPS, SUMS, add, empty_columns, first_pass, mark, second_pass

VERSION = 3
"""Of what statistics hold and how they are computed, kept with them: those of another version are made again."""
OPEN_SHARDS = 256
"""Shards kept open at a time: well below the usual limit of open files."""


class Maps(Protocol):
    """What the reducer needs of one member's shard; `salcore.shards.Shard` is one."""

    @property
    def rows(self) -> int:
        """Number of samples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one map."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns other than the map."""

    def column(self, name: str) -> np.ndarray:
        """Values `(rows,)` of a column."""

    def maps(self, start: int, stop: int) -> np.ndarray:
        """Maps `(stop - start, *shape)` float32 of a range of rows."""


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Statistics of one method over one range of samples.

    `stats`, one row per sample: sample, label, target (-1 where members explain different classes), count, length (of
    padded sequences), mean, variance, snr, signal2, noise2, snr_scale_free, and mean_norm and sigma_norm after the
    first m members for each m of `metadata["grid"]`; the likenesses of `salcore.likeness`; the mask `significant` of
    `salcore.significance` (1 where a pixel differs from zero beyond training noise), the number of hypotheses `tested`
    and the share of all pixels that are marked, significant_share; snr_debiased and snr_at_30, and the 95 % jackknife
    intervals over members of these two and of the snr (`_low`, `_high`). All are over the `count` members whose map of
    the sample is finite, and NaN (masks and counts 0) where those are too few: none for the mean, fewer than 3 for the
    intervals, 2 for the rest.

    `members`, one row per member: sums over the samples of what the ensemble without it gives (snr, over `snr_samples`
    of them; signal2; noise2), of the cosine and the SSIM of its map to the mean map of the others (over `samples` of
    them); its lowest value and largest completeness residual, of the finite ones, NaN where the method promises none;
    and how many of its maps are `non_finite`. With F_n the members whose map of sample n is finite, and theta(F) what
    members F give, the sums without member i are of

        theta(F_n - {i})        theta(F_n) itself where i is not in F_n; nothing where it is undefined
    """

    stats: pa.Table
    members: pa.Table
    metadata: dict[str, Any]


def reduce_range(
    sources: Sequence[Maps | Callable[[], Maps]],
    *,
    members: Sequence[int],
    inputs_digest: str,
    metadata: Mapping[str, Any] | None = None,
    block_rows: int | None = None,
) -> Reduced:
    """Statistics over members, in the order given, of the maps of one sample range.

    `sources` are the members' shards of that range, or functions that open them: then 256 are open at a time.
    `members` are their indices. `metadata` (the method among it) and `inputs_digest` are kept with the result. Raises
    ValueError when shards hold different samples, labels or shapes.
    """
    if len(sources) != len(members) or not sources:
        raise ValueError(f"`members`: expected one index for each of 1 or more sources, got {len(members)}")
    opened = lru_cache(OPEN_SHARDS)(lambda index: _open(sources[index]))
    columns = _check(opened, members)
    rows, shape, count = opened(0).rows, opened(0).shape, len(members)
    lengths = columns.get("length", np.full(rows, shape[-1]))

    def read(start: int, stop: int, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        return (opened(index).maps(start, stop) for index in chosen)

    tally = _Tally(read, count, lengths, shape)
    step = block_rows or shards.block_rows(shape)
    for start in range(0, rows, step):
        tally.reduce(start, min(start + step, rows))
    about = {
        **(metadata or {}),
        "version": VERSION,
        "members": list(map(int, members)),
        "grid": list(tally.grid),
        "inputs": inputs_digest,
    }
    residuals = np.array([_residual(opened(index)) for index in range(count)])  # known once the maps were read
    return Reduced(stats=tally.stats(columns), members=tally.members(members, residuals), metadata=about)


class _Tally:
    """What a sample range comes to, block by block: columns with a row per sample, sums with a row per member.

    `read` gives the maps of a range of rows, one block per member of a choice. `lengths` `(rows,)` of the last axis of
    a sample's maps count, and what is beyond is padding: it enters no statistic, and the columns have 0 there.
    """

    def __init__(
        self,
        read: Callable[[int, int, Sequence[int]], Iterator[np.ndarray]],
        members: int,
        lengths: np.ndarray,
        shape: tuple[int, ...],
    ) -> None:
        self.grid = statistics.convergence_grid(members)
        self._read_whole, self._everyone, self._lengths = read, range(members), lengths
        self._out = empty_columns(len(lengths), shape, len(self.grid))
        for name in MAPS:
            self._out[name][lengths < shape[-1]] = 0
        self._count = np.full(len(lengths), members, np.int32)
        self._sums, self._lowest = np.zeros((members, len(SUMS))), np.full(members, np.inf)
        self._non_finite = np.zeros(members, np.int64)

    def reduce(self, start: int, stop: int) -> None:
        """Reduce a block of samples, those of one length at a time."""
        lengths = self._lengths[start:stop]
        ends = np.append(np.flatnonzero(np.diff(lengths)) + 1, len(lengths))
        for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            self._reduce(start + first, start + end)

    def _reduce(self, start: int, stop: int) -> None:
        out = self._columns(start, stop)
        moments = first_pass(lambda: self._read(start, stop, self._everyone), self.grid, out)
        if np.isfinite(out["mean_norm"][:, -1]).all():  # NaN or infinity in any map would have come through to it
            mark(moments, out)
            mean = np.asarray(moments.mean)
            second_pass(self._read(start, stop, self._everyone), mean, out, self._sums, self._lowest)
            return
        finite = np.stack([finite_rows(maps) for maps in self._read(start, stop, self._everyone)])
        for first, end in stretches(finite):
            self._reduce_over(finite[:, first], start + first, start + end)

    def _reduce_over(self, there: np.ndarray, start: int, stop: int) -> None:
        """Reduce a stretch of samples over the members that are `there`, `(M,)`."""
        chosen, rows = np.flatnonzero(there).tolist(), stop - start
        out = self._columns(start, stop)
        self._count[start:stop] = len(chosen)
        self._non_finite += rows * ~there
        if not chosen:
            for column in out.values():
                column[:] = np.nan if column.dtype.kind == "f" else 0
            return
        reached = np.cumsum(there)[np.array(self.grid) - 1]  # those there among the first m members
        points = np.unique(reached[reached > 0])
        part = empty_columns(rows, out["mean"].shape[1:], len(points))
        moments = first_pass(lambda: self._read(start, stop, chosen), points.tolist(), part)
        mark(moments, part)
        sums, lowest = self._sums[chosen], self._lowest[chosen]
        second_pass(self._read(start, stop, chosen), np.asarray(moments.mean), part, sums, lowest)
        self._sums[chosen], self._lowest[chosen] = sums, lowest
        unchanged = {**part, "cosine": np.full(rows, np.nan), "ssim": np.full(rows, np.nan)}
        for absent in np.flatnonzero(~there).tolist():
            add(self._sums[absent], unchanged)
        for name in CURVES:
            part[name] = np.where(reached > 0, part[name][:, np.searchsorted(points, reached)], np.nan)
        for name, column in out.items():
            column[:] = part[name]

    def _read(self, start: int, stop: int, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """The members' maps of samples of one length, without padding."""
        length = int(self._lengths[start])
        whole = self._read_whole(start, stop, chosen)
        return (np.ascontiguousarray(maps[..., :length]) for maps in whole)

    def _columns(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The columns of samples of one length, those of maps without padding."""
        length = int(self._lengths[start])
        return {
            name: column[start:stop, ..., :length] if name in MAPS else column[start:stop]
            for name, column in self._out.items()
        }

    def stats(self, columns: Mapping[str, np.ndarray]) -> pa.Table:
        """The table of samples, their own columns first."""
        arrays: dict[str, pa.Array] = {
            "sample": pa.array(columns["sample"], pa.int64()),
            "label": pa.array(columns["label"], pa.int32()),
            "target": pa.array(columns["target"], pa.int32()),
            "count": pa.array(self._count),
        }
        if "length" in columns:
            arrays["length"] = pa.array(columns["length"], pa.int32())
        for name, values in self._out.items():
            if name in MAPS:
                arrays[name] = shards.tensors(values, pa.from_numpy_dtype(values.dtype))
            elif name in CURVES:
                arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            else:
                arrays[name] = pa.array(values)
        return pa.table(arrays)

    def members(self, members: Sequence[int], residuals: np.ndarray) -> pa.Table:
        """The table of members."""
        table = {"member": np.asarray(members, np.int64)} | dict(zip(SUMS, self._sums.T.copy(), strict=True))
        table["samples"] = table["samples"].astype(np.int64)
        return pa.table(table | {"lowest": self._lowest, "residual_max": residuals, "non_finite": self._non_finite})


def _open(source: Maps | Callable[[], Maps]) -> Maps:
    return source() if callable(source) else source


def _check(opened: Callable[[int], Maps], members: Sequence[int]) -> dict[str, np.ndarray]:
    """Sample, label, target (and length) of the range. Raises ValueError if members disagree."""
    same = [name for name in ("sample", "label", "length") if name in opened(0).columns]
    columns = {name: opened(0).column(name) for name in (*same, "target")}
    for index, member in enumerate(members):
        shard = opened(index)
        if shard.shape != opened(0).shape:
            raise ValueError(f"`sources`: expected maps {opened(0).shape} of member {member}, got {shard.shape}")
        for name in same:
            if not np.array_equal(shard.column(name), columns[name]):
                raise ValueError(
                    f"`sources`: expected the {name}s of member {members[0]}, got others of member {member}"
                )
        columns["target"] = np.where(shard.column("target") == columns["target"], columns["target"], -1)
    return columns


def _residual(shard: Maps) -> float:
    """The largest completeness residual of a member's finite ones; NaN where the method promises none."""
    if "residual" not in shard.columns:
        return np.nan
    residual = np.abs(shard.column("residual"))
    return float(np.fmax.reduce(residual[np.isfinite(residual)], initial=np.nan))
