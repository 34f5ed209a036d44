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

STEPS = 50_000
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
    (S,). By accelerated proximal gradients on all images at once, each with its own momentum, which starts anew
    whenever it points uphill. An image that has converged is left alone, so its coefficients do not depend on the
    others; one whose outputs are not finite has none that are. Takes about 60 steps with several samples for each
    coefficient, some thousands with fewer samples than coefficients.

    Raises ValueError if an image has not converged after 50,000 steps.

    A Fast Iterative Shrinkage-Thresholding Algorithm (Beck and Teboulle, 2009), Eqs. 4.1 to 4.3; Adaptive Restart for
    Accelerated Gradient Schemes (O'Donoghue and Candes, 2015), section 3.2.
    """
    centred, share = _centred(design, weights), weights / weights.sum()
    gram, target = centred.T @ (share[:, None] * centred), (share[:, None] * centred).T @ outputs
    step = 1 / max(torch.linalg.eigvalsh(gram)[-1].item(), torch.finfo(gram.dtype).tiny)
    found = ahead = torch.zeros_like(target)
    pace, moving = torch.ones_like(target[0]), torch.ones_like(target[0], dtype=torch.bool)
    for _ in range(STEPS):
        nearer = functional.softshrink(ahead - step * (gram @ ahead - target), step * alpha)
        nearer = torch.where(moving, nearer, found)
        moving &= (nearer - ahead).abs().amax(0) > TOLERANCE * nearer.abs().amax(0)
        if not moving.any():
            return nearer
        uphill = ((ahead - nearer) * (nearer - found)).sum(0) > 0
        faster = torch.where(uphill, 1.0, (1 + (1 + 4 * pace**2).sqrt()) / 2)
        ahead = nearer + torch.where(uphill, 0.0, (pace - 1) / faster) * (nearer - found)
        found, pace = nearer, faster
    raise ValueError(
        f"`alpha`: expected a penalty whose regression converges in {STEPS} steps, got {alpha}; a larger one would, or "
        "more `num_samples`"
    )


def _centred(design: Tensor, weights: Tensor) -> Tensor:
    """Less its weighted mean, which is what an unpenalised intercept amounts to."""
    return design - (weights / weights.sum()) @ design
