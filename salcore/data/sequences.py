"""Sequences of different lengths as one array, padded or cut at the end."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from salcore.data.source import Labelled


def padded(cases: Sequence[np.ndarray], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Arrays `(..., t_n)` as one `(N, ..., steps)`, and how many steps `(N,)`, int64, of each one are no padding.

    >>> values, lengths = padded([np.array([1, 2, 3]), np.array([4])], 2)
    >>> values.tolist(), lengths.tolist()
    ([[1, 2], [4, 0]], [2, 1])
    """
    lengths = np.array([min(case.shape[-1], steps) for case in cases], np.int64)
    values = np.zeros((len(cases), *cases[0].shape[:-1], steps), cases[0].dtype)
    for row, case, length in zip(values, cases, lengths, strict=True):
        row[..., :length] = case[..., :length]
    return values, lengths


def fitted(found: Labelled, length: int | None) -> Labelled:
    """Sequences of `length` steps, cut or padded with zeros at the end; None leaves them."""
    steps = found.values.shape[-1]
    if length is None or length == steps:
        return found
    lengths = np.full(len(found.labels), steps) if found.lengths is None else found.lengths
    padding_is_known = found.lengths is not None or length > steps
    return replace(
        found,
        values=_fitted(found.values, length),
        lengths=np.minimum(lengths, length) if padding_is_known else None,
        informative=None if found.informative is None else _fitted(found.informative, length),
    )


def _fitted(array: np.ndarray, length: int) -> np.ndarray:
    if length <= array.shape[-1]:
        return np.ascontiguousarray(array[..., :length])
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, length - array.shape[-1])])
