"""From the members' map shards of one sample range to its statistics: two passes over blocks of samples.

Blocks of samples are outside and members inside, so the state is one block's, whatever the number of members. Only
single rounded operations act on the maps, and a sample's sums run over its own pixels in one order: its statistics are
the same bits however samples are cut into blocks and ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from salcore import shards, statistics
from salcore.moments import Moments
from salcore.similarity import ssim_map

GROUP = 16
"""Members whose deviations are summed in float32 before they are merged into float64."""
OPEN_SHARDS = 256
"""Shards kept open at a time: well below the usual limit of open files."""
SUMS = ("snr", "snr_samples", "signal2", "noise2", "cosine", "ssim")


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

    `stats`, one row per sample: sample, label, target (-1 where members explain different classes), count, mean,
    variance, snr, signal2, noise2, ssim_to_mean, snr_scale_free, and mean_norm and sigma_norm after the first m members
    for each m of `metadata["grid"]`.

    `members`, one row per member: sums over the samples of what the ensemble without it gives (snr, over `snr_samples`
    of them; signal2; noise2), of the cosine and the SSIM of its map to the mean map of the others; its lowest map
    value; its largest completeness residual, NaN where the method promises none.
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
    columns, residuals = _check(opened, members)
    rows, shape, count = opened(0).rows, opened(0).shape, len(members)
    grid = statistics.convergence_grid(count)
    out = empty_columns(rows, shape, len(grid))
    sums, lowest = np.zeros((count, len(SUMS))), np.full(count, np.inf)
    step = block_rows or shards.block_rows(shape)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = {name: column[start:stop] for name, column in out.items()}

        def maps(start: int = start, stop: int = stop) -> Iterator[np.ndarray]:
            return (opened(index).maps(start, stop) for index in range(count))

        mean = first_pass(maps(), grid, block)
        second_pass(maps(), mean, block, sums, lowest)
    table = {"member": np.asarray(members, np.int64), "samples": np.full(count, rows)}
    table |= dict(zip(SUMS, sums.T.copy(), strict=True)) | {"lowest": lowest, "residual_max": residuals}
    about = {**(metadata or {}), "members": list(map(int, members)), "grid": list(grid), "inputs": inputs_digest}
    return Reduced(stats=_stats(columns, out, count), members=pa.table(table), metadata=about)


def prefix_moments(maps: Iterable[np.ndarray], at: Collection[int]) -> Iterator[Moments]:
    """Moments over members, in order, of the first m maps for each m in `at`: float32 in, float64 out.

    Deviations from the first map of each 16 are summed in float32, so nothing large cancels and few roundings add up;
    the groups are merged in float64 (Chan et al., 1983), so the error does not grow with the number of maps.
    """
    done: Moments | None = None
    for count, x in enumerate(maps, 1):
        size = (count - 1) % GROUP + 1
        if count == 1:
            total, squares, deviation = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        if size == 1:
            first = x
        elif size == 2:
            np.subtract(x, first, out=total)
            np.square(total, out=squares)
        else:
            np.subtract(x, first, out=deviation)
            np.add(total, deviation, out=total)
            np.square(deviation, out=deviation)
            np.add(squares, deviation, out=squares)
        if size == GROUP or count in at:
            moments = _group_moments(first, total, squares, size)
            moments = moments if done is None else done.merge(moments)
            if count in at:
                yield moments
            if size == GROUP:
                done = moments


def first_pass(maps: Iterable[np.ndarray], grid: Sequence[int], out: Mapping[str, np.ndarray]) -> np.ndarray:
    """Fill mean, variance, snr, signal2, noise2 and the norms along `grid`, which ends at M; return the float64 mean.

    `maps` are the members' blocks `(n, ...)` float32, `out` the columns of these n samples.
    """
    for position, moments in enumerate(prefix_moments(maps, grid)):
        mean, freedom = np.asarray(moments.mean), moments.count - 1 if moments.count > 1 else np.nan
        mean2, noise2 = _row_sums(mean, mean), _row_sums(np.asarray(moments.m2)) / freedom
        out["mean_norm"][:, position], out["sigma_norm"][:, position] = np.sqrt(mean2), np.sqrt(noise2)
    out["mean"][:] = mean
    np.divide(moments.m2, freedom, out=out["variance"], casting="same_kind")
    out["snr"][:], out["noise2"][:] = statistics.snr(mean2, noise2), noise2
    out["signal2"][:] = statistics.signal2(mean2, noise2, moments.count)
    return mean


def second_pass(
    maps: Iterable[np.ndarray],
    mean: np.ndarray,
    out: Mapping[str, np.ndarray],
    sums: np.ndarray,
    lowest: np.ndarray,
) -> None:
    """Compare each member's block with the mean map of the others.

    Fills ssim_to_mean and snr_scale_free in `out`, adds to the rows of `sums` `(M, len(SUMS))`, lowers `lowest` `(M,)`.
    """
    members, unit_sum = len(sums), np.zeros_like(mean)
    similarity, units = np.zeros(len(mean)), np.zeros(len(mean))
    for index, x in enumerate(maps):
        deviation = x - mean
        others = mean - deviation / (members - 1 if members > 1 else np.nan)
        own2, others2 = _row_sums(np.square(x, dtype=np.float64)), _row_sums(others, others)
        noise2 = statistics.noise2_without(out["noise2"], _row_sums(deviation, deviation), members)
        ssim = _ssim(x, others)
        values = {
            "snr": statistics.snr(others2, noise2),
            "signal2": statistics.signal2(others2, noise2, members - 1) if members > 1 else np.full(len(x), np.nan),
            "noise2": noise2,
            "cosine": _row_sums(x, others) / np.sqrt(np.where(own2 * others2 == 0, 1, own2 * others2)),
            "ssim": ssim,
        }
        _add(sums[index], values)
        lowest[index] = min(lowest[index], x.min())
        similarity += ssim
        units += own2 > 0
        unit_sum += x / shards.along_rows(np.sqrt(np.where(own2 == 0, 1, own2)), x.ndim)
    out["ssim_to_mean"][:] = similarity / members
    unit2 = _row_sums(unit_sum, unit_sum) / members**2
    # The sum of the squared norms of M maps of unit norm is their number.
    unit_noise2 = np.maximum(units - members * unit2, 0) / (members - 1 if members > 1 else np.nan)
    out["snr_scale_free"][:] = statistics.snr(unit2, unit_noise2)


def empty_columns(rows: int, shape: tuple[int, ...], points: int) -> dict[str, np.ndarray]:
    """Room for the computed columns of `rows` samples and a convergence grid of `points`."""
    maps = {name: np.empty((rows, *shape), np.float32) for name in ("mean", "variance")}
    names = ("snr", "signal2", "noise2", "ssim_to_mean", "snr_scale_free")
    curves = {name: np.empty((rows, points)) for name in ("mean_norm", "sigma_norm")}
    return maps | {name: np.empty(rows) for name in names} | curves


def _group_moments(first: np.ndarray, total: np.ndarray, squares: np.ndarray, size: int) -> Moments:
    """Mean = first + s / n and m2 = q - s^2 / n, from the sums s and q of the deviations from the first map."""
    if size == 1:
        return Moments(1, first.astype(np.float64), np.zeros(first.shape))
    shift = np.divide(total, size, dtype=np.float64)
    mean = first + shift
    np.square(shift, out=shift)
    np.multiply(shift, size, out=shift)
    np.subtract(squares, shift, out=shift)
    return Moments(size, mean, np.maximum(shift, 0, out=shift))


def _row_sums(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Sums of `x`, or of `x * y`, over all axes but the first, each row in the same order whatever their number."""
    product = x if y is None else x * y
    return np.add.reduce(product.reshape(len(product), -1), axis=1)


def _ssim(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """SSIM `(n,)` of maps that are each divided by their own largest magnitude, value range 2; NaN for 1-D maps."""
    if x.ndim not in (3, 4):
        return np.full(len(x), np.nan)
    a, b = (torch.from_numpy(_scaled(side).reshape(len(x), -1, *x.shape[-2:])) for side in (x, others))
    return _row_sums(windows := ssim_map(a, b, value_range=2.0).numpy().astype(np.float64)) / windows[0].size


def _scaled(x: np.ndarray) -> np.ndarray:
    largest = np.abs(x).reshape(len(x), -1).max(axis=1)
    return (x / shards.along_rows(np.where(largest == 0, 1, largest), x.ndim)).astype(np.float32)


def _add(sums: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Add samples one after the other, so that the sum is the same however they are cut into blocks."""
    defined = ~np.isnan(values["snr"])
    columns = {**values, "snr": np.where(defined, values["snr"], 0), "snr_samples": defined}
    steps = np.stack([columns[name] for name in SUMS], axis=1)
    sums[:] = np.add.accumulate(np.concatenate([sums[None], steps]), axis=0)[-1]


def _open(source: Maps | Callable[[], Maps]) -> Maps:
    return source() if callable(source) else source


def _check(opened: Callable[[int], Maps], members: Sequence[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sample, label and target of the range, and each member's largest residual; ValueError if members disagree."""
    columns = {name: opened(0).column(name) for name in ("sample", "label", "target")}
    residuals = np.full(len(members), np.nan)
    for index, member in enumerate(members):
        shard = opened(index)
        if shard.shape != opened(0).shape:
            raise ValueError(f"`sources`: expected maps {opened(0).shape} of member {member}, got {shard.shape}")
        for name in ("sample", "label"):
            if not np.array_equal(shard.column(name), columns[name]):
                raise ValueError(
                    f"`sources`: expected the {name}s of member {members[0]}, got others of member {member}"
                )
        columns["target"] = np.where(shard.column("target") == columns["target"], columns["target"], -1)
        if "residual" in shard.columns:
            residuals[index] = np.abs(shard.column("residual")).max(initial=0)
    return columns, residuals


def _stats(columns: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray], count: int) -> pa.Table:
    arrays: dict[str, pa.Array] = {
        "sample": pa.array(columns["sample"], pa.int64()),
        "label": pa.array(columns["label"], pa.int32()),
        "target": pa.array(columns["target"], pa.int32()),
        "count": pa.array(np.full(len(columns["sample"]), count), pa.int32()),
    }
    for name, values in out.items():
        if name in ("mean", "variance"):
            arrays[name] = shards.tensors(values, pa.float32())
        elif values.ndim == 2:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        else:
            arrays[name] = pa.array(values)
    return pa.table(arrays)
