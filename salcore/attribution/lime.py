"""LIME: the coefficients of a linear model of the network around the image, in the presence of its superpixels."""

from functools import lru_cache, partial
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor, nn

from salcore.attribution.least_squares import lasso, ridge
from salcore.attribution.perturbation import Off, Surrogate, explain
from salcore.attribution.superpixels import Superpixels
from salcore.seeds import ON_CPU, generator
from salcore.settings import Within

Penalty = Literal["none", "ridge", "lasso"]

ALPHA = {"none": 0.0, "ridge": 1.0, "lasso": 0.01}
"""What `alpha` is where it is None: of the reference code for ridge, of Captum for lasso."""


def lime(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    superpixels: Superpixels = "grid",
    num_superpixels: Annotated[int, Within(1)] = 64,
    num_samples: Annotated[int, Within(1)] = 512,
    kernel_width: Annotated[float, Within(1e-3)] = 0.25,
    penalty: Penalty = "none",
    alpha: Annotated[float, Within(0)] | None = None,
    baseline: Off = None,
    seed: Annotated[int, Within(0)] = 0,
) -> Tensor:
    """S(x) = b, smallest in sum over masks z of w(z) (f_t(x_z) - a - z b)^2 + penalty, on each superpixel's pixels.

    Inputs (N, C, H, W), targets (N,); returns (N, 1, H, W). x_z shows the image where z is 1 and elsewhere `baseline`
    ("superpixel": each superpixel's own mean colour, as the reference code has it). The first z is all on, the others
    are on with probability 1/2; w(z) = exp(-d^2 / (2 `kernel_width`^2)), d = 1 - sqrt(|z| / M) the cosine distance
    of z from all on, M superpixels. The logit is explained, where the reference code explains the probability.
    Costs about `num_samples` forward passes; the reference code takes 1000.

    The intercept a is never penalised, and alpha is scikit-learn's:
    - none: exact on a model that is linear in the superpixels;
    - ridge: alpha ||b||^2 beside the sum above, by default with alpha 1;
    - lasso: alpha ||b||_1 beside half the weighted mean of the squares, by default with alpha 0.01.

    **The masks are shared.** They depend on the seed and the number of superpixels alone, so all images and all
    members of an ensemble see the same ones, and fewer samples are the first of more.

    Raises ValueError for settings out of range, an `alpha` without a penalty, and, without a penalty, for masks that
    do not determine the coefficients: fewer than M + 1 never do.

    "Why Should I Trust You?": Explaining the Predictions of Any Classifier (Ribeiro et al., 2016), Eq. 2 and
    Algorithm 1, settings from its code.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples`: expected 1 or more, got {num_samples}")
    if not kernel_width > 0:
        raise ValueError(f"`kernel_width`: expected more than 0, got {kernel_width}")
    if penalty not in ALPHA:
        raise ValueError(f"`penalty`: expected one of {', '.join(get_args(Penalty))}, got {penalty!r}")
    if alpha is not None and (penalty == "none" or not alpha >= 0):
        raise ValueError(f"`alpha`: expected 0 or more, with `penalty` ridge or lasso, got {alpha} with {penalty}")
    surrogate = partial(
        _surrogate,
        num_samples=num_samples,
        kernel_width=kernel_width,
        penalty=penalty,
        alpha=ALPHA[penalty] if alpha is None else alpha,
        seed=seed,
    )
    return explain(
        model,
        inputs,
        targets,
        surrogate,
        superpixels=superpixels,
        num_superpixels=num_superpixels,
        baseline=baseline,
        seed=seed,
    )


def draw_masks(count: int, num_samples: int, seed: int) -> Tensor:
    """Masks (S, M): the first all on, then each superpixel on with probability 1/2."""
    masks = torch.rand(num_samples, count, generator=generator(seed, count), **ON_CPU) < 0.5
    masks[0] = True
    return masks


def proximity(masks: Tensor, kernel_width: float) -> Tensor:
    """exp(-d^2 / (2 width^2)) of masks (S, M) in float64, d = 1 - sqrt(|z| / M): 1 where nothing is masked."""
    distance = 1 - masks.double().mean(1).sqrt()
    return torch.exp(-(distance**2) / (2 * kernel_width**2))


@lru_cache(maxsize=32)
def _surrogate(
    count: int, *, num_samples: int, kernel_width: float, penalty: str, alpha: float, seed: int
) -> Surrogate:
    masks = draw_masks(count, num_samples, seed)
    design, weights = masks.double(), proximity(masks, kernel_width)
    if penalty == "lasso" and alpha:
        return Surrogate(masks=masks, fit=partial(lasso, design, weights, alpha))
    try:
        return Surrogate(masks=masks, fit=partial(torch.matmul, ridge(design, weights, alpha)))
    except ValueError as error:
        raise ValueError(
            f"`num_samples`: expected {count + 1} or more masks that tell {count} superpixels apart, got "
            f"{num_samples} of `kernel_width` {kernel_width}; more of them, fewer superpixels, a wider `kernel_width` "
            "or `penalty` ridge would do"
        ) from error
