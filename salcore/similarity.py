"""How alike two maps are: structural similarity and cosine."""

from __future__ import annotations

import torch
from torch import Tensor


def ssim(a: Tensor, b: Tensor, *, value_range: float, sigma: float = 1.5) -> Tensor:
    """Structural similarity of two images in [-1, 1], mean over windows and channels: `(N, C, H, W)` to `(N,)`.

        SSIM = (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_a^2 + s_b^2 + C2))
        C1 = (0.01 value_range)^2        C2 = (0.03 value_range)^2

    m and s are Gaussian-weighted means and (co)variances in every window that lies inside the image. `value_range` is
    the largest minus the smallest possible value; it is never inferred, or the result would depend on the batch.

    Source: Image Quality Assessment: From Error Visibility to Structural Similarity (Wang et al., 2004), Eq. 13.
    """
    return ssim_map(a, b, value_range=value_range, sigma=sigma).flatten(1).mean(1)


def ssim_map(a: Tensor, b: Tensor, *, value_range: float, sigma: float = 1.5) -> Tensor:
    """SSIM of each window: `(N, C, H, W)` to `(N, C, H - side + 1, W - side + 1)`, the same bits in any batch."""
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"`a`, `b`: expected two tensors (N, C, H, W), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not value_range > 0:
        raise ValueError(f"`value_range`: expected a positive number, got {value_range}")
    window = gaussian_window(window_side(*a.shape[-2:]), sigma)
    # The two variances are only needed as their sum.
    m_a, m_b, squares, product = _smooth(torch.stack([a, b, a * a + b * b, a * b]), window)
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    means, mean_squares = m_a * m_b, m_a * m_a + m_b * m_b
    numerator = (2 * means + c1) * (2 * (product - means) + c2)
    return numerator / ((mean_squares + c1) * (squares - mean_squares + c2))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / (||a|| ||b||) over all axes but the first: `(N, ...)` to `(N,)`; NaN where one of them is 0."""
    if a.shape != b.shape:
        raise ValueError(f"`a`, `b`: expected the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.flatten(1), b.flatten(1)
    return (a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1)).sqrt()


def window_side(height: int, width: int) -> int:
    """Side of the window: 11, or the largest odd number that fits a smaller image.

    >>> window_side(28, 28), window_side(8, 8)
    (11, 7)
    """
    side = min(11, height, width)
    return side - 1 + side % 2


def gaussian_window(side: int, sigma: float) -> list[float]:
    """Weights of a Gaussian of standard deviation `sigma` at `side` integer steps around 0; they sum to 1."""
    steps = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    return (weights / weights.sum()).tolist()


def _smooth(x: Tensor, window: list[float]) -> Tensor:
    """Separable correlation with `window` along the last two axes, no padding.

    Shifted sums in a fixed order instead of a convolution, whose algorithm, and so whose last bits, follow the batch.
    """
    for axis in (-2, -1):
        length = x.shape[axis] - len(window) + 1
        total = x.narrow(axis, 0, length) * window[0]
        for offset, weight in enumerate(window[1:], start=1):
            total += x.narrow(axis, offset, length) * weight
        x = total
    return x
