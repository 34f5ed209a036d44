"""From texts as lists of words to numbers of words, and a vector for each."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.sequences import padded
from salcore.data.source import Labelled, Source
from salcore.data.vectors import embed
from salcore.errors import UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec


class Lexicon:
    """Words and their numbers, from 1 on, in the order in which they were met.

    >>> lexicon = Lexicon()
    >>> lexicon.numbers("a rose is a rose".split()).tolist(), lexicon.words()
    ([1, 2, 3, 1, 2], ['a', 'rose', 'is'])
    """

    def __init__(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict(count(1).__next__)

    def numbers(self, words: Iterable[str]) -> np.ndarray:
        """The numbers of words, int32."""
        return np.fromiter(map(self._numbers.__getitem__, words), np.int32)

    def words(self) -> list[str]:
        """All words that were met, in the order of their numbers."""
        return list(self._numbers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """One split: each text as numbers of a lexicon, class numbers, and how many words of each text are its query.

    `rationales` say which words of each text people marked as telling its class; None where nobody was asked.
    """

    texts: list[np.ndarray]
    labels: np.ndarray
    query: np.ndarray | None = None
    rationales: list[np.ndarray] | None = None


def vectors_file(spec: "DataSpec") -> Path:
    """The file of word vectors that texts need. Raises UserError."""
    if spec.vectors is None:
        expected = "a file of word vectors in GloVe's text format (or a data.tokenizer), as the samples are texts"
        raise UserError("data.vectors", expected, spec.vectors)
    return expanded(spec.vectors)


def text_source(
    train: Texts,
    test: Texts | None,
    *,
    lexicon: Lexicon,
    classes: tuple[str, ...],
    spec: "DataSpec",
    validation: int | None = None,
) -> Source:
    """A source of texts, all cut or padded to `data.length` words (None: the longest), with a note on what is known.

    The last `validation` training texts are the set's own validation split (None: it has none).

    Words that are cut away are no part of the vocabulary. Words of the training split come first in it, so that no
    number and no vector of theirs depends on the evaluation split.
    """
    path, splits = vectors_file(spec), [train] if test is None else [train, test]
    lengths = np.array([len(text) for split in splits for text in split.texts])
    length = spec.length or int(lengths.max())
    refuse_longer(lengths, length, spec)
    splits = [_cut(split, length) for split in splits]
    every = lexicon.words()
    counts = [np.bincount(np.concatenate(split.texts), minlength=len(every) + 1) for split in splits]
    met, others = np.flatnonzero(counts[0]), np.flatnonzero((counts[-1] > 0) & (counts[0] == 0))
    order = np.concatenate([met, others])
    words = [every[number - 1] for number in order]
    vectors, known = embed(words, path, trained=len(met))
    renumber = np.zeros(len(every) + 1, np.int32)
    renumber[order] = np.arange(1, len(order) + 1)
    sets = [_padded(split, renumber, length) for split in splits]
    return Source(
        train=sets[0],
        test=None if test is None else sets[1],
        classes=classes,
        kind="text",
        vectors=np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors]),
        words=("", *words),
        validation=validation,
        notes=(_coverage(counts[0][met], known[: len(met)], path),),
    )


def refuse_longer(lengths: np.ndarray, length: int, spec: "DataSpec") -> None:
    """Raise UserError where texts of `lengths` `(N,)` are to be cut to `length`, but `data.cut` is false."""
    longer, longest = int((lengths > length).sum()), int(lengths.max())
    if longer and not spec.cut:
        told = (
            f"{longer:,} of {len(lengths):,} texts are longer, the longest of them {longest:,}, and data.cut is false"
        )
        raise UserError("data.length", f"a length for all texts, as {told}", length)


def _cut(split: Texts, length: int) -> Texts:
    longest = 0 if split.query is None else int(split.query.max())
    if longest >= length:
        raise UserError("data.length", f"more than the {longest} words of the longest query", length)
    return replace(split, texts=[text[:length] for text in split.texts])


def _padded(split: Texts, renumber: np.ndarray, length: int) -> Labelled:
    values, lengths = padded([renumber[text] for text in split.texts], length)
    rationale = None if split.rationales is None else padded(split.rationales, length)[0]
    return Labelled(values=values, labels=split.labels, lengths=lengths, query=split.query, rationale=rationale)


def _coverage(counts: np.ndarray, known: np.ndarray, path: Path) -> str:
    words, tokens = known.mean(), counts[known].sum() / counts.sum()
    return (
        f"{path.name} knows {words:.1%} of the {len(counts):,} different words of the training texts, "
        f"{tokens:.1%} of their {counts.sum():,} words"
    )
