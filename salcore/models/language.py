"""Encoders of Hugging Face transformers as networks for tokens, whose attention can be read and taught."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from salcore.errors import UserError
from salcore.models import encoders, steps
from salcore.settings import Within

PREFIX = encoders.PREFIX


def builder(name: str) -> Callable[..., nn.Module]:
    """The builder of `transformers:NAME`: a type of model, from scratch, or else a pretrained one, hub or folder.

    A type's name goes before a folder's, which can be written as ./bert.

    Raises UserError, with the key `model.name`, for an empty NAME.
    """
    place = name.removeprefix(PREFIX)
    if not place:
        raise UserError("model.name", "transformers:NAME, a type such as bert, a model on the hub or a folder", name)
    return partial(from_scratch if encoders.origin(name) == "scratch" else pretrained, place)


def from_scratch(
    kind: str,
    *,
    input_shape: tuple[int, int],
    classes: int,
    layers: Annotated[int, Within(1)] = 2,
    width: Annotated[int, Within(1)] = 128,
    heads: Annotated[int, Within(1)] = 4,
    inside: Annotated[int, Within(1)] | None = None,
    dropout: Annotated[float, Within(0, below=1)] = 0.1,
    max_tokens: Annotated[int, Within(1)] = 512,
) -> "LanguageModel":
    """A model of a type for T tokens out of V, with transformers' initial values: (N, T) -> logits (N, K).

    `layers` of `width` numbers a token and `heads` heads, with `inside` (null: 4 `width`) numbers in the feed-forward
    part; `dropout` is every dropout of the type. There are positions for `max_tokens`, or for T if that is more. Token
    0 is padding. All else is the type's own.

    Raises UserError unless `heads` divides `width`, and for a type without such sizes.

    Attention Is All You Need (Vaswani et al., 2017); BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding (Devlin et al., 2019).

    >>> network = from_scratch("bert", input_shape=(40, 100), classes=2, width=8, heads=2)
    >>> logits, attentions = network.attended(torch.zeros(3, 40, dtype=torch.long))
    >>> logits.shape, [tuple(attention.shape) for attention in attentions]
    (torch.Size([3, 2]), [(3, 2, 40, 40), (3, 2, 40, 40)])
    """
    if width % heads:
        raise UserError("model.heads", f"a divisor of the width {width}", heads)
    length, vocabulary = input_shape
    wanted = max(length, max_tokens)
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width if inside is None else inside,
        "vocab_size": vocabulary,
        "max_position_embeddings": wanted,
    }
    name = PREFIX + kind
    with encoders.readable(name), encoders.quiet():
        config = encoders.configuration(kind, sizes, dropout=dropout, num_labels=classes, pad_token_id=0)
        with torch.device("meta"):
            room = encoders.positions(encoders.new_model(config))
        if room is not None:  # RoBERTa's first positions are its padding's
            config.max_position_embeddings += wanted - room
        return _fitting(LanguageModel(encoders.new_model(config)), name, input_shape)


def pretrained(
    place: str,
    *,
    input_shape: tuple[int, int],
    classes: int,
    dropout: Annotated[float, Within(0, below=1)] | None = None,
) -> "LanguageModel":
    """A model with its weights, from the hub or a folder: (N, T) -> logits (N, K).

    The encoder has to be there in full. A head, the pooling layer included, that is missing or of another number of
    classes gets initial values; other heads are left out. `dropout` is every dropout of the model (null: its own).
    Weights are read from safetensors alone, and no code of the model's repository is run.

    Raises UserError for a model that cannot be had or read, for more tokens than it has positions, and for a
    vocabulary beyond its own.
    """
    name = PREFIX + place
    with encoders.quiet():
        model = encoders.trained_model(place, classes=classes, dropout=dropout)
    with encoders.readable(name):
        return _fitting(LanguageModel(model.train()), name, input_shape)


def _fitting(network: "LanguageModel", name: str, input_shape: tuple[int, int]) -> "LanguageModel":
    """The network, if it has positions for T tokens and embeddings for V."""
    length, vocabulary = input_shape
    room, rows = encoders.positions(network.model), network.model.get_input_embeddings().num_embeddings
    if room is not None and length > room:
        raise UserError("data.length", f"at most {room} tokens, for which {name} has positions", length)
    if vocabulary > rows:
        raise UserError("data.tokenizer", f"the tokenizer of {name}, which has {rows} tokens", f"{vocabulary} tokens")
    return network


class LanguageModel(nn.Module):
    """A transformer that classifies texts: tokens (N, T), or their embeddings (N, T, E), -> logits (N, K).

    Attention is product, softmax, dropout and product, written out, for logits alone too: it can be differentiated
    twice, and on sentences it takes no longer than PyTorch's fused one. What transformers itself returns as attention
    is after dropout: in training its rows do not sum to 1. `attended` returns it before.

    Positions are counted from a text's first token, and segments are left at 0. A text's logits depend neither on what
    stands in its padding nor on the other texts of the batch; of an empty text the first token counts.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def embedded(self, ids: Tensor) -> Tensor:
        """The tokens' word embeddings alone, before positions and norm: (N, T) -> (N, T, E)."""
        return self.model.get_input_embeddings()(ids)

    def attended(self, inputs: Tensor, valid: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `forward`, logits (N, K), and each layer's attention (N, H, T, T), before dropout, that they come from.

        Axes: samples, heads, queries, keys. Each row, over keys, sums to 1, and is 0 at padding.
        """
        with encoders.attention_seen() as found:
            return self(inputs, valid), tuple(found)

    def forward(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens (N, T) or embeddings (N, T, E), and which tokens count, (N, T), the first ones -> logits (N, K).

        Raises ValueError for inputs of another shape.
        """
        if inputs.ndim != (3 if inputs.is_floating_point() else 2):
            expected = "whole numbers (N, T) or embeddings (N, T, E)"
            raise ValueError(f"`inputs`: expected {expected}, got {inputs.dtype} {tuple(inputs.shape)}")
        # By embeddings always: given tokens, RoBERTa counts positions by which of them are its padding's number.
        embeddings = inputs if inputs.is_floating_point() else self.embedded(inputs)
        counted = None if valid is None else (~steps.padding(valid)).long()
        encoders.attention_name()  # known to transformers, also where the network was unpickled
        return self.model(inputs_embeds=embeddings, attention_mask=counted).logits
