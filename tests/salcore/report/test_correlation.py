import numpy as np
import pytest
from scipy.stats import pearsonr

from salcore.report.correlation import pearson, spearman

RNG = np.random.default_rng(0)


def test_pearson_and_its_interval_are_those_of_scipy():
    x, y = RNG.standard_normal((2, 60))
    y += 0.5 * x
    expected = pearsonr(x, y)
    found, ends = pearson(x, y), expected.confidence_interval(0.95)
    assert found.value == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-6)


def test_spearman_sees_only_ranks_and_the_sign():
    x = RNG.standard_normal(50)
    assert spearman(x, np.exp(x)).value == pytest.approx(1)
    assert spearman(x, -(x**3)).value == pytest.approx(-1)
    assert pearson(x, np.exp(x)).value < 0.95


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(300):
        x, y = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=40).T
        found = spearman(x, y)
        hits += found.low <= 6 / np.pi * np.arcsin(0.3) <= found.high
    assert 0.9 < hits / 300 < 0.985


def test_undefined_where_there_is_too_little_or_no_change():
    assert np.isnan(pearson(np.arange(3.0), np.arange(3.0)).value)
    assert np.isnan(spearman(np.ones(9), np.arange(9.0)).value)
    assert np.isnan(pearson(np.array([1.0, 2, 3, np.nan]), np.arange(4.0)).value)
