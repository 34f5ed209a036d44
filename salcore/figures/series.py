"""Series as pictures: a feature is a row, time runs to the right, in the series as in its maps."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from salcore.data.part import Part

MOST_LINES = 12
"""Up to so many features are drawn as lines, each in its row; more of them as shades."""
MOST_POINTS = 240
"""Longer lines are drawn through the lowest and the highest value of so many stretches of time, half as many each."""
SAMPLES_RANGED = 256
"""Samples that are looked at for the range of a feature, the first of them."""
RANGE = 1.0, 99.0
"""Percentiles of a feature's values over samples and time between which its shades are."""
Edge = tuple[tuple[float, float], tuple[float, float]]
"""A straight line between two points (x, y): x is time, y the feature, the first on top."""


def feature_ranges(part: Part) -> np.ndarray:
    """The 1st and 99th percentile of every feature's values over samples and time, `(F, 2)`, padding left out."""
    rows = part.index[:SAMPLES_RANGED]
    values = np.moveaxis(part.values[rows], 1, 0).astype(np.float64)
    steps = values.shape[-1]
    lengths = np.full(len(rows), steps) if part.lengths is None else part.lengths[rows]
    return np.percentile(values[:, np.arange(steps) < lengths[:, None]], RANGE, axis=1).T


def own_ranges(values: np.ndarray) -> np.ndarray:
    """The lowest and the highest value of every feature of one series `(F, T)`, `(F, 2)`."""
    return np.stack([values.min(axis=1), values.max(axis=1)], axis=1)


def within(values: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """A series `(F, T)` as shares of its features' ranges `(F, 2)`, in [0, 1]; 0.5 where a feature never varies.

    >>> within(np.array([[0.0, 3.0, 9.0], [7.0, 7.0, 7.0]]), np.array([[0.0, 6.0], [7.0, 7.0]]))
    array([[0. , 0.5, 1. ],
           [0.5, 0.5, 0.5]])
    """
    low, span = ranges[:, :1], ranges[:, 1:] - ranges[:, :1]
    share = np.divide(values - low, span, out=np.full(values.shape, 0.5), where=span > 0)
    return np.clip(share, 0, 1)


def fit(values: np.ndarray, side: int) -> np.ndarray:
    """Means over nearly equal stretches of `(F, T)` so many that neither axis has more than `side`, each by itself.

    >>> fit(np.array([[1.0, 3.0, 5.0, 7.0], [0.0, 0.0, 1.0, 1.0]]), 2)
    array([[2., 6.],
           [0., 1.]])
    """
    for axis, length in enumerate(values.shape):
        if length > side:
            values = _by_stretch(np.add, values, side, axis) / _by_stretch(np.add, np.ones(length), side, 0).reshape(
                (-1, 1) if axis == 0 else -1
            )
    return values


def fit_within(values: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """`fit` of the values where a mask `(F, T)` holds, and of the mask: where it holds for any value of a stretch."""
    share = fit(mask.astype(np.float64), side)
    inside = np.divide(fit(np.where(mask, values, 0.0), side), share, out=np.zeros(share.shape), where=share > 0)
    return inside, share > 0


def traces(shares: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The x and y of the line of every feature of shares `(F, T)`: feature f between y = f + 0.9 (0) and f + 0.1 (1).

    A step t is drawn at its middle, x = t + 0.5.
    """
    steps = shares.shape[1]
    x, values = np.arange(steps) + 0.5, shares
    if steps > MOST_POINTS:
        half = MOST_POINTS // 2
        ends = [_by_stretch(extreme, shares, half, 1) for extreme in (np.minimum, np.maximum)]
        values = np.stack(ends, axis=-1).reshape(len(shares), -1)
        x = (np.arange(2 * half) + 0.5) * steps / (2 * half)
    for feature, row in enumerate(values):
        yield x, feature + 0.9 - 0.8 * row


def outline(mask: np.ndarray) -> Sequence[Edge]:
    """The border of a region `(F, T)` as straight lines: a box has four.

    >>> outline(np.array([[False, True, True]]))
    [((1, 0), (3, 0)), ((1, 1), (3, 1)), ((1, 0), (1, 1)), ((3, 0), (3, 1))]
    """
    rows = [((x0, y), (x1, y)) for y, x0, x1 in _borders(mask)]
    return rows + [((x, y0), (x, y1)) for x, y0, y1 in _borders(mask.T)]


def _borders(mask: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Runs of the lines between rows, outer ones included, across which a mask changes: line, start, stop."""
    padded = np.pad(mask.astype(np.int8), ((1, 1), (0, 0)))
    changes = np.pad(np.diff(padded, axis=0), ((0, 0), (1, 1)))
    for line, row in enumerate(changes):
        ends = np.flatnonzero(np.diff(row))
        for start, stop in pairwise(ends):
            if row[start + 1]:
                yield line, int(start), int(stop)


def _by_stretch(how: np.ufunc, values: np.ndarray, count: int, axis: int) -> np.ndarray:
    """A reduction over so many nearly equal stretches of an axis."""
    starts = np.arange(count) * values.shape[axis] // count
    return how.reduceat(values, starts, axis=axis)
