"""What Optuna proposes through Ray Tune's searcher: pure, seeded, within the ranges, and better than chance."""

import math

import pytest

from cluster.proposals import propose
from salcore.errors import UserError
from salcore.search import Setting, Tried
from salcore.search.settings import drawn
from salcore.spec import parse

ONE = parse("search: {algorithm: optuna, trials: 24}").search
SEVERAL = parse("search: {algorithm: optuna, objectives: [accuracy, faithfulness]}").search


def goodness(setting):
    """Best at k = 0.3 and lambda = 3."""
    return -((setting.mask_fraction - 0.3) ** 2) - (math.log10(setting.weight) - 0.5) ** 2


def searched(search, trials):
    tried = []
    for _ in range(trials):
        setting = propose(search, [each.setting for each in tried], tried)
        tried.append(Tried(setting=setting, values=(goodness(setting),)))
    return tried


def test_proposals_come_closer_to_the_best_than_random_draws():
    tried = searched(ONE, 24)
    late = sorted(-each.values[0] for each in tried[12:])
    random = sorted(-goodness(setting) for setting in drawn(parse("search: {algorithm: random, trials: 200}").search))
    assert late[6] < random[50], "their median is within the best quarter of random ones"
    assert len({each.setting for each in tried}) == 24
    assert all(0.1 <= each.setting.mask_fraction <= 0.9 and 0.1 <= each.setting.weight <= 10 for each in tried)


@pytest.mark.parametrize("search", [ONE, SEVERAL])
def test_a_proposal_follows_from_what_is_told_and_from_nothing_else(search):
    count = len(search.objectives)
    settings = [Setting(mask_fraction=0.1 * k, weight=float(k)) for k in range(1, 9)]
    tried = [Tried(setting=each, values=(each.weight, -each.weight)[:count]) for each in settings]
    first = propose(search, settings, tried)
    propose(search, [], [])
    assert propose(search, settings, tried) == first
    other = [Tried(setting=each, values=(-each.weight, 0.0)[:count]) for each in settings]
    seeded = search.model_copy(update={"seed": 1})
    assert len({first, propose(search, settings, other), propose(seeded, settings, tried)}) == 3


@pytest.mark.parametrize("values", [None, (math.nan,), (math.inf,)])
def test_trials_without_a_number_are_no_results(values):
    settings = [Setting(mask_fraction=0.1 * k, weight=float(k)) for k in range(1, 9)]
    told = [Tried(setting=each, values=(each.weight,)) for each in settings[:6]]
    without = [*told, *(Tried(setting=each, values=values) for each in settings[6:])]
    assert propose(ONE, settings, without) == propose(ONE, settings, told)


def test_a_range_of_one_value_is_kept_to():
    search = parse("search: {algorithm: optuna, mask_fraction: {low: 0.5, high: 0.5}}").search
    tried = searched(search, 8)
    assert {each.setting.mask_fraction for each in tried} == {0.5}
    assert len({each.setting.weight for each in tried}) == 8


def test_layers_are_proposed_from_what_they_came_to():
    search = parse("search: {algorithm: optuna, layers: [last, all, [0]]}").search
    tried = []
    for _ in range(24):
        setting = propose(search, [each.setting for each in tried], tried)
        tried.append(Tried(setting=setting, values=(float(setting.layers == (0,)),)))
    late = [each.setting.layers for each in tried[12:]]
    assert {each.setting.layers for each in tried} == {"last", "all", (0,)}
    assert late.count((0,)) > 6


def test_ranges_that_hold_no_other_setting_are_the_user_s_mistake():
    search = parse("search: {algorithm: optuna, mask_fraction: {low: 0.5, high: 0.5}, "
                   "weight: {low: 1.0, high: 1.0001}}").search  # fmt: skip
    with pytest.raises(UserError, match=r"search\.trials"):
        propose(search, [Setting(mask_fraction=0.5, weight=w) for w in (1.0, 1.0001)], [])
