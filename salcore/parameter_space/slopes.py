"""How the magnitudes of a layer's weight gradients change with what the layer is given and with the gradient it gets.

A layer's weight gradient dW(x, g) is linear in its input x and in the gradient g at its output. With the signs
S = sign dW held fixed, as they are almost everywhere,

    T(x, g) = sum_k c_k sum_{i in filter k} |dW_i| = <c g, x * S>        dT/dg = c (x * S)        dT/dx = (c g) *' S

where x * S is the layer with S as its weight, *' its adjoint, and c_k multiplies channel k of the output. So no more of
dW is needed than its signs, for one sample and one layer at a time.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from salcore.parameter_space.graph import Call
from salcore.parameter_space.kernel import Use


@torch.no_grad()
def slopes(uses: Sequence[Use], factors: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each use of one layer dT/dg and dT/dx, of the shapes of `use.gradient` and `use.call.given`.

    T sums over samples; `factors` (N, filters) are their c. Rows that belong to no sample get zeros.
    """
    factors = factors.to(uses[0].gradient.dtype)
    if len(uses) == 1 and uses[0].rows is None and uses[0].positions == 1 and not uses[0].transposed:
        return [_of_one_position(uses[0], factors)]
    found = [(torch.zeros_like(use.gradient), torch.zeros_like(use.call.given)) for use in uses]
    for sample, factor in enumerate(factors):
        rows = [_rows(use, sample) for use in uses]
        each = list(zip(uses, rows, found, strict=True))
        parts = (_weight_gradient(use.call, use.call.given[of], use.gradient[of]) for use, of, _ in each)
        signs = reduce(torch.add, parts).sign_()
        for use, of, (by_gradient, by_given) in each:
            c = _channels(factor[None], use.gradient)
            by_gradient[of] = c * _applied(use.call, use.call.given[of], signs)
            by_given[of] = _adjoint(use.call, use.call.given[of], c * use.gradient[of], signs)
    return found


def _of_one_position(use: Use, factors: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes where |dW| = |g| |x|: of |x| summed over all that a filter sees, c |g| over the filters of a group."""
    call, given, gradient = use.call, use.call.given, use.gradient
    c, groups = _channels(factors, gradient), call.groups
    ones = call.weight.new_ones(groups, *call.weight.shape[1:], dtype=given.dtype)  # one filter for each group
    seen = _applied(call, given.abs(), ones).repeat_interleave(call.filters // groups, 1)
    summed = (c * gradient.abs()).unflatten(1, (groups, -1)).sum(2)
    return c * gradient.sign() * seen, given.sign() * _adjoint(call, given, summed, ones)


def _rows(use: Use, sample: int) -> slice | Tensor:
    if use.rows is None:
        return slice(sample, sample + 1)
    return use.rows[sample][use.rows[sample] >= 0]


def _channels(factors: Tensor, like: Tensor) -> Tensor:
    """Factors (N, A) that multiply the channels of (B, A, ...)."""
    return factors.view(*factors.shape, *[1] * (like.ndim - 2))


def _applied(call: Call, given: Tensor, weight: Tensor) -> Tensor:
    """The layer's output with another weight and no bias."""
    if call.kind == "linear":
        return given @ weight.mT
    return torch.ops.aten.convolution(given, weight, None, *_geometry(call))


def _adjoint(call: Call, given: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient at the layer's input, of the shape of `given`, with another weight."""
    if call.kind == "linear":
        return gradient @ weight
    rest = None, *_geometry(call), [True, False, False]
    return torch.ops.aten.convolution_backward(gradient, given, weight, *rest)[0]


def _weight_gradient(call: Call, given: Tensor, gradient: Tensor) -> Tensor:
    if call.kind == "linear":
        return gradient.mT @ given
    rest = None, *_geometry(call), [False, True, False]
    return torch.ops.aten.convolution_backward(gradient, given, call.weight.to(given.dtype), *rest)[1]


def _geometry(call: Call) -> tuple[Any, ...]:
    """What torch's convolutions take after the bias: stride to groups."""
    node: Any = call.node
    names = "stride", "padding", "dilation", "transposed", "output_padding", "groups"
    return tuple(getattr(node, f"_saved_{name}") for name in names)
