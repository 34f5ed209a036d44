"""The check on methods that promise to account for the whole output."""

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import prepared, select
from salcore.attribution.baseline import Baseline, as_baseline


def residual(
    model: nn.Module, inputs: Tensor, targets: Tensor, attribution: Tensor, *, baseline: Baseline = None
) -> Tensor:
    """r(x) = sum of the attribution - (f_t(x) - f_t(b)): (N,), in logits; 0 where nothing is left unexplained.

    Inputs and attribution (N, C, H, W), targets (N,). The baseline is the one that the method was given.

    Axiomatic Attribution for Deep Networks (Sundararajan et al., 2017), Proposition 1.
    """
    with prepared(model, inputs, targets) as (inputs, targets), torch.no_grad():
        change = select(model(inputs.clone()), targets) - select(model(as_baseline(baseline, inputs).clone()), targets)
        return attribution.to(change).flatten(1).sum(1) - change
