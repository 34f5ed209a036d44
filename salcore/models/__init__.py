"""Networks by name: ours, torchvision's classifiers, transformers' encoders, and users' own by `python:...`.

>>> from salcore.spec import ModelSpec
>>> build(ModelSpec(name="small_cnn", width=4), input_shape=(1, 8, 8), classes=10).classifier.linear.in_features
64
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from salcore.errors import UserError
from salcore.models import custom, language
from salcore.models.bilstm import bilstm
from salcore.models.mnist_cnn import mnist_cnn
from salcore.models.series_lstm import input_cell_lstm, lstm
from salcore.models.sizes import check_output, check_size
from salcore.models.small_cnn import small_cnn
from salcore.models.small_vit import small_vit
from salcore.models.tcn import tcn
from salcore.models.tokens import check_tokens
from salcore.models.transformer import transformer
from salcore.models.weights import load_weights
from salcore.seeds import forked
from salcore.settings import find_mistake, nearest

if TYPE_CHECKING:
    from salcore.spec import ModelSpec

__all__ = ["MODELS", "build", "builder", "check", "load_weights"]

BY_KIND: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "images": {"small_cnn": small_cnn, "mnist_cnn": mnist_cnn, "small_vit": small_vit},
    "series": {"lstm": lstm, "input_cell_lstm": input_cell_lstm, "tcn": tcn, "transformer": transformer},
    "text": {"bilstm": bilstm},
}
"""Our own networks by the kind of data that they take.

torchvision's take images, transformers' the tokens of texts instead of their words' vectors, and users' own any kind.
"""

MODELS = {name: make for networks in BY_KIND.values() for name, make in networks.items()}
"""Our own networks: name -> builder(*, input_shape, classes=K, **settings). `builder` knows the others.

The shape is that of one sample, (C, H, W), (F, T), (T, E), or (T, V) of T tokens out of V. Networks for sequences take
`(inputs, valid=None)`, valid (N, T) true for the steps that count, the first ones of each, and what stands in the
others is nothing to them. Those for tokens take numbers (N, T), and embeddings (N, T, E) as their `embedded` makes of
numbers.
"""

_GIVEN = ("input_shape", "classes")


def builder(name: str) -> Callable[..., nn.Module]:
    """The builder that a model's name stands for, under the contract of `MODELS`.

    Raises UserError, with the key `model.name`, for a name that is none.
    """
    if name in MODELS:
        return MODELS[name]
    if name.startswith(custom.PREFIX):
        return custom.builder(name)
    if name.startswith(language.PREFIX):
        return language.builder(name)
    from salcore.models import torchvision_models  # here, because importing torchvision takes seconds

    known = torchvision_models.names()
    if name in known:
        return torchvision_models.builder(name)
    raise UserError("model.name", _choices(*BY_KIND, "tokens") + nearest(name, [*MODELS, *known], limit=3), name)


def _choices(*kinds: str) -> str:
    """The networks for some kinds of data, or for tokens, in words."""
    names = [name for kind in kinds for name in BY_KIND.get(kind, ())]
    stock = ["a torchvision classifier"] if "images" in kinds else []
    hub = [f"{language.PREFIX}NAME"] if "tokens" in kinds else []
    return f"{', '.join([*names, *stock, *hub])} or python:package.module:function"


def build(spec: "ModelSpec", *, input_shape: tuple[int, ...], classes: int, start: bool = True) -> nn.Module:
    """The network of a spec, (N, *input_shape) -> logits (N, K), with `model.weights` loaded where it names some.

    Initial values come from the global generators: the caller forks and seeds them. `start=False` leaves
    `model.weights` unread, for a caller that loads a trained member's weights next.

    Raises UserError for an unknown name, and for settings that it does not take.
    """
    network = _checked_builder(spec)(input_shape=input_shape, classes=classes, **spec.settings)
    if start and spec.weights is not None:
        load_weights(network, spec.weights, strict=False)
    return network


def check(
    spec: "ModelSpec", input_shape: tuple[int, ...], classes: int, kind: str = "images", tokens: bool = False
) -> None:
    """Raise UserError unless the spec's network can be built and takes samples of the kind and shape.

    A network for images, of ours or of torchvision, that does not take the size is refused with the smallest square
    that it takes. Others are run on two samples, and have to return logits (2, K). `tokens`: texts are tokens, of the
    shape (T, V), and not embedded words.
    """
    make = _checked_builder(spec)
    _require_kind(spec.name, kind, tokens)
    own = spec.name.startswith(custom.PREFIX)
    num_steps = {"series": input_shape[-1], "text": input_shape[0]}.get(kind)
    try_output = check_size if kind == "images" and not own else partial(check_output, num_steps=num_steps)
    with forked(0):  # a trial must not move the caller's random numbers
        (check_tokens if tokens else try_output)(
            lambda shape: make(input_shape=shape, classes=classes, **spec.settings),
            spec.name,
            input_shape=input_shape,
            classes=classes,
        )


def _require_kind(name: str, kind: str, tokens: bool) -> None:
    """Refuse a network for another kind of data."""
    if name.startswith(custom.PREFIX):
        return
    if name.startswith(language.PREFIX):
        if kind == "text" and not tokens:
            raise UserError("data.tokenizer", f"a tokenizer, as {name} takes tokens and not the vectors of words", None)
        fits = tokens
    else:
        fits = not tokens and (name in BY_KIND[kind] or (kind == "images" and name not in MODELS))
    if not fits:
        takes = "tokens" if tokens else kind
        raise UserError("model.name", f"a network for {takes}: {_choices(takes)}", name)


def _checked_builder(spec: "ModelSpec") -> Callable[..., nn.Module]:
    """The spec's builder, its settings held against its signature (a user's builder checks the rest itself)."""
    make = builder(spec.name)
    for name in _GIVEN:
        if name in spec.settings:
            raise UserError(f"model.{name}", "nothing: it comes from the data", spec.settings[name])
    if not spec.name.startswith(custom.PREFIX) and (mistake := find_mistake(make, spec.settings, reserved=_GIVEN)):
        raise UserError(f"model.{mistake.setting}", mistake.expected, mistake.got)
    return make
