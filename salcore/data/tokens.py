"""From texts as lists of words to the tokens of a language model."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.assembly import set_apart
from salcore.data.pretrained import TokenizerFile, load_tokenizer
from salcore.data.sequences import padded
from salcore.data.source import Labelled, Source
from salcore.data.texts import Lexicon, Texts, refuse_longer, text_source, vectors_file
from salcore.data.wordpiece import SEPARATOR, SPECIALS, UNKNOWN, one_thread, train_wordpiece
from salcore.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from salcore.spec import DataSpec

WORDPIECE = "wordpiece"
"""What `data.tokenizer` says where one is to be trained."""


def texts_as(spec: "DataSpec") -> Callable[..., Source]:
    """What makes a source of texts: `token_source` where there is a `data.tokenizer`, else `text_source`.

    Raises UserError where the keys name neither, or both a tokenizer and word vectors.
    """
    if spec.tokenizer is None:
        vectors_file(spec)
        return text_source
    if spec.vectors is not None:
        raise UserError("data.vectors", "null, as data.tokenizer makes tokens of the texts", spec.vectors)
    return token_source


def token_source(
    train: Texts,
    test: Texts | None,
    *,
    lexicon: Lexicon,
    classes: tuple[str, ...],
    spec: "DataSpec",
    validation: int | None = None,
) -> Source:
    """A source of texts as tokens, all cut or padded to `data.length` (None: the longest, or what the model takes).

    Each word is tokenised by itself, and stands between the special tokens that the tokenizer puts around a text; the
    last word of a query is the tokenizer's own separator. A word of which the tokenizer makes nothing is unknown.
    `word_of` counts words as `text_source` does, from 0 and with the separator, which itself is -1. A WordPiece is
    trained on the training split without its last `validation` texts, its own validation split, and without what is set
    apart for evaluation where there is no test split. Padding is 0, whichever token the tokenizer keeps for it.
    """
    splits = [train] if test is None else [train, test]
    words, own = lexicon.words(), len(train.texts) - (validation or 0)
    seen = set_apart(train.labels, None)[1] if test is None else np.arange(len(train.labels))
    counts = _counts(train, seen[seen < own], len(words))
    if spec.tokenizer == WORDPIECE:
        content = train_wordpiece(dict(zip(words, counts.tolist(), strict=True)), spec.vocabulary)
        file = TokenizerFile(content=content, unknown=SPECIALS.index(UNKNOWN), separator=SPECIALS.index(SEPARATOR))
    else:
        file = load_tokenizer(str(spec.tokenizer))
    pieces = _Pieces.of(words, file, str(spec.tokenizer))
    if train.query is not None and not pieces.count[-1]:
        raise UserError("data.tokenizer", "one with a separator token, as the texts begin with a query", spec.tokenizer)
    whole = [[pieces.tokens(text, asked) for text, asked in _asked(split)] for split in splits]
    parts = {"training": whole[0][:own], "validation": whole[0][own:], "test": whole[1] if test else []}
    length = _length(parts, spec, file.longest)
    sets = [_labelled(split, texts, pieces, length) for split, texts in zip(splits, whole, strict=True)]
    return Source(
        train=sets[0],
        test=None if test is None else sets[1],
        classes=classes,
        kind="text",
        words=_vocabulary(file.content),
        tokenizer=file.content,
        validation=validation,
        notes=(_coverage(parts["training"], pieces, spec), *_cut_away(parts, length)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pieces:
    """The tokens of each word by its number, `count` of them, in `flat` word after word, and those around texts.

    The last number is that of the separator, which may have none.
    """

    flat: np.ndarray
    count: np.ndarray
    start: np.ndarray
    end: np.ndarray
    unknown: int | None

    @classmethod
    def of(cls, words: Sequence[str], file: TokenizerFile, name: str) -> "_Pieces":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(file.content)
        blank = " " if _wants_blanks(tokenizer) else ""
        with one_thread():
            encoded = tokenizer.encode_batch(
                [[blank + word] for word in words], is_pretokenized=True, add_special_tokens=False
            )
        found = [encoding.ids for encoding in encoded]
        nothing = next((word for word, ids in zip(words, found, strict=True) if not ids), None)
        if nothing is not None and file.unknown is None:
            raise UserError("data.tokenizer", f"one with an unknown token, for the word {nothing!r}", name)
        something = next((blank + word for word, ids in zip(words, found, strict=True) if ids), None)
        start, end = _around(tokenizer, [] if something is None else [something])
        separator = end[-1:] if file.separator is None else [file.separator]
        unknown = [] if file.unknown is None else [file.unknown]
        ids = [[], *(each or unknown for each in found), separator]
        return cls(
            flat=np.array([token for each in ids for token in each], np.int32),
            count=np.array([len(each) for each in ids]),
            start=np.array(start, np.int32),
            end=np.array(end, np.int32),
            unknown=file.unknown,
        )

    def tokens(self, text: np.ndarray, asked: int) -> "_Tokens":
        """Of a text, the first `asked` words of which are its query; special tokens are not among them."""
        if asked:
            text = np.concatenate([text[: asked - 1], [len(self.count) - 1], text[asked:]])
        counts = self.count[text]
        ends = np.cumsum(counts)
        within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        words = np.repeat(np.arange(len(text), dtype=np.int32), counts)
        if asked:
            words[words == asked - 1] = -1
        first = (np.cumsum(self.count) - self.count)[text]
        ids = self.flat[np.repeat(first, counts) + within]
        return _Tokens(ids=ids, words=words, asked=int(counts[:asked].sum()), around=len(self.start) + len(self.end))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tokens:
    """One text: its tokens, the word of each, how many are its query; how many special ones go around them."""

    ids: np.ndarray
    words: np.ndarray
    asked: int
    around: int

    def __len__(self) -> int:
        return len(self.ids) + self.around


def _asked(split: Texts) -> Iterator[tuple[np.ndarray, int]]:
    """Each text, and how many of its words are its query, the separator included."""
    query = np.zeros(len(split.texts), np.int64) if split.query is None else split.query
    return zip(split.texts, query.tolist(), strict=True)


def _counts(split: Texts, rows: np.ndarray, words: int) -> np.ndarray:
    """How often each word of a lexicon is met in some texts; separators are no words."""
    pairs = [*_asked(split)]
    met = [np.delete(text, asked - 1) if asked else text for text, asked in (pairs[row] for row in rows)]
    return np.bincount(np.concatenate([np.zeros(0, np.int32), *met]), minlength=words + 1)[1:]


def _length(parts: Mapping[str, Sequence[_Tokens]], spec: "DataSpec", most: int | None) -> int:
    """How many tokens each text is cut or padded to. Raises UserError where that is too many, or too few."""
    if spec.length is not None and most is not None and spec.length > most:
        raise UserError("data.length", f"at most the {most} tokens that the tokenizer's model takes", spec.length)
    texts = [text for part in parts.values() for text in part]
    lengths = np.array([len(text) for text in texts])
    length = spec.length or min(int(lengths.max()), most or int(lengths.max()))
    least = max(text.asked + text.around for text in texts)
    if length <= least:
        raise UserError(
            "data.length", f"more than {least} tokens, those around a text and of the longest query", length
        )
    refuse_longer(lengths, length, spec)
    return length


def _labelled(split: Texts, texts: Sequence[_Tokens], pieces: _Pieces, length: int) -> Labelled:
    """Texts with what stands around them; the last token is always the end."""
    room = length - len(pieces.start) - len(pieces.end)
    none = [np.full(len(special), -1, np.int32) for special in (pieces.start, pieces.end)]
    ids = [np.concatenate([pieces.start, text.ids[:room], pieces.end]) for text in texts]
    words = [np.concatenate([none[0], text.words[:room], none[1]]) for text in texts]
    values, lengths = padded(ids, length)
    rationale = None
    if split.rationales is not None:
        pairs = zip(words, split.rationales, strict=True)
        rationale = padded([(word >= 0) & marked[np.maximum(word, 0)] for word, marked in pairs], length)[0]
    return Labelled(
        rationale=rationale,
        values=values,
        labels=split.labels,
        lengths=lengths,
        query=None if split.query is None else np.array([len(pieces.start) + text.asked for text in texts], np.int64),
        word_of=padded([word + 1 for word in words], length)[0] - 1,  # -1 is what padding becomes
    )


def _coverage(training: Sequence[_Tokens], pieces: _Pieces, spec: "DataSpec") -> str:
    ids = np.concatenate([text.ids for text in training])
    words = sum(int(text.words.max()) + 1 for text in training)
    unknown = 0.0 if pieces.unknown is None else float((ids == pieces.unknown).mean())
    return (
        f"{Path(str(spec.tokenizer)).name} makes {len(ids) / words:.2f} tokens of a word of the training texts, "
        f"{unknown:.1%} of them unknown"
    )


def _cut_away(parts: Mapping[str, Sequence[_Tokens]], length: int) -> tuple[str, ...]:
    """A note of how many texts of each part are cut; none where none is."""
    longer = {name: sum(len(text) > length for text in part) for name, part in parts.items()}
    told = [f"{count:,} of {len(parts[name]):,} {name} texts" for name, count in longer.items() if count]
    return (f"{', '.join(told)} have more than {length:,} tokens and are cut",) if told else ()


def _vocabulary(content: str) -> tuple[str, ...]:
    """Every token by its number; a number without a token has ""."""
    from tokenizers import Tokenizer

    numbers = Tokenizer.from_str(content).get_vocab()
    names = {number: token for token, number in numbers.items()}
    return tuple(names.get(number, "") for number in range(max(names) + 1))


def _wants_blanks(tokenizer: "Tokenizer") -> bool:
    """Whether words are told from pieces by a blank before them, which the tokenizer does not add by itself."""
    told = json.loads(tokenizer.to_str())["pre_tokenizer"] or {}
    steps = told.get("pretokenizers", [told])
    return any(step.get("type") == "ByteLevel" and not step["add_prefix_space"] for step in steps)


def _around(tokenizer: "Tokenizer", probe: list[str]) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    encoding = tokenizer.encode(probe, is_pretokenized=True)
    of_words = [place for place, word in enumerate(encoding.word_ids) if word is not None]
    first, last = (of_words[0], of_words[-1] + 1) if of_words else (len(encoding.ids), len(encoding.ids))
    return encoding.ids[:first], encoding.ids[last:]
