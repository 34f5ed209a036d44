"""Stratified, nested and reproducible choices of samples.

All splits come from one order of the samples, in which every beginning has the same share of every class.
"""

import numpy as np

from salcore.data.streams import raw

CARVED_SEED = 20230617
"""Seed of the evaluation split of sets that come without one: constant, so that the split is part of the set."""


def stratified_order(labels: np.ndarray, *key: int) -> np.ndarray:
    """An order of all samples `(N,)` in which every prefix is stratified, fixed by the integers of `key`.

    The sample of rank r (from 0, drawn at random) among the n_c of its class stands at place (r + 1/2) / n_c; equal
    places are in random order. A prefix of m samples holds m / K of each of K balanced classes, to within one.

    >>> order = stratified_order(np.array([0, 0, 0, 1, 1, 1]), 7)
    >>> sorted(np.array([0, 0, 0, 1, 1, 1])[order[:2]].tolist())
    [0, 1]
    """
    shuffled = _permutation(len(labels), *key)
    _, classes, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + 0.5) / counts[classes]
    return shuffled[np.argsort(place, kind="stable")]


def divide(labels: np.ndarray, count: int, *key: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a stratified choice of `count` samples, and those of the rest, both rising."""
    order = stratified_order(labels, *key)
    return np.sort(order[:count]), np.sort(order[count:])


def _permutation(count: int, *key: int) -> np.ndarray:
    return np.argsort(raw(count, *key), kind="stable")
