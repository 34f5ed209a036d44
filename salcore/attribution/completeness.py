"""The check on methods that promise to account for the whole output."""

from typing import Any

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import prepared, select
from salcore.attribution.baseline import Baseline, Baselines, as_baseline, as_baselines


def residual(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    attribution: Tensor,
    *,
    baseline: Baseline = None,
    seed: int = 0,
    **_: Any,
) -> Tensor:
    """r(x) = sum of the attribution - (f_t(x) - f_t(b)): (N,), in logits; 0 where nothing is left unexplained.

    Inputs and attribution (N, ...), targets (N,). The settings are those that the method was given: its baseline
    counts, and the seed of a random one.

    Axiomatic Attribution for Deep Networks (Sundararajan et al., 2017), Proposition 1.
    """
    with prepared(model, inputs, targets) as (inputs, targets), torch.no_grad():
        return _residual(model, inputs, targets, attribution, [as_baseline(baseline, inputs, seed=seed)])


def residual_over_set(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    attribution: Tensor,
    *,
    baselines: Baselines = "uniform",
    num_baselines: int = 16,
    seed: int = 0,
    **_: Any,
) -> Tensor:
    """r(x) = sum of the attribution - (f_t(x) - mean over the set of f_t(b)): (N,), in logits."""
    with prepared(model, inputs, targets) as (inputs, targets), torch.no_grad():
        starts = as_baselines(baselines, inputs, number=num_baselines, seed=seed)
        return _residual(model, inputs, targets, attribution, starts)


def _residual(model: nn.Module, inputs: Tensor, targets: Tensor, attribution: Tensor, starts: list[Tensor]) -> Tensor:
    at_input = select(model(inputs.clone()), targets)
    at_start = sum(select(model(start.clone()), targets) for start in starts) / len(starts)
    return attribution.to(at_input).flatten(1).sum(1) - (at_input - at_start)
