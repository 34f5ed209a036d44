"""Tokenizers that others have made, from a folder or the Hugging Face hub."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from salcore.errors import UserError
from salcore.paths import expanded

LONGEST = 10_000_000
"""A tokenizer that allows for more tokens than these does not know how many its model takes."""
SECONDS = 5
KNOWN = "a tokenizer on the hub or in a folder"


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """`content` of a tokenizer.json, the numbers of two of its tokens, and the most tokens that its model takes.

    None: it has no such token, or does not know.
    """

    content: str
    unknown: int | None
    separator: int | None
    longest: int | None = None


def load_tokenizer(name: str) -> TokenizerFile:
    """The fast tokenizer in a folder, or of that name on the Hugging Face hub. No code that comes with it is run.

    Raises UserError where there is none, where the hub does not answer, and of tokenizers that are not fast ones.
    """
    from tokenizers import Tokenizer

    found = _pretrained(name)
    if not getattr(found, "is_fast", False):
        raise UserError("data.tokenizer", "a fast tokenizer, one with a tokenizer.json", name)
    tokenizer = Tokenizer.from_str(found.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # pieces drawn at random
    longest = found.model_max_length
    return TokenizerFile(
        content=tokenizer.to_str(),
        unknown=found.unk_token_id,
        separator=found.sep_token_id,
        longest=int(longest) if longest and longest <= LONGEST else None,
    )


def _pretrained(name: str) -> Any:
    """The tokenizer as `transformers` has it: in a folder, in its cache, or from the hub."""
    folder = expanded(name)
    if folder.is_dir():
        return _read(str(folder), name, offline=True)
    if folder.is_absolute() or name.startswith(".") or folder.exists():
        raise UserError("data.tokenizer", f"{KNOWN} that exists", name)
    with suppress(UserError):
        return _read(name, name, offline=True)
    _reach_hub(name)
    return _read(name, name, offline=False)


def _read(where: str, name: str, *, offline: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            where, trust_remote_code=False, add_prefix_space=True, local_files_only=offline
        )
    except Exception as error:  # of any type, by what is wrong and in which of its libraries
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError("data.tokenizer", KNOWN, f"{name}: {told}") from error


def _reach_hub(name: str) -> None:
    """Raise UserError at once where the hub does not answer: its own library asks again and again for a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:
        cure = f"{constants.ENDPOINT} does not answer: give a folder made with save_pretrained where it does"
        raise UserError("data.tokenizer", f"{KNOWN} ({cure})", name) from error
