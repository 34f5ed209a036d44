"""Weighted least squares of many images at once on one design, in float64: plain, ridge and lasso.

>>> import torch
>>> design = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
>>> projection = ridge(design, torch.ones(4, dtype=torch.float64), 0.0)
>>> (projection @ (design @ torch.tensor([3.0, -2.0], dtype=torch.float64) + 5)).round(decimals=9)
tensor([ 3., -2.], dtype=torch.float64)
"""

import torch
from torch import Tensor
from torch.nn import functional

SWEEPS = 2000
TOLERANCE = 1e-14


def ridge(design: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """The matrix (M, S) that takes outputs y (S,) to the coefficients b (M,) of ridge regression with an intercept a:

    sum over s of w_s (y_s - a - z_s b)^2 + alpha ||b||^2, smallest; z = design (S, M), w = weights (S,). The intercept
    is not penalised.

    Raises ValueError, which names no argument, where the coefficients are not determined: alpha is 0 and the
    weighted design does not have full rank.
    """
    centred = _centred(design, weights)
    gram = centred.T @ (weights[:, None] * centred)
    if not alpha and torch.linalg.matrix_rank(gram, hermitian=True) < len(gram):
        raise ValueError("the masks do not determine the coefficients")
    identity = torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + alpha * identity, (weights[:, None] * centred).T)


def lasso(design: Tensor, weights: Tensor, alpha: float, outputs: Tensor) -> Tensor:
    """The coefficients b (M, N), for outputs y (S, N), of lasso regression with an intercept a, each image by itself:

    1/2 sum over s of w_s (y_s - a - z_s b)^2 / sum of w + alpha ||b||_1, smallest; z = design (S, M), w = weights
    (S,). By coordinate descent on all images at once; one that has converged is left alone, so its coefficients do not
    depend on the others. An image whose outputs are not finite has none that are.

    Raises ValueError if an image has not converged after 2000 sweeps.

    Regularization Paths for Generalized Linear Models via Coordinate Descent (Friedman et al., 2010), Eq. 5.
    """
    centred, share = _centred(design, weights), weights / weights.sum()
    gram = centred.T @ (share[:, None] * centred)
    # Zero for a superpixel that is on in all masks or in none: its coefficient stays zero.
    curvature = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
    rest = (share[:, None] * centred).T @ outputs  # the design's correlation with what is not explained yet
    coefficients = torch.zeros_like(rest)
    moving = torch.ones(outputs.shape[1], dtype=torch.bool)
    for _ in range(SWEEPS):
        largest = torch.zeros_like(coefficients[0])
        for feature, bend in enumerate(curvature.tolist()):
            before = coefficients[feature]
            after = functional.softshrink(rest[feature] + bend * before, alpha) / bend
            step = torch.where(moving, after - before, 0)
            coefficients[feature] += step
            rest -= gram[:, feature, None] * step
            largest = torch.maximum(largest, step.abs())
        moving &= largest > TOLERANCE * coefficients.abs().amax(0)
        if not moving.any():
            return coefficients
    raise ValueError(f"`alpha`: expected a penalty whose regression converges in {SWEEPS} sweeps, got {alpha}")


def _centred(design: Tensor, weights: Tensor) -> Tensor:
    """Less its weighted mean, which is what an unpenalised intercept amounts to."""
    return design - (weights / weights.sum()) @ design
