"""Samples that make the same filters malfunction: nearest neighbours among standardised profiles.

Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), section 3.2.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from salcore.parameter_space.filters import FilterTable


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The nearest of each query, the nearest first: `place` (Q, n) among all rows and `similarity` (Q, n), float32.

    Where there are fewer rows than neighbours asked for, n is the number of rows.
    """

    place: np.ndarray
    similarity: np.ndarray


def nearest(
    queries: np.ndarray,
    blocks: Iterable[tuple[slice, np.ndarray]],
    count: int,
    *,
    columns: np.ndarray | None = None,
    among: np.ndarray | None = None,
) -> Neighbours:
    """The `count` rows of greatest cosine similarity with each of the `queries` (Q, P), the first of equal ones first.

    `blocks` are rows (n, P) with their places, so that any number of them streams past. `columns` (P,) bool takes some
    of the filters alone, `among` (N,) bool some of the rows. A profile of zeros has similarity 0 with all.

    Raises ValueError for less than one neighbour, and for rows of another number of filters.
    """
    if count < 1:
        raise ValueError(f"`count`: expected at least 1 neighbour, got {count}")
    chosen = np.ones(queries.shape[1], bool) if columns is None else columns
    directions = _unit(queries, chosen)
    place = np.empty((len(queries), 0), np.int64)
    similarity = np.empty((len(queries), 0), np.float32)
    for where, rows in blocks:
        if rows.shape[1:] != queries.shape[1:]:
            raise ValueError(f"`blocks`: expected rows of {queries.shape[1]} filters, got {rows.shape[1]}")
        kept = np.arange(where.start, where.stop)
        if among is not None:
            rows, kept = rows[among[where]], kept[among[where]]
        found = np.concatenate([similarity, directions @ _unit(rows, chosen).T], axis=1)
        places = np.concatenate([place, np.broadcast_to(kept, (len(queries), len(kept)))], axis=1)
        best = np.argsort(-found, axis=1, kind="stable")[:, :count]
        similarity, place = np.take_along_axis(found, best, 1), np.take_along_axis(places, best, 1)
    return Neighbours(place=place, similarity=similarity)


def same_pair(label: np.ndarray, prediction: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether others were misclassified between the same two classes as a sample, in either order; shapes broadcast.

    >>> same_pair(np.array([3]), np.array([5]), np.array([3, 5, 3, 5]), np.array([5, 3, 3, 5])).tolist()
    [True, True, False, False]
    """
    straight = (labels == label) & (predictions == prediction)
    return straight | ((labels == prediction) & (predictions == label))


def depth_half(table: FilterTable, half: str) -> np.ndarray:
    """The filters (P,) bool of the early or the deep half of the layers, by the order in which the network runs them.

    Of an odd number of layers the middle one is early. Layers that the output does not depend on are in neither half.

    Raises ValueError for another half than early and deep.
    """
    if half not in ("early", "deep"):
        raise ValueError(f"`half`: expected early or deep, got {half!r}")
    depth = np.array([-1 if each is None else each for each in table.columns()["depth"]])
    early = depth < (depth.max() + 2) // 2
    return (depth >= 0) & (early if half == "early" else ~early)


def _unit(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The rows' chosen columns at length 1, (n, C) float32; rows of zeros stay so."""
    values = np.ascontiguousarray(rows if columns.all() else rows[:, columns], np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, 1)
