"""Saliency guided training: the network is to answer alike with and without the least salient features of its input.

Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), Algorithm 1.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.attribution.autograd import derivative
from salcore.evaluated import evaluated
from salcore.objectives.fills import FILLS, fill_for
from salcore.precision import at_least_float32

if TYPE_CHECKING:
    from salcore.data.part import Kind
    from salcore.spec import GuidanceSpec

AXES: "dict[Kind, str]" = {"images": "NCHW", "series": "NFT", "text": "NTE"}
"""The axes of a batch of inputs, by kind of data."""

# A product such as 0.29 * 100 lies a rounding error under the integer that is meant.
_ROUND_OFF = 1 + 2**-51


def guided(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    guidance: "GuidanceSpec",
    generator: torch.Generator,
    valid: Tensor | None = None,
    kind: "Kind" = "images",
) -> Tensor:
    """L = mean over samples of [CE(f(x), y) + weight * KL(f(x) || f(x~))], with x~ = x, its lowest features replaced.

    Inputs as `kind` says, labels (N,); a scalar in nats (Eq. 4). Of each sample's n positions, floor(mask_fraction n)
    with the lowest saliency are masked (Eq. 3), the fill drawn from `generator`. What a position is (Section 3):

    - images (N, C, H, W): a pixel, ranked by the mean over its channels, all of which are masked;
    - text (N, T, E): a word, ranked by the sum over its embedding, all of which is replaced;
    - series (N, F, T): a cell, that is one feature at one time.

    Of sequences, steps where `valid` (N, T) is false, at their end, are padding: neither counted nor ranked nor masked.
    The model, called with inputs alone, is to know them itself (`salcore.padding.bound`). Both passes run in the mode
    the model is in, so under dropout with different masks and through batch-norm one after the other, as published.

    Options of `guidance`, and where the paper (P) and its published code (C), which has images alone, differ:

    - `mode`: `train` takes the saliency from the clean forward pass of the loss: forward, input gradient, masked
      forward, one backward, the work of 7 forward passes. Under batch-norm a sample's saliency then holds its effect on
      its batch too. C ranks by a pass of its own in evaluation mode, 8 forward passes (`eval`). P does not say.
    - `of`: the gradient of the label's `logit`, as in C for colour images; C for MNIST differentiates the
      `log_probability`, its network's output. P says "output".
    - `ranking`: `signed` masks the most negative first, as C; `magnitude` masks those nearest zero, as P's words "low
      gradient" and "irrelevant features" suggest. Either ranks a position's one number, as C.
    - `fill`: see `salcore.objectives.fills`; None is the default of the kind.
    - `detach_target`: without, the gradient of the divergence flows through f(x) and f(x~), as in P and C; with, f(x)
      is a fixed target.

    One version of C gives probabilities where its divergence expects their logarithms, which is not followed.

    Raises ValueError for inputs that are not of their kind, `valid` that does not fit them, a fill the kind lacks.
    """
    _check(inputs, valid, kind)
    logits, gradient = _clean_pass(model, inputs, labels, guidance)
    changed = masked(inputs.detach(), gradient, guidance=guidance, generator=generator, valid=valid, kind=kind)
    log_p = functional.log_softmax(logits, 1)
    log_q = functional.log_softmax(at_least_float32(model(changed)), 1)
    target = log_p.detach() if guidance.detach_target else log_p
    divergence = functional.kl_div(log_q, target, log_target=True, reduction="batchmean")
    return functional.nll_loss(log_p, labels) + guidance.weight * divergence


def _check(inputs: Tensor, valid: Tensor | None, kind: "Kind") -> None:
    if kind not in AXES:
        raise ValueError(f"`kind`: expected one of {', '.join(AXES)}, got {kind!r}")
    axes = AXES[kind]
    if inputs.ndim != len(axes):
        raise ValueError(f"`inputs`: expected {kind} ({', '.join(axes)}), got {tuple(inputs.shape)}")
    if valid is None:
        return
    if "T" not in axes:
        raise ValueError(f"`valid`: expected None, as {kind} have no padding, got {tuple(valid.shape)}")
    expected = len(inputs), inputs.shape[axes.index("T")]
    if valid.shape != expected:
        raise ValueError(f"`valid`: expected (N, T) = {expected}, got {tuple(valid.shape)}")


def _clean_pass(model: nn.Module, inputs: Tensor, labels: Tensor, guidance: "GuidanceSpec") -> tuple[Tensor, Tensor]:
    """The logits (N, K) of the clean inputs, their graph kept, and the gradient by the inputs, of their shape."""
    if guidance.mode == "eval":
        with evaluated(model):
            gradient = _differentiated(model, inputs, labels, guidance.of)[1]
        return at_least_float32(model(inputs.clone())), gradient
    return _differentiated(model, inputs, labels, guidance.of, keep_graph=True)


def _differentiated(
    model: nn.Module, inputs: Tensor, labels: Tensor, of: str, *, keep_graph: bool = False
) -> tuple[Tensor, Tensor]:
    features = inputs.detach().requires_grad_()  # a new tensor: the caller's flag stays
    logits = at_least_float32(model(features.clone()))
    outputs = functional.log_softmax(logits, 1) if of == "log_probability" else logits
    return logits, derivative(outputs.gather(1, labels[:, None]), features, keep_graph=keep_graph)


def masked(
    inputs: Tensor,
    gradient: Tensor,
    *,
    guidance: "GuidanceSpec",
    generator: torch.Generator,
    valid: Tensor | None,
    kind: "Kind",
) -> Tensor:
    """x~ of the inputs x and the gradient by them, all of one shape: the lowest positions replaced by the fill (Eq. 3).

    Raises ValueError for a fill that the kind does not have.
    """
    fill = FILLS[kind][fill_for(kind, guidance.fill)]
    saliency, counted = _positions(gradient, valid, kind)
    mask = lowest(saliency.abs() if guidance.ranking == "magnitude" else saliency, guidance.mask_fraction, counted)
    filled = fill(inputs, mask=mask, valid=valid, generator=generator)
    shared = {"images": 1, "text": 2}  # the axis over which a position extends
    return torch.where(mask.unsqueeze(shared[kind]) if kind in shared else mask, filled, inputs)


def _positions(gradient: Tensor, valid: Tensor | None, kind: "Kind") -> tuple[Tensor, Tensor | None]:
    """The one number of every position that is ranked, and which positions count (None: all)."""
    if kind == "images":
        return gradient.mean(1), None
    if valid is None:  # `lowest` is faster where it is told that all count; which equals it takes of images is settled
        valid = gradient.new_ones((len(gradient), gradient.shape[AXES[kind].index("T")]), dtype=torch.bool)
    return (gradient.sum(2), valid) if kind == "text" else (gradient, valid[:, None].expand_as(gradient))


def lowest(saliency: Tensor, mask_fraction: float, valid: Tensor | None = None) -> Tensor:
    """A mask of the positions with the lowest saliency: exactly floor(mask_fraction * valid positions) of each sample.

    Saliency (N, ...) is ranked over all trailing axes; returns booleans of its shape. `valid`, booleans of the same
    shape, excludes positions (padding) from masking and from the count. No kept valid value lies below a masked one;
    among equal values the choice is arbitrary but their number exact; NaN counts as infinite. The fraction is read as
    the decimal that was written: 0.29 of 100 are 29, although the nearest double times 100 is less.

    Raises ValueError for a fraction outside 0 to 1 or a mask `valid` of another shape.

    >>> lowest(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), 0.5)
    tensor([[False,  True, False,  True]])
    """
    if not 0 <= mask_fraction <= 1:
        raise ValueError(f"`mask_fraction`: expected 0 to 1, got {mask_fraction}")
    values = saliency.detach().flatten(1)
    if valid is None:
        count = math.floor(mask_fraction * values.shape[1] * _ROUND_OFF)
        # Dead ReLUs make ties, so a threshold would mask too many: indices are exact.
        indices = values.topk(count, largest=False, sorted=False).indices
        return torch.zeros_like(values, dtype=torch.bool).scatter_(1, indices, True).view_as(saliency)
    if valid.shape != saliency.shape:
        raise ValueError(f"`valid`: expected the shape {tuple(saliency.shape)}, got {tuple(valid.shape)}")
    allowed = valid.flatten(1)
    counts = torch.floor(mask_fraction * allowed.sum(1, keepdim=True).double() * _ROUND_OFF).long()
    return _lowest_of(values, allowed, counts).view_as(saliency)


def _lowest_of(values: Tensor, allowed: Tensor, counts: Tensor) -> Tensor:
    """The `counts` (N, 1) lowest of each row's allowed values (N, P): those below the count-th, and first equals."""
    if not values.shape[1]:
        return allowed
    values = at_least_float32(values).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    values = values.masked_fill_(~allowed, math.inf)
    last = _ascending(values).gather(1, (counts - 1).clamp_min(0))
    below, equal = values < last, (values == last) & allowed
    return below | (equal & (equal.cumsum(1) <= counts - below.sum(1, keepdim=True)))


def _ascending(values: Tensor) -> Tensor:
    """The rows sorted: on a processor by NumPy, whose vectorised sort takes a tenth of torch's time."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(1).values
