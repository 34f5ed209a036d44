"""What is taken from Hugging Face transformers: its types of encoder, their weights, and where attention is computed.

transformers is imported by whoever calls, not by this module: it takes seconds.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor, nn

from salcore.errors import UserError
from salcore.paths import expanded
from salcore.settings import nearest

PREFIX = "transformers:"

_READABLE = "a language model whose attention can be read, such as bert, roberta, distilbert or electra"

# DistilBERT calls it by another name, and its configuration does not translate this one.
_OTHER_NAMES = {"intermediate_size": "hidden_dim"}

_seen: ContextVar[list[Tensor] | None] = ContextVar("seen", default=None)


def types() -> Mapping[str, str]:
    """The types of models that transformers classifies sequences with, by name."""
    from transformers.models.auto import modeling_auto

    return modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


def origin(name: str) -> Literal["scratch", "folder", "hub"]:
    """Where `transformers:NAME` comes from: a type's name goes before a folder's, which can be written as ./bert."""
    place = name.removeprefix(PREFIX)
    if place in types():
        return "scratch"
    return "folder" if expanded(place).is_dir() else "hub"


def configuration(kind: str, sizes: Mapping[str, int], *, dropout: float, **others: int) -> Any:
    """The configuration of a type with sizes under BERT's names, and word embeddings as wide as the model.

    Raises UserError for a type without one of the sizes.
    """
    from transformers import AutoConfig

    own = AutoConfig.for_model(kind)
    names = {size: size if hasattr(own, size) else _OTHER_NAMES.get(size, size) for size in sizes}
    if lacking := [size for size, name in names.items() if not hasattr(own, name)]:
        raise unreadable(PREFIX + kind, f"it has no {lacking[0]}")
    settings: dict[str, Any] = {own.attribute_map.get(name, name): sizes[size] for size, name in names.items()}
    if hasattr(own, "embedding_size"):
        settings["embedding_size"] = sizes["hidden_size"]
    return AutoConfig.for_model(kind, **settings, **_dropouts(own, dropout), **others)


def new_model(config: Any) -> Any:
    """The classifier of a configuration, with transformers' initial values from the global generator."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention_name())


def trained_model(place: str, *, classes: int, dropout: float | None) -> Any:
    """The classifier that is on the hub or in a folder, with its weights; heads that do not fit are new.

    Raises UserError, with the key `model.name`, for one that cannot be had, and one without the whole encoder.
    """
    import huggingface_hub

    name = PREFIX + place
    folder = expanded(place)
    if folder.is_dir():
        _require_files(folder, name)
        place = str(folder)
    elsewhere = (
        f"a type of model{nearest(place, types())}, a model with safetensors on a hub that can be reached, or a "
    )
    try:
        # A commit, as transformers would have a public service convert the pickle of a branch without safetensors.
        commit = None if folder.is_dir() else huggingface_hub.resolve_revision(place).resolved
        model, found = _loaded(place, commit, classes, dropout)
    except Exception as error:  # of the file system, the network, safetensors or transformers: told in one line
        where = "a " if folder.is_dir() else elsewhere
        expected = f"{where}folder with config.json and model.safetensors ({first_line(error)})"
        raise UserError("model.name", expected, name) from error
    _require_encoder(model, found, name)
    return model


def positions(model: Any) -> int | None:
    """How many tokens a model has positions for; those of RoBERTa begin after the one for padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)


@cache
def attention_name() -> str:
    """The name under which transformers, in this process, knows the attention that `attention_seen` sees."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    name = "salcore"
    AttentionInterface.register(name, _attention)
    AttentionMaskInterface.register(name, eager_mask)
    return name


@contextmanager
def attention_seen() -> Iterator[list[Tensor]]:
    """A block that collects the attention of this thread's models in order, (N, H, T, T) each, before dropout.

    transformers' own way returns it after dropout, and leaves hooks on the model that cannot be pickled.
    """
    found: list[Tensor] = []
    token = _seen.set(found)
    try:
        yield found
    finally:
        _seen.reset(token)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """What dropout leaves of A = softmax(Q K^T s + mask), times V, (N, T, H, D), and A: Q, K and V are (N, H, T, D)."""
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
    if (found := _seen.get()) is not None:
        found.append(weights)
    dropped = nn.functional.dropout(weights, dropout, module.training)
    return (dropped @ value).transpose(1, 2).contiguous(), weights


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which transformers and the hub tell of errors alone, and show no progress."""
    from transformers.utils import logging as theirs

    loggers = [logging.getLogger(package) for package in ("transformers", "huggingface_hub")]
    levels, bars = [each.level for each in loggers], theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        if bars:
            theirs.enable_progress_bar()


@contextmanager
def readable(name: str) -> Iterator[None]:
    """A block in which whatever a type of model raises says, in one line and chained, that it cannot be used."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise unreadable(name, first_line(error)) from error


def unreadable(name: str, why: str) -> UserError:
    """The mistake of naming a model whose attention cannot be read."""
    return UserError("model.name", f"{_READABLE} ({why})", name)


def first_line(error: Exception) -> str:
    """An error in one line: its type, and how what it says begins."""
    return shorten(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", 250, placeholder=" ...")


def _dropouts(config: Any, value: float) -> dict[str, float]:
    """Every dropout of a configuration that is a number, set to one value."""
    return {
        key: value
        for key, own in config.to_dict().items()
        if re.search("dropout|pdrop", key) and isinstance(own, int | float) and not isinstance(own, bool)
    }


def _require_files(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise UserError("model.name", "a folder with config.json and model.safetensors", name)
    if not any(folder.glob("*.safetensors")):
        expected = "a folder with weights as safetensors, model.safetensors, as pickled ones are not read"
        raise UserError("model.name", expected, name)


def _loaded(place: str, commit: str | None, classes: int, dropout: float | None) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what its file lacked, had besides or had in other shapes."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(place, revision=commit or "main", num_labels=classes, trust_remote_code=False)
    for key, value in ({} if dropout is None else _dropouts(config, dropout)).items():
        setattr(config, key, value)
    return AutoModelForSequenceClassification.from_pretrained(
        place,
        config=config,
        revision=commit or "main",
        attn_implementation=attention_name(),
        dtype=torch.get_default_dtype(),
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=False,
    )


def _require_encoder(model: Any, found: Mapping[str, Any], name: str) -> None:
    """Refuse a file that does not hold the encoder, all of it and nothing more of it; heads are free."""
    parts = {part for part, _ in model.base_model.named_children()} - {"pooler"}
    problems = []
    for kind in ("missing", "unexpected", "mismatched"):
        keys = [key if isinstance(key, str) else key[0] for key in found[f"{kind}_keys"]]
        wrong = sorted(key for key in keys if key.removeprefix(f"{model.base_model_prefix}.").split(".")[0] in parts)
        if wrong:
            problems.append(f"{len(wrong)} {kind}, first {wrong[0]}")
    if problems:
        raise UserError("model.name", f"the weights of a whole encoder: {'; '.join(problems)}", name)
