"""Slow re-derivations, one sample and one number at a time, from the papers' formulas."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn


def numeric_gradient(model: nn.Module, inputs: Tensor, targets: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of the target's logit, pixel by pixel; wants float64 and a model in evaluation mode."""
    gradient = torch.zeros_like(inputs)
    with torch.no_grad():
        for sample, target in enumerate(targets.tolist()):
            for place in np.ndindex(*inputs.shape[1:]):
                nudge = torch.zeros_like(inputs[:1])
                nudge[(0, *place)] = step
                above, below = (model(inputs[sample : sample + 1] + sign * nudge)[0, target] for sign in (1, -1))
                gradient[(sample, *place)] = (above - below) / (2 * step)
    return gradient


def integrated_by_riemann(gradient_at: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, steps: int) -> Tensor:
    """The path integral as a midpoint sum over many small steps."""
    total = torch.zeros_like(end)
    for step in range(steps):
        total = total + gradient_at(start + (step + 0.5) / steps * (end - start)) / steps
    return (end - start) * total


def lowest_by_sorting(saliency: list[float], fraction: str, valid: list[bool]) -> list[float]:
    """The values that are masked, ascending: the floor(fraction * valid) smallest, in exact arithmetic."""
    values = sorted(value for value, allowed in zip(saliency, valid, strict=True) if allowed)
    return values[: math.floor(Fraction(fraction) * len(values))]


def masked_image(image: np.ndarray, gradient: np.ndarray, count: int, draws: np.ndarray, magnitude: bool) -> np.ndarray:
    """Ismail et al., Algorithm 1, step 4, for one image (C, H, W) without ties: position by position."""
    channels, rows, columns = image.shape
    scores = {}
    for row in range(rows):
        for column in range(columns):
            score = sum(gradient[channel, row, column] for channel in range(channels)) / channels
            scores[row, column] = abs(score) if magnitude else score
    result = image.copy()
    for row, column in sorted(scores, key=scores.__getitem__)[:count]:
        for channel in range(channels):
            low, high = image[channel].min(), image[channel].max()
            result[channel, row, column] = low + (high - low) * draws[channel, row, column]
    return result


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of one vector of logits."""
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def guided_loss(clean: np.ndarray, masked: np.ndarray, labels: np.ndarray, weight: float) -> float:
    """Ismail et al., Eq. 4, from the logits (N, K) of clean and masked images: sample by sample, class by class."""
    total = 0.0
    for clean_logits, masked_logits, label in zip(clean, masked, labels, strict=True):
        p, q = softmax(clean_logits), softmax(masked_logits)
        divergence = sum(p[k] * math.log(p[k] / q[k]) for k in range(len(p)))
        total += -math.log(p[label]) + weight * divergence
    return total / len(labels)


def gradcam_small(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Selvaraju et al., Eq. 1 and 2 without the ReLU, for one sample (C, h, w): -> (h, w)."""
    result = np.zeros(activation.shape[1:])
    for channel in range(len(activation)):
        result += gradient[channel].mean() * activation[channel]
    return result
