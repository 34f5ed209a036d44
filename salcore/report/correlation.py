"""Correlation of two numbers over samples, with intervals that treat samples as independent draws."""

import numpy as np
from scipy.stats import pearsonr, spearmanr

from salcore.statistics import Estimate

Z95 = 1.959964
FEWEST = 4


def pearson(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson's r of finite pairs, with Fisher's interval tanh(atanh r -+ 1.96 / sqrt(n - 3)).

    NaN for fewer than 4 pairs or where one side does not vary.
    """
    x, y = _finite(x, y)
    if _undefined(x, y):
        return Estimate(value=np.nan, low=np.nan, high=np.nan)
    return _interval(float(pearsonr(x, y).statistic), 1 / np.sqrt(len(x) - 3))


def spearman(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Spearman's rank correlation of finite pairs, with a standard error of sqrt((1 + r^2 / 2) / (n - 3)) for atanh r.

    Source: Sample Size Requirements for Estimating Pearson, Kendall and Spearman Correlations (Bonett, Wright, 2000).
    """
    x, y = _finite(x, y)
    if _undefined(x, y):
        return Estimate(value=np.nan, low=np.nan, high=np.nan)
    value = float(spearmanr(x, y).statistic)
    return _interval(value, np.sqrt((1 + value**2 / 2) / (len(x) - 3)))


def _interval(value: float, error: float) -> Estimate:
    centre = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    low, high = np.tanh([centre - Z95 * error, centre + Z95 * error])
    return Estimate(value=value, low=float(low), high=float(high))


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.isfinite(x) & np.isfinite(y)
    return x[both], y[both]


def _undefined(x: np.ndarray, y: np.ndarray) -> bool:
    return len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0
