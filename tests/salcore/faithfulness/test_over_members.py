"""Means over members and their intervals, and what is measured of an ensemble."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from salcore.faithfulness import accuracy_drop, ensemble, over_members, paired


def test_the_interval_is_students_t():
    values = np.random.default_rng(0).normal(size=7)
    found = over_members(values.tolist())
    low, high = scipy.stats.t.interval(0.95, 6, values.mean(), scipy.stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_it_holds_the_truth_in_95_of_100():
    draws = np.random.default_rng(1).normal(3, 2, (2000, 4))
    held = [each.low <= 3 <= each.high for each in (over_members(row.tolist()) for row in draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_one_member_has_no_interval_and_none_no_mean():
    assert over_members([2.0]).value == 2
    assert math.isnan(over_members([2.0]).low)
    assert math.isnan(over_members([2.0, math.nan]).value)
    with pytest.raises(ValueError, match=r"^`values`"):
        over_members([])


def test_pairs_share_what_their_members_have_in_common():
    first = [1.0, 5.0, 9.0]
    found = paired(first, [value - 2 for value in first])
    assert (found.value, found.low, found.high) == (2, 2, 2)
    with pytest.raises(ValueError, match=r"^`others`: expected 3 values"):
        paired(first, [1.0])


def test_an_ensemble_is_measured_by_its_own_maps_and_by_their_mean():
    models = [nn.Linear(2, 2) for _ in range(3)]
    maps = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 12.0]]])
    seen = []

    def measure(model, attributions):
        seen.append(model)
        return float(attributions.sum())

    found = ensemble(measure, iter(models), maps)
    assert found.own == (3, 7, 17)
    assert found.of_mean == (9, 9, 9)
    assert found.gain.value == pytest.approx(0)
    assert [models.index(model) for model in seen] == [0, 0, 1, 1, 2, 2]  # one after the other
    assert maps[0].tolist() == [[1, 2]]


def test_a_measure_of_an_ensemble_is_that_of_each_member(noisy, images):
    inputs, labels, maps = images

    def measure(model, attributions):
        return accuracy_drop(model, inputs, labels, attributions).area

    found = ensemble(measure, [noisy, noisy], [maps, -maps])
    assert found.own[0] == found.own[1] == measure(noisy, maps)
    assert found.of_mean[0] == measure(noisy, torch.zeros_like(maps))
