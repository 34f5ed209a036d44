"""What a data set is once it is loaded: three parts, the names of its classes and how to normalise it."""

import hashlib
import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from salcore.errors import UserError

Kind = Literal["images", "series", "text"]
"""What one sample is: an image (C, H, W), a series of F features over T steps (F, T), or a text of T words."""

CHUNK_BYTES = 1 << 20
"""Samples are read in pieces of about this size wherever a whole part is passed over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some rows of a labelled set: `values`, one sample each, `labels` `(N,)`, and which rows, in order.

    - images: `values` `(N, C, H, W)`, uint8 or float32, perhaps a read-only memory-map;
    - series: `(N, F, T)`, float32;
    - text: `(N, T)`, int32, numbers of words or tokens in the set's vocabulary, 0 for padding.

    Of sequences, the first `lengths` `(N,)` steps count and the rest is padding (None: all count), and a text's first
    `query` `(N,)` words are the question asked of it, which is always kept (None: there is none). Where it is known,
    `informative` `(N, F, T)` tells which cells were made to tell the class, `rationale` `(N, T)` which words of a text
    people marked as telling it, and `boxes` `(N, 4)` where the object of an image is: left, top, right and bottom, in
    shares of the image. Of tokens, `word_of` `(N, T)`, int32, numbers the word of its text that a token is a piece of,
    -1 for padding and for what stands for no word, such as [CLS], and `explanation` `(N, T)`, float32, not negative, is
    how much of attention each is to have. Parts of one set share these arrays. A label of -1 means that the truth is
    not known.
    """

    values: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    lengths: np.ndarray | None = None
    query: np.ndarray | None = None
    informative: np.ndarray | None = None
    boxes: np.ndarray | None = None
    word_of: np.ndarray | None = None
    rationale: np.ndarray | None = None
    explanation: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple:
        # A memory-map travels as its path: pickled by value it would be the whole set, which does not fit in memory.
        return _restore, ({**vars(self), "values": _packed(self.values)},)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Values `(n, ...)` and labels `(n,)` in order, a piece of bounded size at a time."""
        row_bytes = self.values[:0].itemsize * int(np.prod(self.values.shape[1:]))
        rows = max(1, CHUNK_BYTES // max(1, row_bytes))
        for start in range(0, len(self.index), rows):
            chosen = self.index[start : start + rows]
            yield self.values[chosen], self.labels[chosen]

    def digest(self) -> str:
        """SHA-256 over shape, type, values, labels and lengths in order: equal for equal content of any origin."""
        head = {"shape": [len(self), *self.values.shape[1:]], "dtype": self.values.dtype.name}
        content, truth = hashlib.sha256(json.dumps(head).encode()), hashlib.sha256()
        for values, labels in self.chunks():
            content.update(np.ascontiguousarray(values).data)
            truth.update(np.ascontiguousarray(labels, dtype="<i8").data)
        if self.lengths is not None:
            truth.update(np.ascontiguousarray(self.lengths[self.index], dtype="<i8").data)
        return hashlib.sha256(content.digest() + truth.digest()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """A data set ready for an ensemble: what is trained on, what stops training early, and what is explained.

    `mean` and `std` `(C,)` or `(F,)`, float32, are those of the training part's values, pixels scaled to [0, 1] if they
    are uint8. `evaluation.index` numbers samples in the full evaluation split (in the whole set, where the source has
    no split of its own), in the fixed stratified order. A text's words are `words`, `vectors` `(V, E)` float32 their
    embeddings, the first of which is padding and 0; of texts for a language model `words` are tokens, there are no
    vectors, and `tokenizer` is the content of its tokenizer.json. Mean and std are 0 and 1 of either. `notes` are for
    whoever runs it.
    `digest` is over everything that members are trained and validated on, and nothing else.
    """

    train: Part
    validation: Part
    evaluation: Part
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    digest: str
    kind: Kind = "images"
    vectors: np.ndarray | None = None
    words: tuple[str, ...] = ()
    tokenizer: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """What a network takes of one sample: (C, H, W) of images, (F, T) of series, (T, E) of embedded texts, (T, V)
        of T tokens out of V.
        """
        sample = self.evaluation.values.shape[1:]
        if self.kind != "text":
            return sample
        return (*sample, len(self.words) if self.vectors is None else self.vectors.shape[1])


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


def _packed(values: np.ndarray) -> Any:
    """The array, or where it lies if it is the whole of a memory-map (a slice of one does not know its own offset)."""
    if isinstance(values, np.memmap) and isinstance(values.base, mmap.mmap):
        return _Mapped(str(values.filename), values.dtype.str, values.offset, values.shape)
    return values


def _restore(content: dict[str, Any]) -> Part:
    values = content["values"]
    return Part(**content | {"values": values.open() if isinstance(values, _Mapped) else values})


def text_digests(part: Part, rows: np.ndarray) -> list[str]:
    """SHA-256 of the tokens of each of some rows, and of the words that they are of: equal for equal texts alone."""
    if part.lengths is None or part.word_of is None:
        raise ValueError("`part`: expected texts in tokens, got others")
    found = []
    for row in rows.tolist():
        own = slice(0, int(part.lengths[row]))
        content = (part.values[row, own].astype("<i4"), part.word_of[row, own].astype("<i4"))
        found.append(hashlib.sha256(b"".join(each.tobytes() for each in content)).hexdigest())
    return found


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
