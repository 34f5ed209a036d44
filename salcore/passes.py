"""The two passes over the members' maps of one block of samples: their moments, then each member beside the others.

Only single rounded operations act on the maps, and a sample's sums run over its own pixels in one order: its statistics
are the same bits however samples are cut into blocks. The maps are finite: `salcore.reduce` sees to that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from salcore import shards, statistics
from salcore.moments import Moments
from salcore.similarity import ssim_map

GROUP = 16
"""Members whose deviations are summed in float32 before they are merged into float64."""
SUMS = ("samples", "snr", "snr_samples", "signal2", "noise2", "cosine", "ssim")
"""What is summed over samples for each member: see `salcore.reduce.Reduced`."""
CURVES = ("mean_norm", "sigma_norm")
"""Columns with a value for each number of members of the convergence grid."""


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
        add(sums[index], values)
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


def add(sums: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Add samples one after the other, so that the sum is the same however they are cut into blocks.

    What is undefined, NaN, adds nothing: `samples` counts the others of cosine, `snr_samples` those of snr.
    """
    counts = {"samples": ~np.isnan(values["cosine"]), "snr_samples": ~np.isnan(values["snr"])}
    columns = {**values, **counts}
    steps = np.stack([columns[name] for name in SUMS], axis=1)
    steps[np.isnan(steps)] = 0
    sums[:] = np.add.accumulate(np.concatenate([sums[None], steps]), axis=0)[-1]
