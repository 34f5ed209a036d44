"""What is drawn of a sample's maps: one value per pixel."""

import numpy as np


def summed(maps: np.ndarray) -> np.ndarray:
    """Maps `(M, C, H, W)` summed over channels in float64, `(M, H, W)`: raising all channels at once."""
    return maps.sum(axis=1, dtype=np.float64)


def t_map(maps: np.ndarray) -> np.ndarray:
    """How sure each pixel's sign is: mean / (sigma / sqrt M) of maps `(M, ...)`, ddof = 1.

    0 where nothing varies and the mean is 0; NaN for fewer than 2 members.
    """
    members = len(maps)
    if members < 2:
        return np.full(maps.shape[1:], np.nan)
    mean, sigma = maps.mean(axis=0, dtype=np.float64), maps.std(axis=0, ddof=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((sigma == 0) & (mean == 0), 0.0, mean * np.sqrt(members) / sigma)
