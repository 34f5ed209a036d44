"""DeepLIFT's multipliers: for each operation a network calls, how its change between baseline and input is shared out.

A rule gives the operation's value at the input and, in place of its derivative, a multiplier m with

    m (x - x') = y - y'        summed over the operation's inputs, where ' marks the baseline,

so that the chain rule, run by autograd as ever, accounts for the whole change of the output. Linear operations have no
rule: their derivative is their multiplier.

Learning Important Features Through Propagating Activation Differences (Shrikumar et al., 2017).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Values = tuple[Any, ...]
Rule = Callable[[Callable[..., Any], Values, dict[str, Any], Values], Any]
"""(function, arguments at the input, keyword arguments, arguments at the baseline) -> the function's result."""


class NoRule(ValueError):
    """An operation that no multiplier is defined for, by its name."""


class _Ruled(torch.autograd.Function):
    """`rule(x)` is the value and its multiplier by x; without one, the derivative is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: Callable[[Tensor], tuple[Tensor, Tensor | None]]) -> Tensor:
        value, multiplier = rule(x)
        ctx.save_for_backward(multiplier)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (multiplier,) = ctx.saved_tensors
        return gradients[0] if multiplier is None else gradients[0] * multiplier, None


def is_active(value: object) -> bool:
    """Whether a value depends on the input that is explained: all else in the graph is constant."""
    return isinstance(value, Tensor) and value.requires_grad


def _aligned(x: Tensor, x0: Tensor) -> Tensor:
    """The baseline's value, of the shape of `x` but for the axis of the batch, which may be 1.

    Raises NoRule for another one, as where a network folds the batch into another axis.
    """
    pairs = list(zip(x.shape, x0.shape, strict=False))
    if x.ndim != x0.ndim or sum(mine != theirs for mine, theirs in pairs) > 1 or any(m != t != 1 for m, t in pairs):
        raise NoRule(f"shapes that differ between input, {tuple(x.shape)}, and baseline, {tuple(x0.shape)}")
    return x0


def _quotient(function: Callable[[Tensor], Tensor], x: Tensor, x0: Tensor, smooth: bool) -> tuple[Tensor, Tensor]:
    """The value y and (y - y') / (x - x'), or the slope half way where the difference is too small to divide by.

    Too small is 0 for a piecewise linear function, whose quotient has no rounding error worth the name. For the others
    it is the root of the machine's precision: there the slope half way is as good as exact, and the quotient all noise.
    """
    y, change = function(x), x - x0
    multiplier = (y - function(x0)).div_(change)
    if not smooth:
        slope = y > 0 if function is functional.relu else _slope(function, x)
        return y, torch.where(change == 0, slope, multiplier)
    near = change.abs_() <= torch.finfo(x.dtype).eps ** 0.5 * x.abs().clamp_(min=1)
    return y, torch.where(near, _slope(function, (x + x0) / 2), multiplier)


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]


def elementwise(
    function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values, *, smooth: bool
) -> Tensor:
    """The Rescale rule of a function of one tensor; further arguments are constants."""
    x, *constants = arguments
    if not is_active(x) or any(map(is_active, (*constants, *keywords.values()))):
        raise NoRule(f"{function.__name__} with another argument that depends on the input")
    x0 = _aligned(x, kept[0])

    def pure(values: Tensor) -> Tensor:
        return function(values.clone() if may_write else values, *constants, **keywords)

    flags = any(value is True for value in constants)  # one of them may say that the function works in place
    may_write = _marked(function) or keywords.get("inplace", False) or flags
    plain = functional.relu if function.__name__.strip("_") == "relu" else pure
    y = _Ruled.apply(x, lambda values: _quotient(plain, values, x0, smooth))
    writes = may_write and (not flags or _writes(function, x, constants, keywords))
    return _written(x, y) if writes else y


def _marked(function: Callable[..., Any]) -> bool:
    """Whether the name says that the function works in place; operators have two underscores."""
    return function.__name__.endswith("_") and not function.__name__.endswith("__")


def _writes(function: Callable[..., Tensor], x: Tensor, constants: list[Any], keywords: dict[str, Any]) -> bool:
    """Whether a call with flags by position works in place, found on a single value."""
    probe = x.detach().flatten()[:1].clone()
    return function(probe, *constants, **keywords) is probe


def _written(x: Tensor, y: Tensor) -> Tensor:
    """`x` with the values and the history of `y`, as after an operation in place: others may hold `x` too."""
    return x.copy_(y) if x._is_view() else x.detach_().copy_(y)


def product(function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values) -> Tensor:
    """Both factors' Shapley value: a (x) b - a' (x) b' = (a - a') (x) (b + b') / 2 + (a + a') / 2 (x) (b - b').

    For any bilinear operation. Where one factor is constant it is linear, and autograd's derivative is exact.
    """
    a, b, *rest = arguments
    if not (is_active(a) and is_active(b)):
        return function(*arguments, **keywords)
    pure = getattr(torch, function.__name__.strip("_"))
    middle_a, middle_b = (_middle(value, value0) for value, value0 in ((a, kept[0]), (b, kept[1])))
    shares = pure(a, middle_b, *rest) + pure(middle_a, b, *rest)
    y = _Ruled.apply(shares, lambda _: (pure(a.detach(), b.detach(), *rest), None))
    return _written(a, y) if _marked(function) else y


def _middle(x: Tensor, x0: Tensor) -> Tensor:
    return (x.detach() + _aligned(x, x0)) / 2


def _quotient_of_two(
    function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values
) -> Tensor:
    """Division as the product of a and 1 / b."""
    (a, b), (a0, b0) = arguments, kept
    if function.__name__ == "__rdiv__":
        (a, b), (a0, b0) = (b, a), (b0, a0)
    if not is_active(b):
        return function(*arguments, **keywords)
    if keywords.get("rounding_mode"):
        raise NoRule("division with rounding")
    inverse = elementwise(torch.reciprocal, (b,), {}, (b0,), smooth=True)
    y = product(torch.mul, (a, inverse), {}, (a0, 1 / b0))
    return _written(a, y) if _marked(function) else y


def _max_pool(function: Callable[..., Any], arguments: Values, keywords: dict[str, Any], kept: Values) -> Tensor:
    """All of y - y' goes to one cell: where the larger of the two maxima stands.

    With y > y' that is the maximum of the input, whose own change is y - y' at the least; otherwise that of the
    baseline. So the multiplier is between 0 and 1.
    """
    pool = partial(getattr(functional, function.__name__), **keywords | {"return_indices": True})
    x, *rest = arguments
    x0 = _aligned(x, kept[0])
    axis = x.ndim - int(function.__name__[-2])  # indices count the pixels of the pooled axes together
    with torch.no_grad():
        y, place = pool(x, *rest)
        y0, place0 = pool(x0, *rest)
        chosen = torch.where(y >= y0, place, place0).flatten(axis)
        change = (x - x0).flatten(axis).gather(axis, chosen)
        multiplier = torch.where(change == 0, 1, (y - y0).flatten(axis) / change).view_as(y)
    taken = x.flatten(axis).gather(axis, chosen).view_as(y)
    return _Ruled.apply(taken, lambda _: (y, multiplier))


def _amax(function: Callable[..., Any], arguments: Values, keywords: dict[str, Any], kept: Values) -> Tensor:
    """Maximum over axes, as pooling over all of them; the minimum is that of the negative."""
    if function.__name__ == "amin":
        return -_amax(torch.amax, (-arguments[0], *arguments[1:]), keywords, (-kept[0],))
    x, *rest = arguments
    x0 = _aligned(x, kept[0]).expand_as(x)
    axes, keep = _named(("dim", "keepdim"), ((), False), rest, keywords)
    axes = (axes,) if isinstance(axes, int) else tuple(axes) or tuple(range(x.ndim))
    axes = tuple(axis % x.ndim for axis in axes)
    if 0 in axes:
        raise NoRule("amax over samples")
    others = [axis for axis in range(x.ndim) if axis not in axes]
    flat, flat0 = (value.permute(*others, *axes).flatten(len(others)).flatten(0, -2)[None] for value in (x, x0))
    top = _max_pool(functional.adaptive_max_pool1d, (flat, 1), {}, (flat0,))
    shape = [1 if axis in axes else x.shape[axis] for axis in range(x.ndim)] if keep else [x.shape[i] for i in others]
    return top.reshape(shape)


def _normalised(x: Tensor, x0: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over some axes, by the rules of square, inverse root and product."""
    centred, centred0 = (value - value.mean(axes, keepdim=True) for value in (x, x0))
    squares = elementwise(torch.square, (centred,), {}, (centred0,), smooth=True)
    variance, variance0 = squares.mean(axes, keepdim=True) + eps, centred0.square().mean(axes, keepdim=True) + eps
    scale = elementwise(torch.rsqrt, (variance,), {}, (variance0,), smooth=True)
    return product(torch.mul, (centred, scale), {}, (centred0, variance0.rsqrt()))


def _layer_norm(function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values) -> Tensor:
    x, *rest = arguments
    names = ("normalized_shape", "weight", "bias", "eps")
    shape, weight, bias, eps = _named(names, (None, None, None, 1e-5), rest, keywords)
    y = _normalised(x, _aligned(x, kept[0]), tuple(range(x.ndim - len(shape), x.ndim)), eps)
    return _affine(y, weight, bias)


def _group_norm(function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values) -> Tensor:
    x, *rest = arguments
    names = ("num_groups", "weight", "bias", "eps")
    groups, weight, bias, eps = _named(names, (None, None, None, 1e-5), rest, keywords)
    split, split0 = (value.unflatten(1, (groups, -1)).flatten(2) for value in (x, _aligned(x, kept[0])))
    y = _normalised(split, split0, (2,), eps).view_as(x)
    shape = (-1, *[1] * (x.ndim - 2))
    return _affine(y, *(None if value is None else value.view(shape) for value in (weight, bias)))


def _instance_norm(
    function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values
) -> Tensor:
    """Group normalisation with a group for each channel, unless it uses statistics of the training."""
    x, *rest = arguments
    names = ["running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"]
    if function is torch.instance_norm:  # has the two pairs the other way round
        names[:4] = names[2:4] + names[:2]
    given = dict(zip(names, rest, strict=False)) | keywords
    if not given.get("use_input_stats", True):
        return function(*arguments, **keywords)
    constants = (x.shape[1], given.get("weight"), given.get("bias"), given.get("eps", 1e-5))
    return _group_norm(function, (x, *constants), {}, kept)


def _maximum(function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values) -> Tensor:
    """The larger of two is b + relu(a - b), the smaller b - relu(b - a)."""
    (a, b), (a0, b0) = arguments, kept
    sign = 1 if function.__name__ == "maximum" else -1
    gap, gap0 = sign * (a - b), sign * (a0 - b0)
    return b + sign * elementwise(functional.relu, (gap,), {}, (gap0,), smooth=False)


def _glu(function: Callable[..., Tensor], arguments: Values, keywords: dict[str, Any], kept: Values) -> Tensor:
    """One half times the sigmoid of the other."""
    (axis,) = _named(("dim",), (-1,), list(arguments[1:]), keywords)
    (a, b), (a0, b0) = (value.chunk(2, axis) for value in (arguments[0], kept[0]))
    gate = elementwise(torch.sigmoid, (b,), {}, (b0,), smooth=True)
    return product(torch.mul, (a, gate), {}, (a0, b0.sigmoid()))


def _named(names: tuple[str, ...], defaults: Values, positional: list[Any], keywords: dict[str, Any]) -> list[Any]:
    """Values of the parameters that follow, given by position, by name or not at all."""
    given = dict(zip(names, positional, strict=False)) | keywords
    return [given.get(name, default) for name, default in zip(names, defaults, strict=True)]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


_PIECEWISE = (
    "relu leaky_relu prelu hardtanh relu6 hardsigmoid clamp clip clamp_min clamp_max abs threshold hardshrink "
    "softshrink"
)
_SMOOTH = (
    "sigmoid tanh softplus gelu silu mish elu selu celu hardswish softsign log_sigmoid tanhshrink "
    "special_expit erf sin cos atan exp expm1 log log1p log2 sqrt rsqrt square reciprocal pow rpow"
)
_POOLS = [f"{kind}max_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3)]

ELEMENTARY: dict[str, Rule] = {
    **{name: partial(elementwise, smooth=False) for name in _PIECEWISE.split()},
    **{name: partial(elementwise, smooth=True) for name in _SMOOTH.split()},
    **dict.fromkeys(_POOLS, _max_pool),
    **dict.fromkeys(("mul", "multiply", "matmul", "bmm", "mm"), product),
    **dict.fromkeys(("div", "divide", "true_divide", "rdiv"), _quotient_of_two),
    **dict.fromkeys(("amax", "amin"), _amax),
    **dict.fromkeys(("maximum", "minimum"), _maximum),
    "glu": _glu,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
"""Rules by the plain name of a torch function, in whatever way the network calls it."""
