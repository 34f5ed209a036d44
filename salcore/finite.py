"""Which maps are finite: one with NaN or infinity is kept as it is, and enters no statistic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def finite_rows(maps: np.ndarray) -> np.ndarray:
    """Whether each map of `(n, ...)` is finite everywhere, `(n,)`."""
    return np.isfinite(maps).reshape(len(maps), -1).all(axis=1)


def stretches(finite: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut samples into stretches `start, stop` with the same finite members: equal columns of `finite` `(M, n)`.

    >>> list(stretches(np.array([[True, True, False, True], [True, True, True, True]])))
    [(0, 2), (2, 3), (3, 4)]
    """
    changes = np.flatnonzero((finite[:, 1:] != finite[:, :-1]).any(axis=0)) + 1
    yield from zip([0, *changes.tolist()], [*changes.tolist(), finite.shape[1]], strict=True)
