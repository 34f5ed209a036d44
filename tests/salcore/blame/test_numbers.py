"""Means over mistakes and their intervals: a bootstrap that draws whole samples."""

import numpy as np
import pytest

from salcore.blame import numbers


def test_a_mean_over_samples_draws_whole_samples():
    """Two members that share all mistakes know no more of the samples than one."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 1))
    (once,) = numbers.over_samples(np.arange(200), values)
    (twice,) = numbers.over_samples(np.tile(np.arange(200), 2), np.concatenate([values, values]))
    assert once == twice
    half = 1.96 * values.std() / np.sqrt(200)
    assert (once.high - once.low) / 2 == pytest.approx(half, rel=0.15)


def test_a_difference_between_kinds_is_of_their_own_means():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0], [np.nan, 5.5]])
    found = numbers.difference(np.arange(4), values)
    assert found.value == pytest.approx(2.0 - 5.25)
    assert found.low < found.value < found.high < 0


def test_one_sample_has_no_interval():
    (found,) = numbers.over_samples(np.array([3, 3]), np.array([[1.0], [2.0]]))
    assert found.value == 1.5
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_the_interval_of_a_mean_has_its_textbook_width():
    values = np.random.default_rng(0).normal([0.0, 3.0], [1.0, 2.0], size=(400, 2))
    for place, found in enumerate(numbers.over_samples(np.arange(400), values)):
        error = values[:, place].std() / 20
        assert found.value == pytest.approx(values[:, place].mean())
        assert found.value - found.low == pytest.approx(1.96 * error, rel=0.1)
        assert found.high - found.value == pytest.approx(1.96 * error, rel=0.1)


def test_shares_of_none_and_of_all_are_sure():
    corrected = (np.random.default_rng(1).random((60, 3)) < [0.0, 0.3, 1.0]).astype(float)
    none, some, every = numbers.over_samples(np.arange(60), corrected)
    assert (none.value, none.low, none.high) == (0, 0, 0)
    assert (every.value, every.low, every.high) == pytest.approx((1, 1, 1))
    assert some.value == pytest.approx(corrected[:, 1].mean())
    assert some.low < some.value < some.high


def test_values_that_are_not_known_are_left_out():
    (found,) = numbers.over_samples(np.arange(3), np.array([[1.0], [np.nan], [3.0]]))
    assert found.value == 2.0


def test_a_gain_at_best_favours_neither_where_nothing_differs():
    """Taking the best of many noisy columns is no gain: the other side takes its best too."""
    rng = np.random.default_rng(0)
    holds = 0
    for _ in range(40):
        rows = [numbers.Rows(sample=np.arange(80), values=(rng.random((80, 9)) < 0.1) * 1.0) for _ in range(2)]
        found = numbers.gain_at_best(*rows)
        holds += found.low > 0
    assert holds <= 4
    better = numbers.Rows(sample=rows[0].sample, values=rows[0].values * 0 + np.arange(9) / 9)
    assert numbers.gain_at_best(better, rows[1]).low > 0


def test_rows_of_other_samples_are_not_subtracted():
    one, two = (numbers.Rows(sample=np.arange(2) + shift, values=np.zeros((2, 1))) for shift in (0, 1))
    with pytest.raises(ValueError, match="the same samples"):
        one - two
