"""Read-outs of an ensemble's moments: signal, noise, their ratio, and error bars over members.

For one sample, mu and sigma are the mean and the standard deviation (ddof = 1) of its maps over M members:

    SNR = ||mu|| / ||sigma||        noise2 = ||sigma||^2        signal2 = ||mu||^2 - ||sigma||^2 / M

E[||mu||^2] holds noise too, ||sigma||^2 / M of it, so the SNR of pure noise is 1 / sqrt(M) and not 0. signal2 and
noise2 are unbiased, and signal2 is negative about half the time where there is no signal. It is kept signed.

Source of the SNR: Initialization Noise in Image Gradients and Saliency Maps (Woerl et al., 2023), Eq. 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from salcore.moments import Moments

PAPER_MEMBERS = 30
"""Members of the ensembles in Woerl et al., Table 1."""
COUNTABLE = 2.0**53
"""Numbers of members from here on count as infinite: they are not told apart in float64."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval; the ends are NaN where there are too few members to tell."""

    value: float
    low: float
    high: float


def snr(mean2: np.ndarray, noise2: np.ndarray) -> np.ndarray:
    """||mu|| / ||sigma|| from their squares; infinite without noise, NaN where both are 0 or one is NaN."""
    return np.sqrt(ratio(mean2, noise2))


def signal2(mean2: np.ndarray, noise2: np.ndarray, members: int) -> np.ndarray:
    """Unbiased estimate of the squared norm of the true mean, ||mu||^2 - ||sigma||^2 / M: signed."""
    return np.asarray(mean2) - np.asarray(noise2) / members


def debiased(signal2: np.ndarray, noise2: np.ndarray) -> np.ndarray:
    """sqrt(signal2 / noise2): the SNR of infinitely many members; 0 where signal2 is negative (count those)."""
    return at_members(signal2, noise2, np.inf)


def at_members(signal2: np.ndarray, noise2: np.ndarray, members: float = PAPER_MEMBERS) -> np.ndarray:
    """The SNR expected of `members` members: sqrt(debiased^2 + 1 / members), with debiased^2 signed, 0 at the least."""
    return ratio_at(ratio(signal2, noise2), members)


def ratio_at(ratio: np.ndarray, members: float = np.inf) -> np.ndarray:
    """The SNR of a signed ratio signal2 / noise2 at `members`: sqrt(ratio + 1 / members), 0 where that is negative."""
    return np.sqrt(np.maximum(ratio + 1 / members, 0))


def ratio(signal2: np.ndarray | float, noise2: np.ndarray | float) -> np.ndarray:
    """signal2 / noise2, debiased SNR squared and signed; infinite without noise, NaN where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(signal2, noise2)


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
    """95 % interval over members of one number, from its values `(M,)` without each of them: see `interval`."""
    with np.errstate(invalid="ignore"):  # of infinities, for which there is no interval
        low, high = interval(value, Moments.from_batch(without))
    return Estimate(value=value, low=float(low), high=float(high))


def interval(value: np.ndarray | float, without: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the jackknife's 95 % interval of each value `(n,)`, from the moments of its values without each member.

        se^2 = (M - 1) / M sum (theta_i - mean theta)^2        theta -+ t(0.975, M - 1) se

    Members, not samples, are what a new run would draw anew: all samples share them. NaN ends for fewer than 3 members
    and where a value without a member is not finite.

    Source: The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982), chapter 3.
    """
    members = without.count
    reach = _half_width(members) * np.sqrt((members - 1) * np.asarray(without.m2))
    reach = np.where(np.isfinite(reach), reach, np.nan)
    return value - reach, value + reach


def debiased_summary(
    signal2: float, noise2: float, signal2_without: np.ndarray, noise2_without: np.ndarray, at: float = np.inf
) -> Estimate:
    """Debiased SNR of many samples, sqrt(sum signal2 / sum noise2 + 1 / at), with its jackknife interval.

    The root of a ratio of means, so that samples of negative signal2 count. `*_without` are the sums `(M,)` without
    each member. The interval is that of the ratio, its ends taken through the same root: 0 where they are negative.
    """
    squared = jackknife(float(ratio(signal2, noise2)), ratio(signal2_without, noise2_without))
    low, value, high = ratio_at(np.array([squared.low, squared.value, squared.high]), at).tolist()
    return Estimate(value=value, low=low, high=high)


def mean_map_snr(debiased: float, members: int) -> float:
    """SNR of a mean map over `members`: sqrt(M) times that of one map.

    >>> mean_map_snr(0.5, 16)
    2.0
    """
    return math.sqrt(members) * debiased


def members_for(debiased: float, snr: float) -> int | float:
    """Members whose mean map reaches `snr`: (snr / debiased)^2, rounded up, at least 1.

    Infinite where there is no signal, `debiased` 0; NaN where it is unknown.

    >>> members_for(0.5, 4.0)
    64
    """
    if math.isnan(debiased) or math.isnan(snr):
        return math.nan
    if snr >= debiased * COUNTABLE**0.5:
        return math.inf
    needed = (snr / debiased) ** 2
    return max(1, math.ceil(needed * (1 - 1e-12)))  # so that rounding adds no member


def projected_members(width: float, asked: float, members: int) -> int | float:
    """Members, 3 at least, at which a jackknife interval that is `width` wide at `members` would be `asked` wide.

    The smallest M with width h(M) / h(members) <= asked, where h(M) = t(0.975, M - 1) / sqrt(M): a standard error over
    members falls as 1 / sqrt(M). Infinite where `width` is not finite, `asked` not positive, or M beyond counting.

    >>> projected_members(0.2, 0.1, 10), projected_members(0.2, 0.0, 10)
    (33, inf)
    """
    if not (math.isfinite(width) and asked > 0 and members >= 3):
        return math.inf
    if width <= 0:
        return 3
    wanted = asked / width * _half_width(members)
    normal = 1.9599639845400545  # of infinitely many degrees of freedom: t is never below
    least = (normal / wanted) ** 2 if wanted > normal / COUNTABLE**0.5 else math.inf
    if least >= COUNTABLE:
        return math.inf
    needed = max(3, math.floor(least))
    while _half_width(needed) > wanted * (1 + 1e-12):
        needed += 1
    return needed


def _half_width(members: int) -> float:
    """Half the width of a 95 % interval of a mean over members, in standard deviations: t(0.975, M - 1) / sqrt(M)."""
    from scipy.special import stdtrit  # here, as attribution needs no more of this module than its types

    return float(stdtrit(members - 1, 0.975)) / members**0.5 if members >= 3 else math.nan
