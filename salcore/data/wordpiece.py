"""A small WordPiece tokenizer of one's own, the same for the same words."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from salcore.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS = PADDING, UNKNOWN, START, SEPARATOR, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
"""The first tokens, as of BERT; padding is 0."""
CONTINUED = "##"
LEAST_COUNT = 2
"""Two pieces that stand side by side less often than this are not joined."""


def train_wordpiece(words: Mapping[str, int], vocabulary: int) -> str:
    """The tokenizer.json of an uncased WordPiece like BERT's, trained on words and how often each is met.

    The same words give the same bytes, in whatever order they come. It has at most `vocabulary` tokens: `SPECIALS`, all
    characters, then as they stand inside words, and joined ones that stand side by side `LEAST_COUNT` times or more.
    Raises UserError where not even the characters find room.
    """
    from tokenizers import trainers

    met = sorted(word for word, count in words.items() if count)
    tokenizer = _wordpiece({token: number for number, token in enumerate(SPECIALS)})
    # The library numbers characters inside of words in the order of a hash table, and settles ties by these numbers
    # (its issue 1794): as special tokens they have their numbers beforehand.
    characters, inside = _characters(met, tokenizer)
    fixed = [*SPECIALS, *characters, *inside]
    if len(fixed) > vocabulary:
        raise UserError(
            "data.vocabulary", f"at least {len(fixed)}, one for each special token and character", vocabulary
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, min_frequency=LEAST_COUNT, special_tokens=fixed, show_progress=False
    )
    with one_thread():
        tokenizer.train_from_iterator((" ".join([word] * words[word]) for word in met), trainer)
    trained = _wordpiece(tokenizer.get_vocab(with_added_tokens=False))
    trained.add_special_tokens([*SPECIALS])  # not before: where texts say [SEP], it is a word like any other
    return trained.to_str()


def _wordpiece(vocabulary: dict[str, int]) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUED)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {SEPARATOR}",
        pair=f"{START} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(token, vocabulary[token]) for token in (START, SEPARATOR)],
    )
    return tokenizer


def _characters(words: Sequence[str], tokenizer: "Tokenizer") -> tuple[list[str], list[str]]:
    """All characters of words, and those that continue one, marked as such; both sorted."""
    normalised = (tokenizer.normalizer.normalize_str(word) for word in words)
    parts = [part for word in normalised for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word)]
    inside = {CONTINUED + character for part in parts for character in part[1:]}
    return sorted({character for part in parts for character in part}), sorted(inside)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the library's threads from starting: it warns of them in every process that is forked later."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
