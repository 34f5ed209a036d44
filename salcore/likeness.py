"""How alike the members' maps of a block of samples are: each to the mean of the others, and to one another.

A sample's numbers are the same bits however samples are cut into blocks: what runs along a map is either a count or a
sum in one order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from salcore import shards
from salcore.similarity import Windows

TO_MEAN = ("ssim_to_mean", "cosine_to_mean", "spearman_to_mean", "sign_agreement", "top_overlap")
"""Likenesses of a member's map to the mean map of the others."""
NEIGHBOURS = 5
"""Each member's own map is compared with those of so many members after it, in a ring."""
TOP = 20
"""The pixels of largest magnitude are one in so many: 5 %."""
ROUNDING = 1e-6
"""The mean of the others is known to so much of the member's own value: what is below it counts as 0."""
_FULL_RANGE = 2.0  # of maps that are divided by their own largest magnitude


class Likeness:
    """Mean likenesses `(n,)` over `members` whose blocks of `rows` maps are added in order.

    With the member's map x, the mean o of the others, and r() average ranks:

        ssim_to_mean       SSIM of x and o, each divided by its own largest magnitude; null about 0
        cosine_to_mean     <x, o> / (||x|| ||o||), 0 where one of them is 0; null 0
        spearman_to_mean   correlation of r(x) and r(o), of their values in float32; NaN where one is constant; null 0
        sign_agreement     share of x o > 0 among the pixels where x o is not 0; NaN where there are none; null 0.5
        top_overlap        2 |A and B| / (|A| + |B|) of the pixels that hold the 5 % largest magnitudes of x and of o,
                           ties all in, zeros never; NaN where both are empty; null 0.05, more where the noise is
                           stronger at some places than at others
        ssim_pairwise      SSIM of two members' own maps, each divided likewise; null about 0

    Means are over the members where a likeness is defined. `ssim_pairwise` is over the pairs of members that are at
    most 5 places apart in a ring, each once: all pairs up to 11 members, 5 M of them beyond, so that time and memory
    do not grow with the square of M. NaN for fewer than 2 members, SSIM for maps that are no images.

    Source: Image Quality Assessment: From Error Visibility to Structural Similarity (Wang et al., 2004), Eq. 13.
    """

    def __init__(self, members: int, rows: int) -> None:
        self._members = members
        self._totals = {name: np.zeros(rows) for name in TO_MEAN}
        self._counts = {name: np.zeros(rows) for name in TO_MEAN}
        self._kept: dict[int, Windows] = {}
        self._pair_total, self._pairs = np.zeros(rows), 0

    def add(self, index: int, x: np.ndarray, others: np.ndarray, norms: np.ndarray) -> dict[str, np.ndarray]:
        """Add member `index` (0, 1, ...) and return its own likenesses to the mean.

        `x` `(n, ...)` float32 and `others` float64 are finite; `norms` `(n,)` is ||x|| ||others||.
        """
        if self._members < 2:
            return dict.fromkeys(TO_MEAN, np.full(len(x), np.nan))
        found = {"ssim_to_mean": self._ssim(index, x, others), "cosine_to_mean": _cosine(x, others, norms)}
        known = others.astype(np.float32)
        known[np.abs(known) <= np.float32(ROUNDING) * np.abs(x)] = 0
        found |= _by_order(x.reshape(len(x), -1), known.reshape(len(x), -1))
        for name, values in found.items():
            defined = ~np.isnan(values)
            self._totals[name][defined] += values[defined]
            self._counts[name] += defined
        return found

    def means(self) -> Mapping[str, np.ndarray]:
        """Each likeness, mean over the members or pairs of them; NaN of nothing."""
        to_mean = {name: _share(self._totals[name], self._counts[name]) for name in TO_MEAN}
        return to_mean | {"ssim_pairwise": self._pair_total / (self._pairs or np.nan)}

    def _ssim(self, index: int, x: np.ndarray, others: np.ndarray) -> np.ndarray:
        """SSIM to the mean; the pairs of this member with earlier ones are added on the way."""
        if x.ndim not in (3, 4):
            return np.full(len(x), np.nan)
        own = _windows(x)
        near = [i for i in self._kept if min(index - i, self._members - index + i) <= NEIGHBOURS]
        if near:
            total = own.ssim(self._kept[near[0]], value_range=_FULL_RANGE)
            for earlier in near[1:]:
                total += own.ssim(self._kept[earlier], value_range=_FULL_RANGE)
            self._pair_total += _window_means(total, len(x))
            self._pairs += len(near)
        self._kept[index] = own
        if index >= 2 * NEIGHBOURS:
            del self._kept[index - NEIGHBOURS]  # the first few stay: they are the last ones' neighbours
        return _window_means(own.ssim(_windows(others), value_range=_FULL_RANGE), len(x))


def row_sums(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Sums of `x`, or of `x * y`, over all axes but the first, each row in the same order whatever their number."""
    product = x if y is None else x * y
    return np.add.reduce(product.reshape(len(product), -1), axis=1)


def _windows(x: np.ndarray) -> Windows:
    """Maps `(n, [C,] H, W)`, each divided by its own largest magnitude, ready for SSIM."""
    largest = np.abs(x).reshape(len(x), -1).max(axis=1)
    scaled = x / shards.along_rows(np.where(largest == 0, 1, largest), x.ndim)
    places = scaled.reshape(-1, *x.shape[-2:]).transpose(1, 2, 0)
    return Windows.of(places.astype(np.float32, order="C"))


def _window_means(each: np.ndarray, rows: int) -> np.ndarray:
    """Means `(rows,)` of a number for each window, `(H, W, rows * C)`, over windows and channels."""
    flat = each.transpose(2, 0, 1).astype(np.float64, order="C").reshape(rows, -1)
    return row_sums(flat) / flat.shape[1]


def _cosine(x: np.ndarray, others: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return row_sums(x, others) / np.where(norms == 0, 1, norms)


def _by_order(x: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
    """What depends on signs and on the order of values alone, of maps `(n, P)` float32."""
    (order, ranks), (others_order, others_ranks) = _ranked(x), _ranked(others)
    aligned = np.empty(x.size)
    aligned[others_order] = others_ranks
    spread2 = row_sums(ranks, ranks) * row_sums(others_ranks, others_ranks)
    agreed = np.multiply(x, others, dtype=np.float64) > 0
    top, others_top = _top(x, order), _top(others, others_order)
    return {
        "spearman_to_mean": _share(row_sums(ranks, aligned[order]), np.sqrt(spread2)),
        "sign_agreement": _share(_count(agreed), _count((others != 0) & (x != 0))),
        "top_overlap": _share(2 * _count(top & others_top), _count(top) + _count(others_top)),
    }


def _ranked(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of each row of `(n, P)` float32, as places in the whole block, and in that order twice the average
    ranks less their mean: whole numbers, whose products sum exactly in any order.

    One sort of integers, a value's bits above its place: they sort as the values do once those of negative numbers are
    turned round, and several times faster than an argsort.
    """
    size = x.shape[1]
    bits = (x + np.float32(0)).view(np.int32)  # -0 becomes 0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64) << 32
    keys |= np.arange(x.size).reshape(x.shape)
    keys.sort(axis=1)
    ranks = np.tile(np.arange(1.0 - size, size, 2), (len(x), 1))
    _share_ranks(ranks.reshape(-1), keys >> 32)
    return keys & 0xFFFFFFFF, ranks


def _share_ranks(ranks: np.ndarray, values: np.ndarray) -> None:
    """Give each run of equal values of a row, `(n, P)` sorted, the mean of its first and its last rank, in place."""
    like_next = np.zeros(values.shape, bool)
    np.equal(values[:, :-1], values[:, 1:], out=like_next[:, :-1])
    tied = np.flatnonzero(like_next)
    if len(tied):
        gaps = np.diff(tied) > 1
        starts, ends = tied[np.append(True, gaps)], tied[np.append(gaps, True)] + 1
        shared = (ranks[starts] + ranks[ends]) / 2
        ranks[tied] = np.repeat(shared, ends - starts)
        ranks[ends] = shared


def _top(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Mask of the pixels whose magnitude is at least the k-th largest, k a 20th of them rounded up, and not 0."""
    count = -(-x.shape[1] // TOP)
    ends = np.concatenate([order[:, :count], order[:, -count:]], axis=1)  # the k largest magnitudes are among these
    magnitudes = np.abs(x)
    least = np.partition(magnitudes.ravel()[ends], -count, axis=1)[:, -count, None]
    return (magnitudes >= least) & (magnitudes > 0)


def _count(mask: np.ndarray) -> np.ndarray:
    return np.count_nonzero(mask, axis=1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where there is nothing to share."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
