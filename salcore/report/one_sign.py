"""Whether a method's maps are nearly all of one sign, as GradCAM's may be: such an SNR is lifted.

Maps of one sign share their offset from zero, which no averaging over members removes: the SNR of the absolute value of
pure noise is 1.32, whichever sign is put before it.
"""

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.runs import Run

NEARLY_ALL = 0.9
"""Share of one sign (see `share_of_one_sign`) from which maps count as of one sign."""
LOOKED_AT = 256
"""Samples that are looked at, the first of them."""


def share_of_one_sign(run: "Run", method: str) -> float:
    """Share of the mass, sum |x|, of a member's map that has its sample's commoner sign: median over 256 samples.

    Expected of values that are normal over members with the pixel's mean mu and deviation sigma:

        E[max(x, 0)] = mu Phi(mu / sigma) + sigma phi(mu / sigma)        E[max(-x, 0)] = E[max(x, 0)] - mu

    each summed over the map, the larger over both. So it is about the maps themselves: mean maps of signed ones are of
    one sign too where the signal is. 0.5 where both signs weigh the same, 1 where there is one; NaN where all is zero.
    """
    shares: list[np.ndarray] = []
    for name in run.stats_files(method):
        stats = read_stats(run.store, name).stats.select(["mean", "variance"])
        for batch in stats.slice(0, LOOKED_AT - sum(map(len, shares))).to_batches():
            mean, variance = (batch.column(each).to_numpy_ndarray() for each in ("mean", "variance"))
            shares.append(commoner(mean.reshape(len(mean), -1), variance.reshape(len(mean), -1)))
    known = np.concatenate(shares)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else np.nan


def commoner(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The share `(n,)` of the commoner sign in maps whose pixels have these means and variances `(n, P)`.

    >>> commoner(np.array([[-1.0, -3.0], [1.0, -3.0]]), np.zeros((2, 2))).tolist()
    [1.0, 0.75]
    """
    mean, sigma = mean.astype(np.float64), np.sqrt(variance, dtype=np.float64)
    z = np.divide(mean, sigma, out=np.copysign(np.inf, mean), where=sigma > 0)
    density = np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi)
    positive = (mean * ndtr(z) + sigma * density).sum(axis=1)
    negative = positive - mean.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.maximum(positive, negative) / (positive + negative)
