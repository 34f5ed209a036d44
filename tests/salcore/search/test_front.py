import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salcore.search.front import nearest_ideal, pareto

NUMBERS = st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf, -np.inf, np.nan])
VALUES = st.integers(1, 3).flatmap(
    lambda objectives: st.lists(st.lists(NUMBERS, min_size=objectives, max_size=objectives), min_size=1, max_size=8)
).map(np.array)  # fmt: skip


def dominates(one, other):
    """Word for word: as good in every objective, and better in one. NaN is neither."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def brute_front(values):
    known = [row for row in values.tolist() if not any(np.isnan(row))]
    return [not any(np.isnan(row)) and not any(dominates(other, row) for other in known) for row in values.tolist()]


@given(VALUES)
def test_the_front_is_what_nothing_dominates(values):
    assert pareto(values).tolist() == brute_front(values)


@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_trials_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert pareto(values[order]).tolist() == pareto(values)[order].tolist()


@given(VALUES)
def test_the_nearest_to_the_ideal_is_on_the_front(values):
    place = nearest_ideal(values, np.zeros(len(values)))
    assert (place is None) == (not pareto(values).any())
    if place is not None:
        assert pareto(values)[place]


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=8), st.sampled_from([1, 1024]))
def test_the_unit_of_an_objective_does_not_matter(rows, unit):
    values, ties = np.array(rows, float), np.zeros(len(rows))
    assert nearest_ideal(values, ties) == nearest_ideal(values * [1, unit] + [3, 0], ties)


def test_the_knee_of_a_front_is_chosen_and_not_its_ends():
    values = np.array([[0.0, 1.0], [0.9, 0.9], [1.0, 0.0], [0.5, 0.5]])
    assert nearest_ideal(values, np.zeros(4)) == 1


@pytest.mark.parametrize(("ties", "chosen"), [([0.1, 0.2], 1), ([0.2, 0.1], 0), ([0.1, 0.1], 0), ([np.nan, 0.1], 1)])
def test_equally_near_trials_are_told_apart_by_ties_and_then_by_order(ties, chosen):
    assert nearest_ideal(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array(ties)) == chosen


def test_without_numbers_there_is_no_front():
    values = np.full((2, 2), np.nan)
    assert not pareto(values).any()
    assert nearest_ideal(values, np.zeros(2)) is None
    assert nearest_ideal(np.empty((0, 2)), np.empty(0)) is None
