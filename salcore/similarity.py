"""How alike two maps are: structural similarity and cosine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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
    import torch  # here, as reducing, in processes that should start soon, needs the windows alone

    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"`a`, `b`: expected two tensors (N, C, H, W), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not value_range > 0:
        raise ValueError(f"`value_range`: expected a positive number, got {value_range}")
    first, second = (Windows.of(_upright(x), sigma=sigma) for x in (a, b))
    each = torch.from_numpy(first.ssim(second, value_range=value_range))
    return each.permute(2, 0, 1).reshape(*a.shape[:2], *each.shape[:2])


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Images `(H, W, K)` and, in each window, their mean, its square and their variance: made once, paired often.

    Places come first and images last, so that a shift by one place is one piece of memory.
    """

    image: np.ndarray
    mean: np.ndarray
    mean2: np.ndarray
    variance: np.ndarray
    sigma: float

    @classmethod
    def of(cls, image: np.ndarray, *, sigma: float = 1.5) -> Windows:
        """What SSIM needs of images by themselves; `image` is kept, not copied."""
        mean = _smooth(image, sigma)
        mean2 = mean * mean
        variance = _smooth(image * image, sigma)
        variance -= mean2
        return cls(image=image, mean=mean, mean2=mean2, variance=variance, sigma=sigma)

    def ssim(self, other: Windows, *, value_range: float) -> np.ndarray:
        """SSIM of each window of two sets of images of equal shape and `sigma`."""
        c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
        means = self.mean * other.mean
        covariance = _smooth(self.image * other.image, self.sigma)
        covariance -= means
        numerator = (2 * means + c1) * (2 * covariance + c2)
        return numerator / ((self.mean2 + other.mean2 + c1) * (self.variance + other.variance + c2))


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
    steps = np.arange(side) - (side - 1) / 2
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    return (weights / weights.sum()).tolist()


def _upright(x: Tensor) -> np.ndarray:
    """`(N, C, H, W)` as `(H, W, N * C)`."""
    return x.detach().cpu().flatten(0, 1).permute(1, 2, 0).contiguous().numpy()


def _smooth(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian-weighted sums in every window along the first two axes, no padding.

    Shifted sums in a fixed order instead of a convolution, whose algorithm, and so whose last bits, follow the batch.
    Places as far to the left as to the right of a window's middle share their weight.
    """
    window = gaussian_window(window_side(*x.shape[:2]), sigma)
    middle, last = len(window) // 2, len(window) - 1
    for _ in range(2):
        length = len(x) - last
        total = x[middle : middle + length] * window[middle]
        pair = np.empty_like(total)
        for offset in range(middle):
            np.add(x[offset : offset + length], x[last - offset : last - offset + length], out=pair)
            np.multiply(pair, window[offset], out=pair)
            np.add(total, pair, out=total)
        x = total.swapaxes(0, 1)
    return x
