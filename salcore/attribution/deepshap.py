"""DeepSHAP: DeepLIFT averaged over a set of baselines."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from salcore.attribution.autograd import accumulator, prepared
from salcore.attribution.baseline import Baselines, as_baselines


def deepshap(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    attribute: Callable[..., Tensor],
    baselines: Baselines,
    num_baselines: int,
    seed: int,
    **settings: Any,
) -> Tensor:
    """S(x) = mean over baselines b of A(x; b), A the inner method, which takes `baseline=b`: DeepLIFT, in `METHODS`.

    Inputs (N, ...), targets (N,); returns the inputs' shape, whose sum is f_t(x) less the mean of f_t over the
    baselines. The maps are averaged, not the multipliers: m (x - b) differs in both factors. Costs a gradient for
    each baseline.

    Raises ValueError for an empty set or one of the wrong shape.

    A Unified Approach to Interpreting Model Predictions (Lundberg and Lee, 2017), section 4.2.
    """
    with prepared(model, inputs, targets) as (own, _):
        starts = as_baselines(baselines, own, number=num_baselines, seed=seed)
    total: Tensor | None = None
    for start in starts:
        values = attribute(model, inputs, targets, baseline=start, **settings)
        total = (accumulator(values) if total is None else total).add_(values)
    assert total is not None  # a set is never empty
    return (total / len(starts)).to(values.dtype)
