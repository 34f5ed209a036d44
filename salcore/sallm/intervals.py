"""Intervals over texts nested in seeds: both the training runs and the texts would be others another time."""

import numpy as np

from salcore.statistics import Estimate

DRAWS = 2000


def over_seeds_and_texts(values: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean of values (M, N) of M seeds on the same N texts, with the 95 % interval of a two-way bootstrap.

    Each draw takes M seeds and N texts with replacement, the same texts for every seed. NaN is left out. For a
    difference give the differences, text by text and seed by seed: the bootstrap is then paired. Three seeds alone make
    a coarse interval, and never one that is too narrow by the texts that they share.

    Source: Bootstrapping data arrays of arbitrary order (Owen and Eckles, 2012), the product of two bootstraps.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise ValueError(f"`values`: expected (M, N), got {values.shape}")
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    if not known.any():
        return Estimate(value=np.nan, low=np.nan, high=np.nan)
    random = np.random.default_rng(seed)
    members, texts = values.shape
    seeds = random.multinomial(members, np.full(members, 1 / members), size=draws).astype(np.float64)
    sums = np.empty(draws)
    for draw, chosen in enumerate(seeds):
        weights = np.bincount(random.integers(0, texts, texts), minlength=texts)
        count = chosen @ (known @ weights)
        sums[draw] = (chosen @ (filled @ weights)) / count if count else np.nan
    low, high = np.nanpercentile(sums, [2.5, 97.5])
    return Estimate(value=float(values[known].mean()), low=float(low), high=float(high))
