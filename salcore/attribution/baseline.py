"""The reference inputs that methods compare with: one, or a set of them."""

from typing import Literal, get_args

import torch
from torch import Tensor

from salcore.seeds import ON_CPU, generator

Kind = Literal["zero", "mean", "blurred", "uniform"]
Baseline = Tensor | float | Kind | None
"""None and "zero" are zeros: the data's mean, as inputs are normalised. A number fills, a tensor is broadcast."""

Baselines = Tensor | Literal["training", "uniform", "zero", "mean", "blurred"]
"""A set: a tensor (K, ...), random training samples of the run, random noise, or one of the single ones."""

BLUR = 0.1
"""Standard deviation of the blur, as a share of the longer side."""


def as_baseline(baseline: Baseline, inputs: Tensor, *, seed: int = 0) -> Tensor:
    """The baseline as a tensor of the inputs' shape, dtype and device, without memory of its own where it repeats.

    - zero (and None): zeros, the data's mean;
    - mean: each sample's own mean, channel by channel or feature by feature: along all axes behind the first (of a
      text, whose words lie there, it would be each word's own: give a tensor instead);
    - blurred: each image under a Gaussian blur of a tenth of its longer side;
    - uniform: one field of random numbers from `seed`, the same for all samples, stretched between each sample's own
      smallest and largest value.

    Raises ValueError for another word, for a mean of rows (N, F), whose every feature is its own mean, and for a shape
    that does not broadcast to that of the inputs.

    >>> as_baseline(None, torch.ones(2, 1, 3, 3)).sum().item()
    0.0
    """
    if isinstance(baseline, str):
        return _named(baseline, inputs.detach(), seed)
    value = torch.as_tensor(0.0 if baseline is None else baseline, dtype=inputs.dtype, device=inputs.device).detach()
    try:
        return value.expand(inputs.shape)
    except RuntimeError as error:
        raise ValueError(
            f"`baseline`: expected a shape that broadcasts to {tuple(inputs.shape)}, such as {tuple(inputs.shape[1:])} "
            f"or {(inputs.shape[1], *[1] * (inputs.ndim - 2))}, got {tuple(value.shape)}"
        ) from error


def as_baselines(baselines: Baselines, inputs: Tensor, *, number: int, seed: int = 0) -> list[Tensor]:
    """The set as tensors of the inputs' shape: all K of a tensor (K, ...), `number` of uniform noise, else one.

    Raises ValueError for an empty set, a set of the wrong shape, and for "training", which stands for the run's
    training samples and has a meaning in a spec alone.
    """
    if not isinstance(baselines, Tensor | str):
        raise ValueError(f"`baselines`: expected a tensor (K, ...) or a word, got {type(baselines).__name__}")
    if isinstance(baselines, Tensor):
        if baselines.shape[1:] != inputs.shape[1:] or not len(baselines):
            wanted = ", ".join(map(str, inputs.shape[1:]))
            raise ValueError(f"`baselines`: expected a set (K, {wanted}) of 1 or more, got {tuple(baselines.shape)}")
        return [as_baseline(each, inputs) for each in baselines]
    if baselines == "training":
        raise ValueError("`baselines`: 'training' are a run's samples, in a spec; expected a tensor (K, ...) here")
    if baselines == "uniform":
        if number < 1:
            raise ValueError(f"`num_baselines`: expected 1 or more, got {number}")
        return [_uniform(inputs.detach(), seed, draw) for draw in range(number)]
    if baselines not in get_args(Kind):
        raise ValueError(
            f"`baselines`: expected a tensor or one of training, {', '.join(get_args(Kind))}, got {baselines!r}"
        )
    return [as_baseline(baselines, inputs)]


def _named(kind: str, inputs: Tensor, seed: int) -> Tensor:
    if kind == "zero":
        return inputs.new_zeros(()).expand(inputs.shape)
    if kind == "mean":
        if inputs.ndim < 3:
            raise ValueError(f"`baseline`: 'mean' expects inputs (N, C, ...), got {tuple(inputs.shape)}; give a number")
        return inputs.mean(tuple(range(2, inputs.ndim)), keepdim=True).expand(inputs.shape)
    if kind == "blurred":
        return _blurred(inputs)
    if kind == "uniform":
        return _uniform(inputs, seed, 0)
    raise ValueError(f"`baseline`: expected a tensor, a number or one of {', '.join(get_args(Kind))}, got {kind!r}")


def _uniform(inputs: Tensor, seed: int, draw: int) -> Tensor:
    """Made on the CPU from (seed, draw) alone: the same for every member, every batch and every device."""
    field = torch.rand(inputs.shape[1:], generator=generator(seed, draw), **ON_CPU).to(inputs)
    axes = tuple(range(1, inputs.ndim))
    low, high = inputs.amin(axes, keepdim=True), inputs.amax(axes, keepdim=True)
    return low + (high - low) * field


def _blurred(inputs: Tensor) -> Tensor:
    """(N, C, H, W) under a Gaussian whose weights inside the image sum to 1, so that a constant image stays one."""
    if inputs.ndim != 4:
        raise ValueError(f"`baseline`: 'blurred' expects images (N, C, H, W), got {tuple(inputs.shape)}")
    rows, columns = (_blur(length, BLUR * max(inputs.shape[2:])).to(inputs) for length in inputs.shape[2:])
    return rows @ inputs @ columns.T


def _blur(length: int, deviation: float) -> Tensor:
    """The matrix (length, length) of a blur along one axis; its rows sum to 1."""
    steps = torch.arange(length, dtype=torch.float64)
    weights = torch.exp(-((steps[:, None] - steps) ** 2) / (2 * deviation**2))
    return weights / weights.sum(1, keepdim=True)
