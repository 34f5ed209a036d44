"""Any classifier of `torchvision.models`, fitted to the data's channels, size and classes."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torchvision
from torch import nn

from salcore.errors import UserError

# These call ReLU as a function too, where no module can be replaced.
_FUNCTIONAL_RELU = ("densenet", "googlenet", "inception")


def names() -> list[str]:
    """The names of all classifiers that torchvision builds."""
    return torchvision.models.list_models(module=torchvision.models)


def classifier(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    initialization: Literal["default", "he"] = "default",
    activation: Literal["default", "softplus"] = "default",
    norm: Literal["default", "instance"] = "default",
) -> nn.Module:
    """The named network without trained weights, (N, C, H, W) -> logits (N, K).

    Auxiliary classifiers (googlenet, inception_v3) are left out, so the output is one tensor in every mode. If the
    data has other than 3 channels the first convolution is replaced, initialised as PyTorch does by default.

    - `initialization: he` draws all convolutions from N(0, 2 / fan_out) with zero bias (He et al., 2015).
    - `activation: softplus` replaces every ReLU, as Woerl et al. (2023) do with VGG19.
    - `norm: instance` replaces every batch-norm by instance-norm with scale and shift (Woerl et al., section 4.2).

    Raises UserError if there is no ReLU or batch-norm to replace, or one that cannot be reached.
    """
    network = torchvision.models.get_model(name, weights=None, num_classes=classes, **_options(name, input_shape))
    if input_shape[0] != 3:
        _replace_first_convolution(network, input_shape[0])
    if activation == "softplus":
        if name.startswith(_FUNCTIONAL_RELU) or not _replace(network, nn.ReLU, lambda _: nn.Softplus()):
            raise UserError("model.activation", f"default, because {name} has ReLUs that are not modules, or none")
    if norm == "instance" and not _replace(network, nn.BatchNorm2d, _instance_norm):
        raise UserError("model.norm", f"default, because {name} has no batch-norm to replace", norm)
    if initialization == "he":
        network.apply(_he)
    return network


def _options(name: str, input_shape: tuple[int, int, int]) -> dict[str, object]:
    """Arguments that only this family's constructor takes."""
    if name in ("googlenet", "inception_v3"):
        # Said aloud, because torchvision warns that the default of init_weights will change.
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": input_shape[-1]}
    if name.startswith("maxvit_"):
        return {"input_size": input_shape[1:]}
    return {}


def _replace(network: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> int:
    """Put `make(old)` in place of every module of a kind, and count them."""
    places = [
        (parent, name) for parent in network.modules() for name, child in parent.named_children() if type(child) is kind
    ]
    for parent, name in places:
        setattr(parent, name, make(getattr(parent, name)))
    return len(places)


def _instance_norm(old: nn.Module) -> nn.Module:
    assert isinstance(old, nn.BatchNorm2d)
    return nn.InstanceNorm2d(old.num_features, eps=old.eps, affine=True)


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    name, old = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    copied = ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    settings = {key: getattr(old, key) for key in copied}
    network.set_submodule(name, nn.Conv2d(channels, bias=old.bias is not None, **settings))


def _he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def builder(name: str) -> Callable[..., nn.Module]:
    """The builder of one named network, under the contract of `MODELS`."""
    return partial(classifier, name)
