"""GradCAM: the channels of one layer, weighted by their mean gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.attribution.autograd import derivative, prepared, require_images, select
from salcore.precision import at_least_float32
from salcore.settings import nearest

# Before these ends the last map, even where they keep its size.
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)


def gradcam(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, layer: str | None = None, relu: bool = False
) -> Tensor:
    """S(x) = sum over channels c of w_c A_c, with A the layer's output and w_c the mean over pixels of d f_t / d A_c.

    Inputs (N, C, H, W), targets (N,); returns (N, 1, H, W), enlarged from the layer's size bilinearly (corners not
    aligned). The layer is a module's name as in `model.named_modules()`; None takes `top_layer`. Of a module that is
    called several times, the last call counts; an output (N, h, w, C), as of Swin's blocks, is turned. Signed, as
    averages over members need; `relu=True` is the paper's Eq. 2 and cuts negative values to 0 before enlarging.

    Raises ValueError for inputs that are no images, for a layer that does not exist, is not run, has no output
    (N, C, h, w), or whose map is 1 x 1, and for a network of tokens whose layer is not named.

    Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization (Selvaraju et al., 2017), Eq. 1.
    """
    with prepared(model, inputs, targets) as (inputs, targets):
        require_images(inputs, "GradCAM")
        name = top_layer(model, inputs) if layer is None else layer
        activation, gradient = _at(model, _module(model, name), name, inputs, targets)
        if activation.shape[2:] == (1, 1):
            raise ValueError(_no_map(model, inputs, name))
        activation, gradient = at_least_float32(activation), at_least_float32(gradient)  # of a pass in bfloat16
        weights = gradient.mean((2, 3), keepdim=True)
        values = (weights * activation).sum(1, keepdim=True)
        if relu:
            values = values.relu()
        return functional.interpolate(values, inputs.shape[2:], mode="bilinear", align_corners=False).to(inputs.dtype)


def top_layer(model: nn.Module, inputs: Tensor) -> str:
    """The name of the layer that GradCAM explains by default, found by running the model once on the first input.

    It is the last map before the network gives up pixels for good: the first pooling module after the last convolution
    fixes the size, and the last output (N, C, h, w) of that size before it counts. What lies between (batch-norm,
    activation, the sum of a residual block, the blocks' container) is part of the map. Without such a pooling the
    last convolution fixes the size.

    Raises ValueError if the model runs no two-dimensional convolution, or goes on with tokens after that layer.
    """
    calls = _calls(model, inputs)
    convolutions = [place for place, call in enumerate(calls) if _is_convolution(call)]
    if not convolutions:
        raise ValueError(
            "`model`: expected a two-dimensional convolution to find the top layer by, got none; "
            "gradient, integrated_gradients and lime need no layer"
        )
    after, turned = calls[convolutions[-1] :], _channels_last(calls)
    sizes = [None if len(call.shape) == 2 or call.shape in turned else call.shape[1:] for call in after]
    end = next((place for place in range(len(after)) if _gives_up_pixels(after[place:])), len(after))
    # The pooling's size first: where functions came in between, it may be one that no module put out.
    wanted = [*(call.given[1:] for call in after[end : end + 1]), after[0].shape[1:]]
    top = next(place for size in wanted for place in reversed(range(end)) if sizes[place] == size)
    name = after[top].name
    if None in sizes[top:]:
        raise ValueError(
            f"`model`: expected maps (N, C, h, w) up to its end, got tokens after {name!r}: "
            f"name a layer by `layer`, such as {name!r}, or use generic_attention or attention_rollout"
        )
    return name


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One execution of a module that puts out maps or tokens: shapes of one sample, (C, h, w), (h, w, C) or (T, C)."""

    name: str
    kind: type[nn.Module]
    given: tuple[int, ...]
    shape: tuple[int, ...]


def _gives_up_pixels(calls: list[_Call]) -> bool:
    """Whether the first call is a pooling whose result the network goes on with, and no gate (squeeze-excitation).

    After a gate's pooling to 1 x 1 there are maps of the size before it.
    """
    first, *later = calls
    if not issubclass(first.kind, _POOLING) or len(first.given) != 3:
        return False
    size = first.given[1:]
    maps = (call for call in later if len(call.shape) == 3 and not issubclass(call.kind, _POOLING))
    return first.shape[1:] != (1, 1) or size == (1, 1) or all(call.shape[1:] != size for call in maps)


def _channels_last(calls: list[_Call]) -> set[tuple[int, ...]]:
    """The shapes that are (h, w, C), as in Swin: those that a linear layer or layer-norm puts out, and no convolution.

    What has such a shape without being one's output, as a residual block's sum, lies in memory as they do.
    """
    return _linear_shapes(calls) - {call.shape for call in calls if _is_convolution(call)}


def _linear_shapes(calls: list[_Call]) -> set[tuple[int, ...]]:
    """Shapes of three axes that a linear layer or layer-norm puts out."""
    return {call.shape for call in calls if call.kind in (nn.Linear, nn.LayerNorm) and len(call.shape) == 3}


def _is_convolution(call: _Call) -> bool:
    return issubclass(call.kind, nn.Conv2d) and len(call.shape) == 3


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[_Call]]:
    """A list of every execution with an output of three or four axes, in the order in which they end."""
    calls: list[_Call] = []
    names = {module: name for name, module in model.named_modules() if name}

    def record(module: nn.Module, given: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            first = given[0].shape[1:] if given and isinstance(given[0], Tensor) else ()
            calls.append(_Call(name=names[module], kind=type(module), given=(*first,), shape=(*output.shape[1:],)))

    handles = [module.register_forward_hook(record) for module in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _calls(model: nn.Module, inputs: Tensor) -> list[_Call]:
    """What `_watched` sees of the first input."""
    with _watched(model) as calls, torch.no_grad():
        model(inputs[:1].clone())
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
    with _watched(model) as calls, _tapped(module) as taken:
        selected = select(model(inputs.clone()), targets)
    if not taken:
        raise ValueError(f"`layer`: expected a layer that the model runs, got {name!r}")
    activation = taken[0]
    if not isinstance(activation, Tensor) or activation.ndim != 4:
        got = tuple(activation.shape) if isinstance(activation, Tensor) else type(activation).__name__
        raise ValueError(f"`layer`: expected a layer whose output is (N, C, h, w), got {name!r} with {got}")
    if len(activation) != len(inputs):
        raise ValueError(f"`layer`: expected a layer with a map for each input, got {name!r} with {len(activation)}")
    pair, shape = (activation.detach(), derivative(selected, activation)), tuple(activation.shape[1:])
    if shape in _linear_shapes(calls) and shape not in _channels_last(calls):
        raise ValueError(f"`layer`: expected a layer whose channels can be told from its pixels, got {name!r}, {shape}")
    if shape in _channels_last(calls):
        return pair[0].movedim(3, 1), pair[1].movedim(3, 1)
    return pair


def _no_map(model: nn.Module, inputs: Tensor, name: str) -> str:
    """What to say of a layer without a map: the last layer of each size that has one, from the top down."""
    calls = [call for call in _calls(model, inputs) if len(call.shape) == 3]
    turned = _channels_last(calls)
    last = {call.shape[:2] if call.shape in turned else call.shape[1:]: call.name for call in calls}
    last.pop((1, 1), None)
    found = ", ".join(f"{layer} ({rows} x {columns})" for (rows, columns), layer in reversed(last.items()))
    return f"`layer`: expected one that has a map, such as {found or 'none here'}, got {name!r} whose output is 1 x 1"
