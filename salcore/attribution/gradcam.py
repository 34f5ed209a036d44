"""GradCAM: the channels of one layer, weighted by their mean gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.attribution.autograd import derivative, prepared, select
from salcore.settings import nearest

# After these the map is no longer the last convolution's, even where its size is the same.
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def gradcam(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, layer: str | None = None, relu: bool = False
) -> Tensor:
    """S(x) = sum over channels c of w_c A_c, with A the layer's output and w_c the mean over pixels of d f_t / d A_c.

    Inputs (N, C, H, W), targets (N,); returns (N, 1, H, W), enlarged from the layer's size bilinearly (corners not
    aligned). The layer is a module's name as in `model.named_modules()`; None takes `top_layer`. Of a module that is
    called several times, the last call counts. Signed, as averages over members need; `relu=True` is the paper's
    Eq. 2 and cuts negative values to 0 before enlarging.

    Raises ValueError for a layer that does not exist, is not run, has no output (N, C, h, w), or whose map is 1 x 1.

    Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (Selvaraju et al., 2017), Eq. 1.
    """
    with prepared(model, inputs, targets) as (inputs, targets):
        name = top_layer(model, inputs) if layer is None else layer
        activation, gradient = _at(model, _module(model, name), name, inputs, targets)
        if activation.shape[2:] == (1, 1):
            raise ValueError(_no_map(model, inputs, name))
        weights = gradient.mean((2, 3), keepdim=True)
        values = (weights * activation).sum(1, keepdim=True)
        if relu:
            values = values.relu()
        return functional.interpolate(values, inputs.shape[2:], mode="bilinear", align_corners=False)


def top_layer(model: nn.Module, inputs: Tensor) -> str:
    """The name of the layer that GradCAM explains by default, found by running the model once on the first input.

    It is the last output (N, C, h, w) before a pooling layer or a change of size that follows the last convolution:
    layer4 of a ResNet, the ReLU after the last convolution of a VGG, that convolution itself where nothing follows.

    Raises ValueError if the model runs no two-dimensional convolution.
    """
    calls = _calls(model, inputs)
    last = max((place for place, call in enumerate(calls) if issubclass(call.kind, nn.Conv2d)), default=None)
    if last is None:
        raise ValueError("`model`: expected a two-dimensional convolution to find the top layer by, got none")
    size = calls[last].size
    return list(takewhile(lambda call: call.size == size and not issubclass(call.kind, _POOLING), calls[last:]))[
        -1
    ].name


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One execution of a module whose output is (N, C, h, w)."""

    name: str
    kind: type[nn.Module]
    size: tuple[int, int]


def _calls(model: nn.Module, inputs: Tensor) -> list[_Call]:
    """Every execution with an image-like output, in the order in which they end."""
    calls: list[_Call] = []
    names = {module: name for name, module in model.named_modules() if name}

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            rows, columns = output.shape[2:]
            calls.append(_Call(name=names[module], kind=type(module), size=(rows, columns)))

    handles = [module.register_forward_hook(record) for module in names]
    try:
        with torch.no_grad():
            model(inputs[:1].clone())
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _module(model: nn.Module, name: str) -> nn.Module:
    named = dict(model.named_modules())
    if name not in named or not name:
        raise ValueError(f"`layer`: expected the name of a module{nearest(name, named, limit=3)}, got {name!r}")
    return named[name]


@contextmanager
def _tapped(module: nn.Module) -> Iterator[list[object]]:
    """A list that holds the module's last output, made a leaf of the graph, once the model has run."""
    taken: list[object] = []

    def take(_: nn.Module, __: object, output: object) -> object:
        leaf = output.detach().requires_grad_() if isinstance(output, Tensor) else output
        taken[:] = [leaf]
        # A copy goes on: a ReLU in place after this layer must not change what was taken.
        return leaf.clone() if isinstance(leaf, Tensor) else leaf

    handle = module.register_forward_hook(take)
    try:
        yield taken
    finally:
        handle.remove()


def _at(model: nn.Module, module: nn.Module, name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's output and the gradient of the target's logit by it, both (N, C, h, w)."""
    with _tapped(module) as taken:
        selected = select(model(inputs.clone()), targets)
    if not taken:
        raise ValueError(f"`layer`: expected a layer that the model runs, got {name!r}")
    activation = taken[0]
    if not isinstance(activation, Tensor) or activation.ndim != 4:
        got = tuple(activation.shape) if isinstance(activation, Tensor) else type(activation).__name__
        raise ValueError(f"`layer`: expected a layer whose output is (N, C, h, w), got {name!r} with {got}")
    return activation.detach(), derivative(selected, activation)


def _no_map(model: nn.Module, inputs: Tensor, name: str) -> str:
    """What to say of a layer without a map: the last layer of each size that has one, from the top down."""
    last = {call.size: call.name for call in _calls(model, inputs) if call.size != (1, 1)}
    found = ", ".join(f"{layer} ({rows} x {columns})" for (rows, columns), layer in reversed(last.items()))
    return f"`layer`: expected one that has a map, such as {found or 'none here'}, got {name!r} whose output is 1 x 1"
