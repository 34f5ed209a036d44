"""Saliency guided training as published, the other side of G3 (Ismail et al., NeurIPS 2021, and its code).

Written anew: saliency by a pass of its own in evaluation mode, then one sample after the other ranked, masked and
filled in a Python loop, and inputs that ask for their gradient throughout. For text and series no code was published:
it is the same procedure with what the paper says of them. Needs torch and NumPy alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from salcore.data.part import Kind


def published(
    model: nn.Module, inputs: Tensor, labels: Tensor, guidance: Any, valid: Tensor | None, kind: Kind
) -> Tensor:
    """The published loss: 8 forward passes' work with its backward pass, and a loop over the batch."""
    saliency = published_saliency(model, inputs, labels, kind)
    changed = published_masked(inputs, saliency, guidance.mask_fraction, valid, kind)
    log_p = functional.log_softmax(model(inputs).float(), 1)
    log_q = functional.log_softmax(model(changed).float(), 1)
    divergence = functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    return functional.nll_loss(log_p, labels) + guidance.weight * divergence


def published_saliency(model: nn.Module, inputs: Tensor, labels: Tensor, kind: Kind) -> Tensor:
    """Gradient of the label's logit by the input, by a pass in evaluation mode: one number per pixel, word, cell."""
    model.eval()
    features = inputs.detach().clone().requires_grad_()
    outputs = model(features).gather(1, labels[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(torch.unbind(outputs), features)
    model.train()
    return {"images": lambda: gradient.mean(1), "text": lambda: gradient.sum(2), "series": lambda: gradient}[kind]()


def published_masked(inputs: Tensor, saliency: Tensor, fraction: float, valid: Tensor | None, kind: Kind) -> Tensor:
    """Sample by sample: rank what counts, take the lowest, fill."""
    result = inputs.detach().clone()
    fill = {"images": fill_image, "text": fill_text, "series": fill_series}[kind]
    for index in range(len(inputs)):
        length = saliency.shape[-1] if valid is None else int(valid[index].sum())
        scores = saliency[index][..., :length]
        positions = torch.topk(scores.flatten(), int(fraction * scores.numel()), largest=False).indices
        fill(result[index], positions, length)
    return result


def fill_image(image: Tensor, positions: Tensor, length: int) -> None:
    """Each channel uniformly between its own extremes."""
    for channel in image:
        low, high = channel.min().item(), channel.max().item()
        fill = torch.from_numpy(np.random.uniform(low, high, len(positions))).to(image)  # noqa: NPY002 (as published)
        channel.view(-1).scatter_(0, positions, fill)


def fill_series(series: Tensor, positions: Tensor, length: int) -> None:
    """Each cell of the first `length` steps uniformly in the range of its feature."""
    features, times = positions // length, positions % length
    low, high = (bound.numpy()[features] for bound in (series[:, :length].amin(1), series[:, :length].amax(1)))
    series[features, times] = torch.from_numpy(np.random.uniform(low, high)).float()  # noqa: NPY002 (as published)


def fill_text(words: Tensor, positions: Tensor, length: int) -> None:
    """Each word the one before it, from left to right, so the last that was kept; leading ones the first that is."""
    gone = set(positions.tolist())
    kept = next((place for place in range(length) if place not in gone), None)
    if kept is not None:
        words[:kept] = words[kept].clone()
        for before, place in pairwise(range(kept, length)):
            if place in gone:
                words[place] = words[before]
