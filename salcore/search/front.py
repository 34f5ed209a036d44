"""Trials that no other beats in every objective, and the one among them that is nearest to the best of each.

Values `(n, m)` are of n trials and m objectives, and larger is better. A trial of which any value is NaN is on no front
and beats nobody.
"""

import numpy as np


def pareto(values: np.ndarray) -> np.ndarray:
    """Which trials `(n,)` are on the Pareto front: no other is as good in all objectives and better in one.

    Equal trials are on it together.

    >>> pareto(np.array([[1.0, 3.0], [2.0, 2.0], [1.0, 2.0], [np.nan, 9.0]])).tolist()
    [True, True, False, False]
    """
    known = ~np.isnan(values).any(axis=1)
    as_good = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    beaten = (as_good & better & known[:, None]).any(axis=0)
    return known & ~beaten


def nearest_ideal(values: np.ndarray, ties: np.ndarray) -> int | None:
    """The trial on the front that is nearest to the ideal point; None where no trial has all values.

    The ideal point has each objective's best value on the front. Objectives are scaled so that the front reaches from 0
    to 1 in each, and the distance is Euclidean. Of equally near trials the one with the largest of `ties` `(n,)` is
    taken, then the first.
    """
    front = np.flatnonzero(pareto(values))
    if not len(front):
        return None
    chosen = values[front]
    best, worst = chosen.max(axis=0), chosen.min(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite values, and objectives in which all are equal
        share = np.nan_to_num((best - chosen) / (best - worst), nan=1.0)
    scaled = np.where(chosen == best, 0.0, share)
    distance = np.sqrt((scaled**2).sum(axis=1))
    return int(front[np.lexsort((-np.nan_to_num(ties[front], nan=-np.inf), distance.round(12)))[0]])
