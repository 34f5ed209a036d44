"""The reference input that a method compares with."""

import torch
from torch import Tensor

Baseline = Tensor | float | None
"""None is zeros, the data's mean, as inputs are normalised; a number fills; a tensor is broadcast."""


def as_baseline(baseline: Baseline, inputs: Tensor) -> Tensor:
    """The baseline as a tensor of the inputs' shape, dtype and device, without memory of its own where it repeats.

    Raises ValueError if its shape does not broadcast to that of the inputs.

    >>> as_baseline(None, torch.ones(2, 1, 3, 3)).sum().item()
    0.0
    """
    value = torch.as_tensor(0.0 if baseline is None else baseline, dtype=inputs.dtype, device=inputs.device).detach()
    try:
        return value.expand(inputs.shape)
    except RuntimeError as error:
        raise ValueError(
            f"`baseline`: expected a shape that broadcasts to {tuple(inputs.shape)}, got {tuple(value.shape)}"
        ) from error
