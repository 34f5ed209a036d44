"""Saliency guided training: the network is to answer alike with and without its least salient pixels.

Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), Algorithm 1.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.attribution.autograd import derivative, evaluated
from salcore.objectives.fills import FILLS
from salcore.objectives.standard import at_least_float32

if TYPE_CHECKING:
    from salcore.spec import GuidanceSpec

# A product such as 0.29 * 100 lies a rounding error under the integer that is meant.
_ROUND_OFF = 1 + 2**-51


def guided(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, guidance: "GuidanceSpec", generator: torch.Generator
) -> Tensor:
    """L = mean over samples of [CE(f(x), y) + weight * KL(f(x) || f(x~))], with x~ = x, its lowest pixels replaced.

    Inputs (N, C, H, W), labels (N,); a scalar in nats (Eq. 4). Of the H W positions, floor(mask_fraction H W) with the
    lowest saliency are masked in all channels (Eq. 3), the fill drawn from `generator`. Both passes run in the mode
    the model is in, so under dropout with different masks and through batch-norm one after the other, as published.

    Options of `guidance`, and where the paper (P) and its published code (C) differ:

    - `mode`: `train` takes the saliency from the clean forward pass of the loss: forward, input gradient, masked
      forward, one backward, the work of 7 forward passes. Under batch-norm a sample's saliency then holds its effect on
      its batch too. C ranks by a pass of its own in evaluation mode, 8 forward passes (`eval`). P does not say.
    - `of`: the gradient of the label's `logit`, as in C for colour images; C for MNIST differentiates the
      `log_probability`, its network's output. P says "output".
    - `ranking`: `signed` masks the most negative first, as C; `magnitude` masks those nearest zero, as P's words "low
      gradient" and "irrelevant features" suggest. Either ranks the mean over channels, as C.
    - `fill`: see `salcore.objectives.fills`.
    - `detach_target`: without, the gradient of the divergence flows through f(x) and f(x~), as in P and C; with, f(x)
      is a fixed target.

    One version of C gives probabilities where its divergence expects their logarithms, which is not followed.

    Raises ValueError unless inputs are images.
    """
    if inputs.ndim != 4:
        raise ValueError(f"`inputs`: expected images (N, C, H, W), got {tuple(inputs.shape)}")
    logits, gradient = _clean_pass(model, inputs, labels, guidance)
    saliency = gradient.mean(1)
    mask = lowest(saliency.abs() if guidance.ranking == "magnitude" else saliency, guidance.mask_fraction)
    pixels = inputs.detach()
    masked = torch.where(mask[:, None], FILLS[guidance.fill](pixels, generator), pixels)
    log_p = functional.log_softmax(logits, 1)
    log_q = functional.log_softmax(at_least_float32(model(masked)), 1)
    target = log_p.detach() if guidance.detach_target else log_p
    divergence = functional.kl_div(log_q, target, log_target=True, reduction="batchmean")
    return functional.nll_loss(log_p, labels) + guidance.weight * divergence


def _clean_pass(model: nn.Module, inputs: Tensor, labels: Tensor, guidance: "GuidanceSpec") -> tuple[Tensor, Tensor]:
    """The logits (N, K) of the clean images, their graph kept, and the gradient by the input (N, C, H, W)."""
    if guidance.mode == "eval":
        with evaluated(model):
            gradient = _differentiated(model, inputs, labels, guidance.of)[1]
        return at_least_float32(model(inputs.clone())), gradient
    return _differentiated(model, inputs, labels, guidance.of, keep_graph=True)


def _differentiated(
    model: nn.Module, inputs: Tensor, labels: Tensor, of: str, *, keep_graph: bool = False
) -> tuple[Tensor, Tensor]:
    pixels = inputs.detach().requires_grad_()  # a new tensor: the caller's flag stays
    logits = at_least_float32(model(pixels.clone()))
    outputs = functional.log_softmax(logits, 1) if of == "log_probability" else logits
    return logits, derivative(outputs.gather(1, labels[:, None]), pixels, keep_graph=keep_graph)


def lowest(saliency: Tensor, mask_fraction: float, valid: Tensor | None = None) -> Tensor:
    """A mask of the positions with the lowest saliency: exactly floor(mask_fraction * valid positions) of each sample.

    Saliency (N, ...) is ranked over all trailing axes; returns booleans of its shape. `valid`, booleans of the same
    shape, excludes positions (padding) from masking and from the count. No kept valid value lies below a masked one;
    among equal values the choice is arbitrary but their number exact. The fraction is read as the decimal that was
    written: 0.29 of 100 are 29, although the nearest double times 100 is less.

    Raises ValueError for a fraction outside 0 to 1 or a mask `valid` of another shape.

    >>> lowest(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), 0.5)
    tensor([[False,  True, False,  True]])
    """
    if not 0 <= mask_fraction <= 1:
        raise ValueError(f"`mask_fraction`: expected 0 to 1, got {mask_fraction}")
    values = saliency.detach().flatten(1)
    mask = torch.zeros_like(values, dtype=torch.bool)
    if valid is None:
        count = math.floor(mask_fraction * values.shape[1] * _ROUND_OFF)
        # Dead ReLUs make ties, so a threshold would mask too many: indices are exact.
        indices = values.topk(count, largest=False, sorted=False).indices
        return mask.scatter_(1, indices, True).view_as(saliency)
    if valid.shape != saliency.shape:
        raise ValueError(f"`valid`: expected the shape {tuple(saliency.shape)}, got {tuple(valid.shape)}")
    allowed = valid.flatten(1)
    counts = torch.floor(mask_fraction * allowed.sum(1, keepdim=True).double() * _ROUND_OFF)
    by_value = values.argsort(1)
    # A stable second sort puts valid positions first and keeps their order, also where a valid value is infinite.
    order = by_value.gather(1, (~allowed).gather(1, by_value).to(torch.uint8).argsort(dim=1, stable=True))
    chosen = torch.arange(values.shape[1], device=values.device) < counts
    return mask.scatter_(1, order, chosen).view_as(saliency)
