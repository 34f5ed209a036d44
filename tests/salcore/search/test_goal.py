import math

import pytest

from salcore.faithfulness import MEASURES
from salcore.search.goal import drop, outcome, score, sign, values
from salcore.spec import parse


def section(text=""):
    return parse(f"search: {{{text}}}").search


@pytest.mark.parametrize(
    "name", ["accuracy_drop", "comprehensiveness", "sufficiency", "aup", "aur", "insertion", "deletion"]
)
def test_every_measure_of_a_search_is_one_of_salcore_faithfulness(name):
    expected = {"higher": 1, "lower": -1}[MEASURES[name].better]
    assert sign("faithfulness", section(f"faithfulness: {name}")) == expected
    assert sign("accuracy", section()) == sign("snr_debiased", section()) == 1


def test_the_best_area_among_those_that_keep_the_accuracy_is_chosen(record):
    standard = record(None, [0.9], [0.5])
    keeps, loses = record(0.25, [0.895], [0.3]), record(0.5, [0.85], [0.1])
    trials = [standard, keeps, loses]
    assert outcome(trials, section("accuracy_drop_at_most: 0.01")).chosen == keeps.name
    assert outcome(trials, section("accuracy_drop_at_most: 0.1")).chosen == loses.name
    assert outcome(trials, section("accuracy_drop_at_most: null")).chosen == loses.name
    assert outcome(trials, section("faithfulness: insertion")).chosen == "standard", "there a larger area is better"


def test_a_loss_of_just_what_is_allowed_is_allowed(record):
    trials = [record(None, [0.75], [0.5]), record(0.5, [0.5], [0.3])]
    assert outcome(trials, section("accuracy_drop_at_most: 0.25")).chosen == "k0.5-lambda1"


def test_standard_training_is_chosen_where_nothing_is_better(record):
    assert outcome([record(None, [0.9], [0.2]), record(0.5, [0.9], [0.3])], section()).chosen == "standard"


def test_equal_areas_are_told_apart_by_accuracy(record):
    trials = [record(None, [0.9], [0.5]), record(0.25, [0.9], [0.3]), record(0.5, [0.91], [0.3])]
    assert outcome(trials, section()).chosen == "k0.5-lambda1"


def test_failed_and_stopped_trials_and_those_without_numbers_are_never_chosen(record):
    trials = [
        record(None, [0.9], [0.5]),
        record(0.2, [0.9], [0.1], state="stopped"),
        record(0.3, state="failed", reason="diverged"),
        record(0.4, [0.9], [math.nan]),
    ]
    found = outcome(trials, section())
    assert (found.front, found.chosen) == (("standard",), "standard")
    assert outcome(trials[1:], section()).chosen is None
    assert outcome([], section("objectives: [accuracy, faithfulness]")).chosen is None


def test_where_standard_training_failed_its_accuracy_holds_nobody_back(record):
    trials = [record(None, state="failed", reason="diverged"), record(0.5, [0.1], [0.3])]
    assert outcome(trials, section()).chosen == "k0.5-lambda1"


def test_of_several_objectives_the_front_and_its_knee(record):
    trials = [
        record(None, [0.9], [0.9]),
        record(0.25, [0.89], [0.2]),
        record(0.5, [0.7], [0.1]),
        record(0.75, [0.6], [0.5]),
    ]
    found = outcome(trials, section("objectives: [accuracy, faithfulness]"))
    assert found.front == ("standard", "k0.25-lambda1", "k0.5-lambda1")
    assert found.chosen == "k0.25-lambda1"


def test_a_loss_is_that_against_the_members_of_the_same_seeds(record):
    """Standard training's third member is a bad one: a trial that has none yet must not seem better for that."""
    standard = record(None, [0.9, 0.8, 0.1], [0.5] * 3)
    assert drop(record(0.5, [0.88, 0.76], [0.1] * 2), standard) == pytest.approx(0.03)
    assert math.isnan(drop(record(0.5, [0.9] * 4, [0.1] * 4), standard))
    assert math.isnan(drop(standard, None))
    assert math.isnan(drop(record(0.5, state="failed"), standard))


def test_a_score_below_the_limit_is_below_every_other_and_falls_with_the_loss(record):
    search, standard = section(), record(None, [0.9], [0.5])
    scores = [score(record(0.5, [accuracy], [area]), standard, search)
              for accuracy, area in ((0.9, 0.1), (0.9, 0.9), (0.85, 0.0), (0.1, 0.0))]  # fmt: skip
    assert scores == sorted(scores, reverse=True)
    assert scores[:2] == [-0.1, -0.9]
    assert values(record(0.5, [0.7], [0.1]), section("objectives: [accuracy, faithfulness]")) == (0.7, -0.1)
