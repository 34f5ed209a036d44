"""Read-outs of an ensemble's moments: signal, noise, their ratio, and error bars over members.

For one sample, mu and sigma are the mean and the standard deviation (ddof = 1) of its maps over M members:

    SNR = ||mu|| / ||sigma||        noise2 = ||sigma||^2        signal2 = ||mu||^2 - ||sigma||^2 / M

E[||mu||^2] holds noise too, ||sigma||^2 / M of it, so the SNR of pure noise is 1 / sqrt(M) and not 0. signal2 and
noise2 are unbiased, and signal2 is negative about half the time where there is no signal. It is kept signed.

Source of the SNR: Initialization Noise in Image Gradients and Saliency Maps (Woerl et al., 2023), Eq. 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

PAPER_MEMBERS = 30
"""Members of the ensembles in Woerl et al., Table 1."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval; the ends are NaN where there are too few members to tell."""

    value: float
    low: float
    high: float


def snr(mean2: np.ndarray, noise2: np.ndarray) -> np.ndarray:
    """||mu|| / ||sigma|| from their squares; infinite without noise, NaN where both are 0 or one is NaN."""
    return np.sqrt(_ratio(mean2, noise2))


def signal2(mean2: np.ndarray, noise2: np.ndarray, members: int) -> np.ndarray:
    """Unbiased estimate of the squared norm of the true mean, ||mu||^2 - ||sigma||^2 / M: signed."""
    return np.asarray(mean2) - np.asarray(noise2) / members


def debiased(signal2: np.ndarray, noise2: np.ndarray) -> np.ndarray:
    """sqrt(signal2 / noise2): the SNR of infinitely many members; 0 where signal2 is negative (count those)."""
    return at_members(signal2, noise2, np.inf)


def at_members(signal2: np.ndarray, noise2: np.ndarray, members: float = PAPER_MEMBERS) -> np.ndarray:
    """The SNR expected of `members` members: sqrt(debiased^2 + 1 / members), with debiased^2 signed, 0 at the least."""
    return np.sqrt(np.maximum(_ratio(signal2, noise2) + 1 / members, 0))


def null(members: int) -> float:
    """SNR of pure noise, 1 / sqrt(M): 0.18 for 30 members, 0.45 for 5."""
    return members**-0.5 if members > 0 else np.nan


def convergence_grid(members: int, points: int = 24) -> tuple[int, ...]:
    """Numbers of members at which convergence is shown: all up to 6, `members`, geometric steps between.

    >>> convergence_grid(4), len(convergence_grid(10_000))
    ((1, 2, 3, 4), 24)
    """
    if members <= points:
        return tuple(range(1, members + 1))
    steps = np.geomspace(6, members, points - 5).round().astype(int)
    return tuple(sorted({*range(1, 7), *steps.tolist()}))


def noise2_without(noise2: np.ndarray, deviation2: np.ndarray, members: int) -> np.ndarray:
    """||sigma||^2 of the ensemble of M without one member, from ||d||^2 of that member's deviation d = x - mu.

        ||sigma'||^2 = ((M - 1) ||sigma||^2 - M / (M - 1) ||d||^2) / (M - 2)

    NaN for fewer than 3 members.
    """
    if members < 3:
        return np.full_like(noise2, np.nan)
    rest = members - 1
    return np.maximum(rest * noise2 - members / rest * deviation2, 0) / (members - 2)


def jackknife(value: float, without: np.ndarray) -> Estimate:
    """95 % interval over members from the values `(M,)` of the summary without each of them.

        se^2 = (M - 1) / M sum (theta_i - mean theta)^2        theta -+ t(0.975, M - 1) se

    Members, not samples, are what a new run would draw anew: all samples share them. NaN ends for fewer than 2 values.

    Source: The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982), chapter 3.
    """
    members = len(without)
    if members < 2 or not np.isfinite(without).all():
        return Estimate(value=value, low=np.nan, high=np.nan)
    error = np.sqrt((members - 1) * np.var(without))
    reach = float(stdtrit(members - 1, 0.975) * error)
    return Estimate(value=value, low=value - reach, high=value + reach)


def debiased_summary(
    signal2: float, noise2: float, signal2_without: np.ndarray, noise2_without: np.ndarray, at: float = np.inf
) -> Estimate:
    """Debiased SNR of many samples, sqrt(sum signal2 / sum noise2 + 1 / at), with its jackknife interval.

    The root of a ratio of means, so that samples of negative signal2 count. `*_without` are the sums `(M,)` without
    each member. The interval is that of the ratio, its ends taken through the same root: 0 where they are negative.
    """
    ratio = jackknife(float(_ratio(signal2, noise2)), _ratio(signal2_without, noise2_without))
    low, value, high = np.sqrt(np.maximum(np.array([ratio.low, ratio.value, ratio.high]) + 1 / at, 0)).tolist()
    return Estimate(value=value, low=low, high=high)


def _ratio(numerator: np.ndarray | float, denominator: np.ndarray | float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(numerator, denominator)
