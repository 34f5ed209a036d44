"""What all work on ranges of samples shares: passes of one fixed size, and what a range holds.

Each pass runs on batches of one fixed size, a short last one padded, and that size is a multiple of 8: matrix kernels
treat a remainder of rows in another order of summation, so without it the last bits of a sample's result would depend
on its neighbours.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from salcore.data import Data
from salcore.data.part import Part
from salcore.layout import Range

ROWS = 8
"""Passes have a multiple of this many rows."""


def padded_size(batch_size: int) -> int:
    """The number of rows of every pass: `batch_size` rounded up to a multiple of 8."""
    return math.ceil(batch_size / ROWS) * ROWS


def padded(rows: Tensor, size: int) -> Tensor:
    """The rows (n, ...), filled up to `size` with zeros."""
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def range_digest(data: Data, part: Range, of: Part | None = None) -> str:
    """SHA-256 of what a range of a part holds: numbers, labels, values, lengths, words or tokens, normalisation.

    `of` None: of the evaluation samples.
    """
    of = data.evaluation if of is None else of
    rows = of.index[part.start : part.stop]
    digest = hashlib.sha256(rows.tobytes() + data.mean.tobytes() + data.std.tobytes())
    digest.update(np.ascontiguousarray(of.labels[rows]).tobytes())
    values = of.values[rows]
    digest.update(np.ascontiguousarray(values).tobytes())
    if of.lengths is not None:
        digest.update(of.lengths[rows].tobytes())
    if data.vectors is not None:  # numbers of words say little without their vectors
        digest.update(np.ascontiguousarray(data.vectors[np.unique(values)]).tobytes())
    if data.tokenizer is not None:
        digest.update(data.tokenizer.encode())
    if of.word_of is not None:
        digest.update(np.ascontiguousarray(of.word_of[rows]).tobytes())
    return digest.hexdigest()


def code_version() -> str:
    """Version of this package, as shards and records carry it."""
    from salcore import __version__

    return __version__
