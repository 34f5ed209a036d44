"""Labelled sentences, in the layout of the Stanford Sentiment Treebank."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.source import Source
from salcore.data.texts import Lexicon, Texts
from salcore.data.tokens import texts_as
from salcore.errors import UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec

SEPARATOR = "|||"
Sentences = list[tuple[str, list[str], str]]
"""Label, words, and where they stand."""


def read(spec: "DataSpec", argument: str) -> Source:
    """`sst:PATH`: a folder with train.txt, dev.txt and test.txt, each line a label, ` ||| ` and a sentence.

    dev.txt joins the training split, at its end; without it or test.txt, a validation or evaluation part is carved out
    all the same. Words stand between blanks. Classes are the labels, sorted.

    Source: Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank (Socher et al., 2013).
    """
    made = texts_as(spec)
    folder = expanded(argument)
    if not (folder / "train.txt").is_file():
        raise UserError(
            "data.name", "sst:PATH of a folder with train.txt, from here or below data.root or SALCORE_DATA", argument
        )
    splits = {name: _sentences(folder / f"{name}.txt") for name in ("train", "dev", "test")}
    train, test = splits["train"] + splits["dev"], splits["test"]
    classes, lexicon = tuple(sorted({label for label, _, _ in train})), Lexicon()
    return made(
        _texts(train, classes, lexicon),
        _texts(test, classes, lexicon) if test else None,
        lexicon=lexicon,
        classes=classes,
        spec=spec,
        validation=len(splits["dev"]) or None,
    )


def _sentences(path: Path) -> Sentences:
    """The sentences of a file; none if it is not there."""
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data.name", "sentences in UTF-8", f"{path}: {error}") from error
    found = [_sentence(line, f"line {number} of {path}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise UserError("data.name", f"sentences in {path}", "none")
    return found


def _sentence(line: str, place: str) -> tuple[str, list[str], str]:
    label, separator, sentence = line.partition(SEPARATOR)
    if not (separator and label.strip() and sentence.split()):
        raise UserError("data.name", f"`label ||| sentence` in {place}", line[:40])
    return label.strip(), sentence.split(), place


def _texts(sentences: Sentences, classes: tuple[str, ...], lexicon: Lexicon) -> Texts:
    for label, _, place in sentences:
        if label not in classes:
            raise UserError("data.name", f"a label of the training sentences ({', '.join(classes)}) in {place}", label)
    labels = np.array([classes.index(label) for label, _, _ in sentences], np.int64)
    return Texts(texts=[lexicon.numbers(words) for _, words, _ in sentences], labels=labels)
