"""GradientSHAP: integrated gradients by Monte Carlo, over a set of baselines and noisy copies of the input."""

from typing import Annotated

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import accumulator, input_gradient, prepared
from salcore.attribution.baseline import Baselines, as_baselines
from salcore.device import sent
from salcore.seeds import ON_CPU, generator
from salcore.settings import Within


def gradient_shap(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    baselines: Baselines = "uniform",
    num_baselines: Annotated[int, Within(1)] = 16,
    num_samples: Annotated[int, Within(1)] = 32,
    noise_level: Annotated[float, Within(0)] = 0.0,
    seed: Annotated[int, Within(0)] = 0,
) -> Tensor:
    """S(x) = mean over draws of (x' - b) * d f_t(b + a (x' - b)) / d x, with x' = x + s e, a ~ U(0, 1), b from the set.

    Inputs (N, ...), targets (N,); returns the inputs' shape, whose sum is f_t(x) less the mean of f_t over the set in
    expectation (completeness up to Monte-Carlo error, without noise). e ~ N(0, 1), s = noise_level (max x -
    min x) of each sample. `num_baselines` is the size of a random set. Costs `num_samples` gradients.

    Each draw has one a, one place in the set and one field e for all samples, from (seed, draw) alone.

    Raises ValueError for an empty set or one of the wrong shape, for no draws and for a negative noise level.

    A Unified Approach to Interpreting Model Predictions (Lundberg and Lee, 2017), as Captum reads it.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples`: expected 1 or more, got {num_samples}")
    if not noise_level >= 0:
        raise ValueError(f"`noise_level`: expected 0 or more, got {noise_level}")
    with prepared(model, inputs, targets) as (inputs, targets):
        starts = as_baselines(baselines, inputs, number=num_baselines, seed=seed)
        axes = tuple(range(1, inputs.ndim))
        scale = noise_level * (inputs.amax(axes, keepdim=True) - inputs.amin(axes, keepdim=True))
        total = accumulator(inputs)
        for draw in range(num_samples):
            place, chosen, field = _draw(inputs, len(starts), seed, draw)
            start = starts[chosen]
            path = inputs + scale * field - start
            total += path * input_gradient(model, start + place * path, targets)
        return (total / num_samples).to(inputs.dtype)


def _draw(inputs: Tensor, baselines: int, seed: int, draw: int) -> tuple[float, int, Tensor]:
    """Place on the path, which baseline, and the noise, of a sample's shape."""
    random = generator(seed, 1, draw)  # (seed, draw) makes the baselines themselves
    place = torch.rand((), generator=random, dtype=torch.float64, device="cpu").item()
    chosen = int(torch.randint(baselines, (), generator=random, device="cpu"))
    field = torch.randn(inputs.shape[1:], generator=random, **ON_CPU)
    return place, chosen, sent(field, inputs.device).to(inputs.dtype)
