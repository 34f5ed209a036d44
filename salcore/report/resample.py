"""Intervals of a difference between two runs: over samples that both explained, and over the members of each."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import stdtrit

from salcore.statistics import Estimate

DRAWS = 2000
CHUNK = 100


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], samples: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a paired bootstrap over samples: where the 2.5th and 97.5th percentile lie.

    `statistic` maps counts `(B, N)`, how often each sample was drawn in each of B draws, to B values; it reads both
    runs with the same counts, so that what makes a sample easy for both cancels. NaN for fewer than 2 samples.

    Source: The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982), chapter 10.
    """
    if samples < 2:
        return np.nan, np.nan
    values = np.concatenate([statistic(counts) for counts in _draws(samples, seed)])
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def over_members(first: np.ndarray, second: np.ndarray, difference: float) -> Estimate:
    """95 % interval of `difference`, second - first, from the values `(M,)` of each ensemble without each member.

    The members of the two runs count as independent, so jackknife variances add:

        se_i^2 = (M_i - 1) / M_i sum (theta_ij - mean theta_i)^2        difference -+ t(0.975, f) sqrt(se_1^2 + se_2^2)

    with Welch's degrees of freedom f. NaN ends for fewer than 2 values on a side or values that are not finite.
    """
    sides = (first, second)
    if any(len(side) < 2 or not np.isfinite(side).all() for side in sides):
        return Estimate(value=difference, low=np.nan, high=np.nan)
    variances = np.array([(len(side) - 1) * np.var(side) for side in sides])
    freedoms = np.array([len(side) - 1 for side in sides])
    total = variances.sum()
    if total == 0:
        return Estimate(value=difference, low=difference, high=difference)
    freedom = total**2 / (variances**2 / freedoms).sum()
    reach = float(stdtrit(freedom, 0.975) * np.sqrt(total))
    return Estimate(value=difference, low=difference - reach, high=difference + reach)


def _draws(samples: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(DRAWS // CHUNK):
        drawn = generator.integers(samples, size=(CHUNK, samples))
        rows = np.arange(CHUNK)[:, None] * samples
        yield np.bincount((drawn + rows).ravel(), minlength=CHUNK * samples).reshape(CHUNK, samples).astype(np.float64)
