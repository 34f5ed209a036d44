"""What a data set is once it is loaded: three parts, the names of its classes and how to normalise it."""

import hashlib
import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salcore.errors import UserError

CHUNK_BYTES = 1 << 20
"""Images are read in pieces of about this size wherever a whole part is passed over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some rows of a set of labelled images: `images` `(N, C, H, W)`, `labels` `(N,)`, and which rows, in order.

    `images` is uint8, or float32 for sets of floats, and may be a read-only memory-map; parts of one set share it.
    A label of -1 means that the truth is not known.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple:
        # A memory-map travels as its path: pickled by value it would be the whole set, which does not fit in memory.
        return _restore, (_packed(self.images), self.labels, self.index)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images `(n, C, H, W)` and labels `(n,)` in order, a piece of bounded size at a time."""
        row_bytes = self.images[:0].itemsize * int(np.prod(self.images.shape[1:]))
        rows = max(1, CHUNK_BYTES // max(1, row_bytes))
        for start in range(0, len(self.index), rows):
            chosen = self.index[start : start + rows]
            yield self.images[chosen], self.labels[chosen]

    def digest(self) -> str:
        """SHA-256 over shape, type, pixels and labels in order: equal for equal content, wherever it came from."""
        head = {"shape": [len(self), *self.images.shape[1:]], "dtype": self.images.dtype.name}
        pixels, truth = hashlib.sha256(json.dumps(head).encode()), hashlib.sha256()
        for images, labels in self.chunks():
            pixels.update(np.ascontiguousarray(images).data)
            truth.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return hashlib.sha256(pixels.digest() + truth.digest()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """A data set ready for an ensemble: what is trained on, what stops training early, and what is explained.

    `mean` and `std` `(C,)`, float32, are those of the training part's pixels, scaled to [0, 1] if they are uint8.
    `evaluation.index` numbers samples in the full evaluation split (in the whole set, where the source has no split of
    its own), in the fixed stratified order.
    `digest` is over everything that members are trained and validated on, and nothing else.
    """

    train: Part
    validation: Part
    evaluation: Part
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.evaluation.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class _Mapped:
    """Where a memory-mapped array lies."""

    filename: str
    dtype: str
    offset: int
    shape: tuple[int, ...]

    def open(self) -> np.memmap:
        if not Path(self.filename).exists():
            raise UserError("data.root", "a folder that every node sees, for images beyond its memory", self.filename)
        return np.memmap(self.filename, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)


def _packed(images: np.ndarray) -> Any:
    """The array, or where it lies if it is the whole of a memory-map (a slice of one does not know its own offset)."""
    if isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap):
        return _Mapped(str(images.filename), images.dtype.str, images.offset, images.shape)
    return images


def _restore(images: Any, labels: np.ndarray, index: np.ndarray) -> Part:
    return Part(images=images.open() if isinstance(images, _Mapped) else images, labels=labels, index=index)


def digest(train: Part, validation: Part, mean: np.ndarray, std: np.ndarray, classes: tuple[str, ...]) -> str:
    """SHA-256 over all that a member sees in training: both parts, the normalisation and the classes' names."""
    seen = {
        "train": train.digest(),
        "validation": validation.digest(),
        "mean": mean.astype("<f4").tobytes().hex(),
        "std": std.astype("<f4").tobytes().hex(),
        "classes": list(classes),
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()
