"""Texts that are a query and documents, in the layout of the ERASER benchmark."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from salcore.data.eraser_files import DOCUMENT_LINES, DOCUMENTS, TEST, TRAIN, VALIDATION, contents
from salcore.data.source import Source
from salcore.data.texts import Lexicon, Texts
from salcore.data.tokens import texts_as
from salcore.errors import UserError

if TYPE_CHECKING:
    from salcore.spec import DataSpec

SEPARATOR = "[SEP]"
"""Stands between the query and the documents, a word like any other, or the separator of a tokenizer."""
QUERY_WORDS = re.compile(r"""'s\b|[^\s.,;:!?"()']+(?:(?:[.,:]|'(?!s\b))[^\s.,;:!?"()']+)*|\.+|\S""")
"""Documents come in words, queries as they were typed: "Kesha's name, 3.5 U.S." is Kesha 's name , 3.5 U.S ."""


class _Record(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)


class _Evidence(_Record):
    """Words [start_token, end_token) of a document, counted over all of it; -1 where that is not known."""

    docid: str
    start_token: int = -1
    end_token: int = -1


class _Instance(_Record):
    """One line of train.jsonl, val.jsonl or test.jsonl, as far as it is used."""

    annotation_id: str
    classification: str
    query: str | None = None
    docids: list[str] | None = None
    evidences: list[list[_Evidence] | _Evidence] | None = None

    def evidence(self) -> list[_Evidence]:
        """All evidences, in groups or one by one."""
        groups = [group if isinstance(group, list) else [group] for group in self.evidences or []]
        return [evidence for group in groups for evidence in group]

    def evidence_documents(self) -> list[str]:
        """The documents that evidences are taken from, sorted."""
        return sorted({evidence.docid for evidence in self.evidence()})

    def documents(self) -> list[str]:
        """`docids`, else those of the evidences, else the one that the instance is named after (as in movies)."""
        return self.docids or self.evidence_documents() or [self.annotation_id]


class _Document(_Record):
    """One line of docs.jsonl."""

    docid: str
    document: str


Line = TypeVar("Line", bound=_Record)
Placed = list[tuple[str, Line]]
"""Lines, each with where it stands."""


def read(spec: "DataSpec", argument: str) -> Source:
    """`eraser:PATH`: a folder or an archive of one, with train.jsonl, val.jsonl, test.jsonl, and docs/ or docs.jsonl.

    val.jsonl joins the training split, at its end; without it or test.jsonl, a validation or evaluation part is carved
    out all the same. A text is the query, `SEPARATOR` and the documents, in the order of `docids`; a query that is the
    same in all training instances tells nothing and is left out. Classes are the classifications, sorted.

    Source: ERASER: A Benchmark to Evaluate Rationalized NLP Models (DeYoung et al., 2020).
    """
    made = texts_as(spec)
    files = contents(argument)
    splits = {name: _lines(_Instance, files, name, argument) for name in (TRAIN, VALIDATION, TEST)}
    train, test = splits[TRAIN] + splits[VALIDATION], splits[TEST]
    reader = _Reader(
        documents=_documents(files, argument),
        origin=argument,
        classes=tuple(sorted({instance.classification for _, instance in train})),
        asks=len({instance.query for _, instance in train}) > 1,
    )
    texts = reader.texts(train)  # first, so that its words come first
    tests = reader.texts(test) if test else None
    own = len(splits[VALIDATION]) or None
    return made(texts, tests, lexicon=reader.lexicon, classes=reader.classes, spec=spec, validation=own)


@dataclass(kw_only=True, eq=False)
class _Reader:
    """Makes texts of instances; the words of a document are numbered once."""

    documents: dict[str, bytes]
    origin: str
    classes: tuple[str, ...]
    asks: bool
    lexicon: Lexicon = field(default_factory=Lexicon)
    _numbered: dict[str, np.ndarray] = field(default_factory=dict)

    def texts(self, instances: Placed[_Instance]) -> Texts:
        """One split. Raises UserError naming the instance that does not fit."""
        pairs = [(self._query(instance), self._words(instance, place)) for place, instance in instances]
        rationales = [
            np.concatenate([np.zeros(len(query), bool), self._rationale(instance)])
            for (_, instance), (query, _) in zip(instances, pairs, strict=True)
        ]
        return Texts(
            texts=[np.concatenate(pair) for pair in pairs],
            rationales=rationales,
            labels=np.array([self._label(instance, place) for place, instance in instances], np.int64),
            query=np.array([len(query) for query, _ in pairs], np.int64) if self.asks else None,
        )

    def _label(self, instance: _Instance, place: str) -> int:
        if instance.classification not in self.classes:
            expected = f"one of {', '.join(self.classes)}, the classifications of training instances, in {place}"
            raise UserError("data.name", expected, instance.classification)
        return self.classes.index(instance.classification)

    def _query(self, instance: _Instance) -> np.ndarray:
        words = [*QUERY_WORDS.findall(instance.query or ""), SEPARATOR] if self.asks else []
        return self.lexicon.numbers(words)

    def _words(self, instance: _Instance, place: str) -> np.ndarray:
        names = instance.documents()
        for name in [*names, *instance.evidence_documents()]:
            if name not in self.documents:
                raise UserError("data.name", f"the document {name!r} of {place}", "none of that name")
        words = np.concatenate([self._document(name) for name in names])
        if not len(words):
            raise UserError("data.name", f"words in the documents of {place}", f"none in {', '.join(names)}")
        return words

    def _rationale(self, instance: _Instance) -> np.ndarray:
        """Which words of the documents, one after the other, are part of an evidence: all groups together."""
        marked = {name: np.zeros(len(self._document(name)), bool) for name in instance.documents()}
        for evidence in instance.evidence():
            if evidence.docid in marked and 0 <= evidence.start_token < evidence.end_token:
                marked[evidence.docid][evidence.start_token : evidence.end_token] = True
        return np.concatenate([marked[name] for name in instance.documents()])

    def _document(self, name: str) -> np.ndarray:
        if name not in self._numbered:
            try:
                text = self.documents[name].decode()
            except UnicodeDecodeError as error:
                raise UserError("data.name", f"the document {name!r} of {self.origin} in UTF-8", str(error)) from error
            # ERASER's own definition: its numbers of tokens count what stands between blanks and line ends.
            words = (word for line in text.split("\n") for word in line.strip().split(" ") if word)
            self._numbered[name] = self.lexicon.numbers(words)
        return self._numbered[name]


def _documents(files: dict[str, bytes], origin: str) -> dict[str, bytes]:
    found = {name.removeprefix(DOCUMENTS): text for name, text in files.items() if name.startswith(DOCUMENTS)}
    listed = _lines(_Document, files, DOCUMENT_LINES, origin)
    return found | {line.docid: line.document.encode() for _, line in listed}


def _lines(kind: type[Line], files: dict[str, bytes], name: str, origin: str) -> Placed[Line]:
    """The lines of a file, checked; none if it is not there."""
    if name not in files:
        return []
    lines = [(number, line) for number, line in enumerate(files[name].split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise UserError("data.name", f"lines in {name} of {origin}", "none")
    return [_line(kind, line, f"line {number} of {name} in {origin}") for number, line in lines]


def _line(kind: type[Line], line: bytes, place: str) -> tuple[str, Line]:
    try:
        return place, kind.model_validate_json(line)
    except ValidationError as error:
        wrong = error.errors()[0]
        told = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}".removeprefix(": ")
        required = ", ".join(name for name, key in kind.model_fields.items() if key.is_required())
        raise UserError("data.name", f"an object with {required} as {place}", told) from error
