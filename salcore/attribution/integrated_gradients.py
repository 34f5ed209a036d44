"""Integrated gradients: the gradient averaged along the straight line from a baseline to the input."""

from typing import Annotated, Literal, get_args

import numpy as np
from torch import Tensor, nn

from salcore.attribution.autograd import accumulator, input_gradient, prepared
from salcore.attribution.baseline import Baseline, as_baseline
from salcore.settings import Within

Rule = Literal["gauss_legendre", "midpoint"]


def integrated_gradients(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    baseline: Baseline = None,
    num_steps: Annotated[int, Within(1)] = 32,
    rule: Rule = "gauss_legendre",
    seed: Annotated[int, Within(0)] = 0,
) -> Tensor:
    """S(x) = (x - b) * integral over a from 0 to 1 of d f_t(b + a (x - b)) / d x, by a quadrature rule.

    Inputs (N, ...), targets (N,); returns the inputs' shape, whose sum is f_t(x) - f_t(b) up to the error of the rule
    (completeness). The rule's weights sum to 1, so it is exact on a linear model for every `num_steps`.
    Costs `num_steps` gradients; memory is that of one. `seed` is that of a random baseline.

    Raises ValueError for a baseline that does not broadcast, `num_steps` below 1 or an unknown rule.

    Axiomatic Attribution for Deep Networks (Sundararajan et al., 2017), Eq. 1.
    """
    places, weights = quadrature(rule, num_steps)
    with prepared(model, inputs, targets) as (inputs, targets):
        start = as_baseline(baseline, inputs, seed=seed)
        path = inputs - start
        total = accumulator(inputs)
        for place, weight in zip(places, weights, strict=True):
            total += weight * input_gradient(model, start + place * path, targets)
        return path * total.to(inputs.dtype)


def quadrature(rule: Rule, num_steps: int) -> tuple[list[float], list[float]]:
    """Places in (0, 1) and weights that sum to 1, of a rule with `num_steps` nodes.

    - gauss_legendre: exact for polynomials of degree up to 2 `num_steps` - 1;
    - midpoint: (i + 1/2) / `num_steps` with equal weights, error O(1 / `num_steps`^2).

    >>> quadrature("midpoint", 2)
    ([0.25, 0.75], [0.5, 0.5])
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps`: expected 1 or more, got {num_steps}")
    if rule == "midpoint":
        return [(step + 0.5) / num_steps for step in range(num_steps)], [1 / num_steps] * num_steps
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(num_steps)  # on (-1, 1), where weights sum to 2
        return ((nodes + 1) / 2).tolist(), (weights / weights.sum()).tolist()
    raise ValueError(f"`rule`: expected one of {get_args(Rule)}, got {rule!r}")
