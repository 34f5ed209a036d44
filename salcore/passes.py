"""The two passes over the members' maps of one block of samples: their moments, then each member beside the others.

Only single rounded operations act on the maps, and a sample's sums run over its own pixels in one order: its statistics
are the same bits however samples are cut into blocks. The maps are finite: `salcore.reduce` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from salcore import shards, statistics
from salcore.likeness import TO_MEAN, Likeness, row_sums
from salcore.moments import Moments
from salcore.significance import significant

HELD = 2.0**-100, 2.0**100
"""Between these a sum of squares lost nothing to float32's range: what it left out is too small to count."""
GROUP = 16
"""Members whose deviations are summed in float32 before they are merged into float64."""
SUMS = ("samples", "snr", "snr_samples", "signal2", "noise2", "cosine", "ssim")
"""What is summed over samples for each member: see `salcore.reduce.Reduced`."""
MAPS = ("mean", "variance", "significant")
"""Columns with a number for each pixel."""
CURVES = ("mean_norm", "sigma_norm")
"""Columns with a value for each number of members of the convergence grid."""
SCALARS = (
    *("snr", "signal2", "noise2", "ssim_to_mean", "snr_scale_free", "snr_low", "snr_high"),
    *("snr_debiased", "snr_debiased_low", "snr_debiased_high", "snr_at_30", "snr_at_30_low", "snr_at_30_high"),
    *("ssim_pairwise", *TO_MEAN[1:], "significant_share"),
)
"""Columns with one number per sample."""


def prefix_moments(maps: Iterable[np.ndarray], at: Collection[int]) -> Iterator[tuple[Moments, np.ndarray]]:
    """Moments over members, in order, of the first m maps for each m in `at`, and for which rows `(n,)` they hold.

    Deviations from the first map of each 16 are summed in the maps' own precision, so nothing large cancels and few
    roundings add up; the groups are merged in float64 (Chan et al., 1983), so the error does not grow with the number
    of maps. They hold where the sums of squares stayed within `HELD`. Float64 maps of float32 values always hold.
    """
    done: Moments | None = None
    for count, x in enumerate(maps, 1):
        size = (count - 1) % GROUP + 1
        if count == 1:
            total, squares, deviation = np.empty_like(x), np.empty_like(x), np.empty_like(x)
            held = np.ones(len(x), bool)
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
            if size > 1 and x.dtype != np.float64:
                held = held & _held(squares)
            moments = _group_moments(first, total, squares, size)
            moments = moments if done is None else done.merge(moments)
            if count in at:
                yield moments, held
            if size == GROUP:
                done = moments


def first_pass(read: Callable[[], Iterable[np.ndarray]], grid: Sequence[int], out: Mapping[str, np.ndarray]) -> Moments:
    """Fill mean, variance, snr, signal2, noise2 and the norms along `grid`, which ends at M; return the moments.

    `read` gives the members' blocks `(n, ...)` float32, `out` are the columns of these n samples. Samples whose squares
    are beyond the range of float32 somewhere, or all 0, are read again and summed in float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # float32 may not hold a variance; infinite maps are found later
        moments, held = _fill(read(), grid, out)
        if held.all():
            return moments
        rows = np.flatnonzero(~held)
        part = {name: column[rows] for name, column in out.items()}
        exact, _ = _fill((maps[rows].astype(np.float64) for maps in read()), grid, part)
    for name, column in out.items():
        column[rows] = part[name]
    np.asarray(moments.mean)[rows], np.asarray(moments.m2)[rows] = exact.mean, exact.m2
    return moments


def _fill(maps: Iterable[np.ndarray], grid: Sequence[int], out: Mapping[str, np.ndarray]) -> tuple[Moments, np.ndarray]:
    """As `first_pass`, in the maps' own precision; the moments, and for which rows they hold."""
    for position, found in enumerate(prefix_moments(maps, grid)):
        moments, held = found
        mean, freedom = np.asarray(moments.mean), moments.count - 1 if moments.count > 1 else np.nan
        mean2, noise2 = row_sums(mean, mean), row_sums(np.asarray(moments.m2)) / freedom
        out["mean_norm"][:, position], out["sigma_norm"][:, position] = np.sqrt(mean2), np.sqrt(noise2)
    out["mean"][:] = mean
    np.divide(moments.m2, freedom, out=out["variance"], casting="same_kind")
    out["snr"][:], out["noise2"][:] = statistics.snr(mean2, noise2), noise2
    out["signal2"][:] = statistics.signal2(mean2, noise2, moments.count)
    return moments, held


def mark(moments: Moments, out: Mapping[str, np.ndarray]) -> None:
    """Fill significant, tested and significant_share from the moments of the first pass, before they are rounded."""
    mean = np.asarray(moments.mean)
    mask, tested = significant(mean, np.asarray(moments.variance()), moments.count)
    out["significant"][:], out["tested"][:] = mask, tested
    pixels = mask[0].size if moments.count > 1 else np.nan
    out["significant_share"][:] = np.count_nonzero(mask.reshape(len(mask), -1), axis=1) / pixels


def second_pass(
    maps: Iterable[np.ndarray],
    mean: np.ndarray,
    out: Mapping[str, np.ndarray],
    sums: np.ndarray,
    lowest: np.ndarray,
) -> None:
    """Compare each member's block with the mean map of the others, and the ensemble with the one that lacks it.

    Fills the likenesses, the intervals over members and snr_scale_free in `out`, adds to the rows of `sums`
    `(M, len(SUMS))`, lowers `lowest` `(M,)`.
    """
    members, likeness, units = len(sums), Likeness(len(sums), len(mean)), _Units(mean.shape)
    snrs, ratios = Moments.empty((len(mean),)), Moments.empty((len(mean),))
    for index, x in enumerate(maps):
        deviation = x - mean
        others = mean - deviation / (members - 1 if members > 1 else np.nan)
        own2, others2 = row_sums(np.square(x, dtype=np.float64)), row_sums(others, others)
        noise2 = statistics.noise2_without(out["noise2"], row_sums(deviation, deviation), members)
        signal2 = statistics.signal2(others2, noise2, members - 1) if members > 1 else np.full(len(x), np.nan)
        snr = statistics.snr(others2, noise2)
        like = likeness.add(index, x, others, np.sqrt(own2 * others2))
        ours = {"cosine": like["cosine_to_mean"], "ssim": like["ssim_to_mean"]}
        add(sums[index], {"snr": snr, "signal2": signal2, "noise2": noise2, **ours})
        lowest[index] = min(lowest[index], x.min())
        snrs, ratios = _with(snrs, snr), _with(ratios, statistics.ratio(signal2, noise2))
        units.add(x, own2)
    for name, values in likeness.means().items():
        out[name][:] = values
    out["snr_scale_free"][:] = units.snr(members)
    _fill_intervals(out, snrs, ratios)


def empty_columns(rows: int, shape: tuple[int, ...], points: int) -> dict[str, np.ndarray]:
    """Room for the computed columns of `rows` samples and a convergence grid of `points`."""
    columns: dict[str, np.ndarray] = {name: np.empty((rows, *shape), np.float32) for name in ("mean", "variance")}
    columns |= {name: np.empty(rows) for name in SCALARS} | {name: np.empty((rows, points)) for name in CURVES}
    return columns | {"significant": np.empty((rows, *shape), np.uint8), "tested": np.empty(rows, np.int32)}


class _Units:
    """The moments of maps of unit norm, those of zeros left at 0."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._total, self._count = np.zeros(shape), np.zeros(shape[0])

    def add(self, x: np.ndarray, norm2: np.ndarray) -> None:
        """Add a member's maps, whose squared norms are `norm2`."""
        self._total += x / shards.along_rows(np.sqrt(np.where(norm2 == 0, 1, norm2)), x.ndim)
        self._count += norm2 > 0

    def snr(self, members: int) -> np.ndarray:
        """Their SNR. The sum of the squared norms of M maps of unit norm is their number."""
        mean2 = row_sums(self._total, self._total) / members**2
        noise2 = np.maximum(self._count - members * mean2, 0) / (members - 1 if members > 1 else np.nan)
        return statistics.snr(mean2, noise2)


def _with(moments: Moments, values: np.ndarray) -> Moments:
    """The moments with one member's values `(n,)` more."""
    with np.errstate(invalid="ignore"):  # of infinities, which end as NaN
        return moments.merge(Moments(1, values, np.zeros_like(values)))


def _fill_intervals(out: Mapping[str, np.ndarray], snrs: Moments, ratios: Moments) -> None:
    """The 95 % jackknife intervals of each sample, from the moments of what the ensembles lacking a member give.

    As in `statistics.debiased_summary`, the debiased ones are those of the ratio, their ends taken through its root.
    """
    ratio = statistics.ratio(out["signal2"], out["noise2"])
    low, high = statistics.interval(ratio, ratios)
    out["snr_low"][:], out["snr_high"][:] = statistics.interval(out["snr"], snrs)
    for name, at in (("snr_debiased", np.inf), ("snr_at_30", statistics.PAPER_MEMBERS)):
        for end, values in (("", ratio), ("_low", low), ("_high", high)):
            out[name + end][:] = statistics.ratio_at(values, at)


def _held(squares: np.ndarray) -> np.ndarray:
    """For which rows `(n,)` all sums of squares are within `HELD`."""
    low, high = HELD
    rows = squares.reshape(len(squares), -1)
    return (rows.min(axis=1, initial=high) >= low) & (rows.max(axis=1, initial=low) <= high)


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


def add(sums: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Add samples one after the other, so that the sum is the same however they are cut into blocks.

    What is undefined, NaN, adds nothing: `samples` counts the others of cosine, `snr_samples` those of snr.
    """
    counts = {"samples": ~np.isnan(values["cosine"]), "snr_samples": ~np.isnan(values["snr"])}
    columns = {**values, **counts}
    steps = np.stack([columns[name] for name in SUMS], axis=1)
    steps[np.isnan(steps)] = 0
    sums[:] = np.add.accumulate(np.concatenate([sums[None], steps]), axis=0)[-1]
