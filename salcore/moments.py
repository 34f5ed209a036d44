"""Mergeable mean and variance: the one summary behind ensemble maps, noise, profiles and normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch  # which reducing, in processes that should start soon, does not need

Array: TypeAlias = "np.ndarray | torch.Tensor"


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of a set of equally shaped arrays, held in float64.

        mean = 1/n sum x_i        m2 = sum (x_i - mean)^2        variance = m2 / (n - ddof)

    Two summaries merge into that of the joint set, without cancellation. Torch tensors stay on their device.
    The mean of nothing, and any variance of fewer than two values, is NaN.

    Source: Algorithms for Computing the Sample Variance (Chan, Golub, LeVeque, 1983), Eq. 1.5.

    >>> half = Moments.from_batch(np.array([[1.0], [2.0]]))
    >>> both = half.merge(Moments.from_batch(np.array([[6.0]])))
    >>> both.count, both.mean.tolist(), both.variance().tolist()
    (3, [3.0], [7.0])
    """

    count: int
    mean: Array
    m2: Array

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Moments:
        """The summary of nothing: neutral in every merge, with numpy and with torch, on any device."""
        return cls(0, np.full(shape, math.nan), np.zeros(shape))

    @classmethod
    def from_batch(cls, x: Array) -> Moments:
        """Summary of the rows of `x`, `(n, ...)`: axis 0 is reduced; any real or integer dtype."""
        x = np.asarray(x, dtype=np.float64) if isinstance(x, np.ndarray) else x.detach().double()
        if len(x) == 0:
            return cls(0, x.sum(0) + math.nan, x.sum(0))
        mean = x.mean(0)
        return cls(len(x), mean, ((x - mean) ** 2).sum(0))

    def merge(self, other: Moments) -> Moments:
        """Summary of both sets together; raises ValueError when their shapes differ."""
        if self.shape != other.shape:
            raise ValueError(f"`other`: expected moments of shape {self.shape}, got {other.shape}")
        if other.count == 0:
            return self
        if self.count == 0:
            return other
        count = self.count + other.count
        shift = other.mean - self.mean
        return Moments(
            count,
            self.mean + shift * (other.count / count),
            self.m2 + other.m2 + shift * shift * (self.count * other.count / count),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one summarised array."""
        return tuple(self.mean.shape)

    def variance(self, ddof: int = 1) -> Array:
        """m2 / (count - ddof); NaN for fewer than two values, where a 0 would claim a certainty nobody has."""
        divisor = self.count - ddof
        return self.m2 / (divisor if self.count >= 2 and divisor > 0 else math.nan)

    def std(self, ddof: int = 1) -> Array:
        """Square root of the variance."""
        return self.variance(ddof) ** 0.5

    def snr(self, sample_dims: int = 1, ddof: int = 1) -> Array:
        """Signal-to-noise ratio ||mean||_2 / ||sigma||_2 over all axes after the first `sample_dims`.

        Infinite where the noise is 0, NaN where mean and noise are both 0 and for fewer than two values.

        Source: Initialization Noise in Image Gradients and Saliency Maps (Woerl et al., 2023), Eq. 5.
        """
        axes = tuple(range(sample_dims, len(self.shape)))
        signal2, noise2 = self.mean**2, self.variance(ddof)
        if axes:  # torch reads an empty tuple of axes as all of them
            signal2, noise2 = signal2.sum(axes), noise2.sum(axes)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (signal2 / noise2) ** 0.5
