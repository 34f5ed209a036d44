"""SmoothGrad: any attribution averaged over noisy copies of the input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import accumulator, prepared
from salcore.device import sent
from salcore.seeds import ON_CPU, generator


def smoothgrad(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    attribute: Callable[..., Tensor],
    num_samples: int,
    noise_level: float,
    seed: int,
    squared: bool = False,
    **settings: Any,
) -> Tensor:
    """S(x) = mean over draws d of A(x + s e_d), A the inner method, e_d ~ N(0, 1), s = noise_level (max x - min x).

    Inputs (N, ...), targets (N,); returns what A returns: signed values are averaged. With `squared` it is the mean of
    A^2, **never negative**, as the published evaluation of guided training has it. The scale s is each sample's own,
    over all its values.

    **The draws are shared.** Draw d is one field of a sample's shape, made on the CPU from (seed, d) alone and scaled
    by each sample's s. So a sample's map does not depend on its place in a batch or on the device, and all members of
    an ensemble see the same draws: the variance over members holds no Monte-Carlo noise of its own. The maps of
    different samples are in turn not independent given the seed.

    Raises ValueError for fewer than one draw or a negative noise level.

    SmoothGrad: removing noise by adding noise (Smilkov et al., 2017); squares as in its published code.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples`: expected 1 or more, got {num_samples}")
    if not noise_level >= 0:
        raise ValueError(f"`noise_level`: expected 0 or more, got {noise_level}")
    with prepared(model, inputs, targets) as (own, _):
        axes = tuple(range(1, own.ndim))
        scale = noise_level * (own.amax(axes, keepdim=True) - own.amin(axes, keepdim=True))
    total: Tensor | None = None
    for draw in range(num_samples):
        field = sent(torch.randn(own.shape[1:], generator=generator(seed, draw), **ON_CPU), own.device).to(own.dtype)
        values = attribute(model, own + scale * field, targets, **settings)
        total = accumulator(values) if total is None else total
        total += values.to(total.dtype).square() if squared else values
    assert total is not None  # num_samples >= 1
    return (total / num_samples).to(values.dtype)
