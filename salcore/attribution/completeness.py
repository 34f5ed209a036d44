"""The check on methods that promise to account for the whole output."""

from typing import Any

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import prepared, select
from salcore.attribution.baseline import Baseline, Baselines, as_baseline, as_baselines
from salcore.network import logits_of
from salcore.padding import Bound


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
    at_start = _mean_at(model, targets, starts)
    return attribution.to(at_input).flatten(1).sum(1) - (at_input - at_start)


def _mean_at(model: nn.Module, targets: Tensor, starts: list[Tensor]) -> Tensor:
    """The mean of f_t over the baselines (N, ...), each sample's own target: (N,).

    Where the samples share them, a batch of the K baselines tells, unless the network is bound to the samples' own.
    """
    if isinstance(model, Bound) or len(targets) < 2 or any(start.stride(0) for start in starts):
        return torch.stack([select(model(start.clone()), targets) for start in starts]).mean(0)
    several = starts if len(starts) > 1 else starts * 2  # a network may treat a single sample in another way
    rows = torch.cat([start[:1] for start in several])
    parts = rows.tensor_split(-(-len(rows) // len(targets)))
    mean = torch.cat([logits_of(model(part), len(part)) for part in parts]).mean(0)
    return select(mean.expand(len(targets), -1), targets)
