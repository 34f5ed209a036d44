"""The one primitive under the attention methods: the weights of every self-attention, and patches' values as a picture.

The network is not edited and no hook is set. While it runs, `Calls` stands in for three functions that attention is
made of: multi-head attention and scaled dot-product attention, which keep their weights to themselves, are computed as
they are written, softmax(q k^T) v, and a softmax is looked at. What the network puts out stays the same.

>>> import torch
>>> from salcore.models.small_vit import small_vit
>>> model, shapes = small_vit(input_shape=(1, 8, 8), classes=3, depth=2), []
>>> _ = attended(model.eval(), torch.zeros(5, 1, 8, 8), torch.zeros(5).long(), lambda a: shapes.append(tuple(a.shape)))
>>> shapes
[(5, 4, 5, 5), (5, 4, 5, 5)]
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.attribution.autograd import require_images, select
from salcore.calls import Calls

_OTHERS = "gradient, integrated_gradients and gradcam work without attention"
# Of multi-head attention: what adds keys and values that no token stands for.
_ADDED = ("bias_k", "bias_v", "add_zero_attn", "static_k", "static_v")


def attended(model: nn.Module, inputs: Tensor, targets: Tensor, take: Callable[[Tensor], object]) -> Tensor:
    """The target's logits (N,), with `take` called on the weights A (N, heads, T, T) of each self-attention, in order.

    Row i of A is what token i takes from each token; it sums to 1. The logits can be differentiated by every A, because
    the network goes on with the very tensor that `take` got. To be called inside `prepared`.

    Seen are `nn.MultiheadAttention` and its function, `scaled_dot_product_attention`, and a softmax along the last axis
    of (N, heads, T, T). Attention without one of them (a custom kernel, TorchScript) cannot be seen.

    Raises ValueError for inputs that are no images, an output that is no logits, a target that is no class, and a
    network without attention, or with one that is not over the same T tokens and as many heads in every layer:
    cross-attention, windows, merging.
    """
    require_images(inputs, "a map of attention over patches")
    layers = _Layers(inputs, take)
    rules = {
        "conv2d": layers.convolution,
        "multi_head_attention_forward": layers.multi_head,
        "scaled_dot_product_attention": lambda _, arguments, keywords: layers.scaled(*arguments, **keywords),
        "softmax": layers.softmax,
    }
    with Calls(rules):
        logits = model(inputs.clone())
    selected = select(logits, targets)
    if layers.shape is None:
        raise _unfit("self-attention with weights (N, heads, T, T)", "a network without any that can be seen")
    return selected


def as_picture(relevance: Tensor, inputs: Tensor) -> Tensor:
    """The class token's row of relevance (N, T, T) over the patches, enlarged bilinearly: (N, 1, H, W) as the inputs.

    The grid of patches has the proportions of the image, rows x columns = T - 1 behind the class token, which is the
    first. Without a class token, rows x columns = T, the mean over all tokens' rows stands for its row.

    Raises ValueError for another number of tokens.
    """
    tokens, size = relevance.shape[-1], (inputs.shape[2], inputs.shape[3])
    # Of T and T - 1 at most one fits: no two numbers rows x columns x factor^2 of one image are neighbours.
    fits = [(extra, grid) for extra in (0, 1) if (grid := _grid(tokens - extra, size))]
    if not fits:
        wanted = f"one token for each patch of the {size[0]} x {size[1]} image and at most one more, the class token's"
        raise _unfit(wanted, f"{tokens} tokens")
    extra, grid = fits[0]
    values = relevance[:, 0, 1:] if extra else relevance.mean(1)
    values = values.to(inputs.dtype).reshape(len(inputs), 1, *grid)
    return functional.interpolate(values, size, mode="bilinear", align_corners=False)


def _grid(patches: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns in the proportions of the image, `patches` in all; None if there are none."""
    common = math.gcd(*size)
    rows, columns = (side // common for side in size)
    factor = math.isqrt(patches // (rows * columns))
    return (rows * factor, columns * factor) if 0 < patches == rows * columns * factor**2 else None


class _Layers:
    """Rules for `Calls` that let each self-attention's weights be taken, all of one shape, for a number of samples."""

    def __init__(self, inputs: Tensor, take: Callable[[Tensor], object]) -> None:
        self.shape: tuple[int, ...] | None = None
        self._samples, self._image, self._take = len(inputs), tuple(inputs.shape[2:]), take
        self._grid: tuple[int, ...] | None = None

    def convolution(self, function: Callable[..., Any], arguments: tuple, keywords: dict) -> Tensor:
        """A convolution, whose rows and columns are those of the patches if it is the last before attention."""
        result = function(*arguments, **keywords)
        self._grid = self._grid if self.shape else tuple(result.shape[2:])
        return result

    def multi_head(
        self, function: Callable[..., Any], arguments: tuple, keywords: dict
    ) -> tuple[Tensor, Tensor | None]:
        """Multi-head attention that goes on with the weights that it would only have told."""
        bound = inspect.signature(function).bind(*arguments, **keywords)
        bound.apply_defaults()
        call = bound.arguments
        for name in _ADDED:
            if call[name] is not None and call[name] is not False:
                raise _unfit("multi-head attention between the tokens alone", f"one with `{name}`")
        _refuse_dropout(call["dropout_p"] if call["training"] else 0.0)
        _, weights = function(**(call | {"need_weights": True, "average_attn_weights": False}))
        output = _multi_head_output(self._taken(weights), call)
        told = weights.mean(1) if call["average_attn_weights"] else weights
        return output, told if call["need_weights"] else None

    def scaled(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Scaled dot-product attention, with the signature of torch's: (N, heads, T, D) three times -> the same."""
        _refuse_dropout(dropout_p)
        if enable_gqa:
            raise _unfit("attention in which each head has keys of its own", "one with `enable_gqa`")
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        if attn_mask is not None:
            hides = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if hides else scores + attn_mask
        return self._taken(scores.softmax(-1)) @ value

    def softmax(self, function: Callable[..., Any], arguments: tuple, keywords: dict) -> Tensor:
        """A softmax, taken if it is one over keys: along the last axis of (..., T, T), or of four axes and more."""
        result = function(*arguments, **keywords)
        axis = keywords.get("dim", arguments[1] if len(arguments) > 1 else None)
        along_keys = axis in (-1, result.ndim - 1)
        if along_keys and (result.ndim > 3 or (result.ndim == 3 and result.shape[1] == result.shape[2])):
            return self._taken(result)
        return result

    def _require_patches(self, tokens: int) -> None:
        """Raise ValueError unless the tokens are the last convolution's pixels, in the proportions of the image."""
        if self._grid is None:
            return
        (rows, columns), (height, width) = self._grid, self._image
        if rows * columns not in (tokens, tokens - 1) or rows * width != columns * height:
            wanted = f"a token for each patch of a grid in the proportions of the {height} x {width} image"
            raise _unfit(wanted, f"({tokens} tokens) after {rows} x {columns} patches (windows?)")

    def _taken(self, weights: Tensor) -> Tensor:
        """The weights, shown to `take` and ready to be differentiated by. Raises ValueError if they do not fit."""
        shape = tuple(weights.shape)
        if self.shape is None:
            self._require_patches(shape[-1])
        self.shape = self.shape or shape
        if len(shape) != 4 or shape[0] != self._samples or shape[2] != shape[3] or shape != self.shape:
            wanted = f"self-attention with weights (N, heads, T, T), N = {self._samples}, the same in every layer"
            before = "" if shape == self.shape else f" after {self.shape}"
            raise _unfit(wanted, f"{shape}{before} (windows, merged tokens or cross-attention)")
        if not weights.requires_grad:  # the first layer's: parameters and inputs are constant
            weights.requires_grad_()
        self._take(weights)
        return weights


def _multi_head_output(weights: Tensor, call: dict[str, Any]) -> Tensor:
    """A v for each head, joined and projected as multi-head attention does it: (T, N, D)."""
    width, heads = call["embed_dim_to_check"], call["num_heads"]
    separate, bias = call["use_separate_proj_weight"], call["in_proj_bias"]
    projection = call["v_proj_weight"] if separate else call["in_proj_weight"][2 * width :]
    value = functional.linear(call["value"], projection, None if bias is None else bias[2 * width :])
    value = value.unflatten(2, (heads, width // heads)).permute(1, 2, 0, 3)
    joined = (weights @ value).permute(2, 0, 1, 3).flatten(2)
    return functional.linear(joined, call["out_proj_weight"], call["out_proj_bias"])


def _refuse_dropout(probability: float) -> None:
    """Raise ValueError for attention that drops weights in evaluation mode too, so that no two passes are the same."""
    if probability > 0:
        raise _unfit("attention without dropout in evaluation mode", f"`dropout_p` = {probability}")


def _unfit(expected: str, got: str) -> ValueError:
    return ValueError(f"`model`: expected {expected}, got {got}; {_OTHERS}")
