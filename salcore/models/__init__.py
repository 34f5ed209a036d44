"""Networks by name: ours, torchvision's classifiers, and users' own by `python:package.module:function`.

>>> from salcore.spec import ModelSpec
>>> build(ModelSpec(name="small_cnn", width=4), input_shape=(1, 8, 8), classes=10).classifier.linear.in_features
64
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from salcore.errors import UserError
from salcore.models import custom
from salcore.models.mnist_cnn import mnist_cnn
from salcore.models.sizes import check_output, check_size
from salcore.models.small_cnn import small_cnn
from salcore.models.small_vit import small_vit
from salcore.models.weights import load_weights
from salcore.seeds import forked
from salcore.settings import find_mistake, nearest

if TYPE_CHECKING:
    from salcore.spec import ModelSpec

__all__ = ["MODELS", "build", "builder", "check", "load_weights"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn,
    "mnist_cnn": mnist_cnn,
    "small_vit": small_vit,
}
"""Our own networks: name -> builder(*, input_shape=(C, H, W), classes=K, **settings). `builder` knows the others."""

_GIVEN = ("input_shape", "classes")


def builder(name: str) -> Callable[..., nn.Module]:
    """The builder that a model's name stands for, under the contract of `MODELS`.

    Raises UserError, with the key `model.name`, for a name that is none.
    """
    if name in MODELS:
        return MODELS[name]
    if name.startswith(custom.PREFIX):
        return custom.builder(name)
    from salcore.models import torchvision_models  # here, because importing torchvision takes seconds

    known = torchvision_models.names()
    if name in known:
        return torchvision_models.builder(name)
    choices = f"{', '.join(MODELS)}, a torchvision classifier or python:package.module:function"
    raise UserError("model.name", choices + nearest(name, [*MODELS, *known], limit=3), name)


def build(spec: "ModelSpec", *, input_shape: tuple[int, int, int], classes: int, start: bool = True) -> nn.Module:
    """The network of a spec, (N, C, H, W) -> logits (N, K), with `model.weights` loaded where it names some.

    Initial values come from the global generators: the caller forks and seeds them. `start=False` leaves
    `model.weights` unread, for a caller that loads a trained member's weights next.

    Raises UserError for an unknown name, and for settings that it does not take.
    """
    network = _checked_builder(spec)(input_shape=input_shape, classes=classes, **spec.settings)
    if start and spec.weights is not None:
        load_weights(network, spec.weights, strict=False)
    return network


def check(spec: "ModelSpec", input_shape: tuple[int, int, int], classes: int) -> None:
    """Raise UserError unless the spec's network can be built and takes images of the shape (C, H, W).

    A network of ours or of torchvision that does not take the size is refused with the smallest square that it
    takes. A user's own is run on two images, and has to return logits (2, K).
    """
    make = _checked_builder(spec)
    try_output = check_output if spec.name.startswith(custom.PREFIX) else check_size
    with forked(0):  # a trial must not move the caller's random numbers
        try_output(
            lambda shape: make(input_shape=shape, classes=classes, **spec.settings),
            spec.name,
            input_shape=input_shape,
            classes=classes,
        )


def _checked_builder(spec: "ModelSpec") -> Callable[..., nn.Module]:
    """The spec's builder, its settings held against its signature (a user's builder checks the rest itself)."""
    make = builder(spec.name)
    for name in _GIVEN:
        if name in spec.settings:
            raise UserError(f"model.{name}", "nothing: it comes from the data", spec.settings[name])
    if not spec.name.startswith(custom.PREFIX) and (mistake := find_mistake(make, spec.settings, reserved=_GIVEN)):
        raise UserError(f"model.{mistake.setting}", mistake.expected, mistake.got)
    return make
