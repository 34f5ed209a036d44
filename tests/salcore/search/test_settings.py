import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salcore.errors import UserError
from salcore.members import recipe
from salcore.search.settings import Setting, drawn, grid, name_of, rounded, spec_of
from salcore.spec import Spec, parse

SHARES = st.floats(0, 1)
WEIGHTS = st.floats(0, 1e12)


def section(text):
    return parse(f"search: {{{text}}}").search


def test_a_grid_is_every_pair_once():
    found = grid(section("mask_fraction: [0.25, 0.5], weight: [0, 1, 3]"))
    assert [setting.name for setting in found] == [
        "k0.25-lambda0", "k0.25-lambda1", "k0.25-lambda3", "k0.5-lambda0", "k0.5-lambda1", "k0.5-lambda3",
    ]  # fmt: skip


@given(SHARES, WEIGHTS, SHARES, WEIGHTS)
def test_two_settings_of_one_name_are_equal_and_a_name_may_be_that_of_a_run(k, weight, other_k, other_weight):
    one, other = Setting(mask_fraction=k, weight=weight), Setting(mask_fraction=other_k, weight=other_weight)
    assert (one.name == other.name) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", one.name)
    assert spec_of(Spec(name="run"), one).name == f"run-{one.name}"


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 6))
def test_more_trials_are_the_same_trials_and_more(seed, few, more):
    text = "algorithm: random, mask_fraction: {{low: 0.2, high: 0.7}}, weight: {{low: 0.05, high: 20}}, "
    first, second = (drawn(section(text.format() + f"trials: {count}, seed: {seed}")) for count in (few, few + more))
    assert len({*second}) == few + more
    assert second[:few] == first
    assert all(0.2 <= each.mask_fraction <= 0.7 and 0.05 <= each.weight <= 20 for each in second)


def test_lambda_is_drawn_evenly_by_its_logarithm_and_k_evenly():
    found = drawn(section("algorithm: random, trials: 600, weight: {low: 0.01, high: 100}"))
    logs = [math.log10(each.weight) for each in found]
    assert abs(sum(value < 0 for value in logs) / 600 - 0.5) < 0.06
    assert abs(sum(value < -1 for value in logs) / 600 - 0.25) < 0.06
    assert abs(sum(each.mask_fraction for each in found) / 600 - 0.5) < 0.03


@given(SHARES, st.floats(1e-3, 1e3))
def test_rounding_never_leaves_the_ranges(k, weight):
    ranges = section("algorithm: random, mask_fraction: {low: 0.33333333, high: 0.66666666}, "
                     "weight: {low: 0.123456789, high: 9.87654321}")  # fmt: skip
    found = rounded(k, weight, ranges)
    assert 0.33333333 <= found.mask_fraction <= 0.66666666
    assert 0.123456789 <= found.weight <= 9.87654321


def test_ranges_that_hold_too_few_settings_are_refused():
    narrow = "mask_fraction: {low: 0.5, high: 0.5001}, weight: {low: 1, high: 1}"
    with pytest.raises(UserError, match=r"search.trials: expected no more trials than the ranges hold settings \(2\)"):
        drawn(section(f"algorithm: random, trials: 3, {narrow}"))


def test_a_trial_s_spec_differs_from_the_search_s_in_the_setting_alone():
    spec = parse("name: s\ntraining: {guidance: {fill: background}}\nsearch: {seed: 3}")
    guided = spec_of(spec, Setting(mask_fraction=0.25, weight=3.0))
    assert guided.training.objective == "guided"
    assert guided.training.guidance.model_dump() == {
        **spec.training.guidance.model_dump(), "mask_fraction": 0.25, "weight": 3.0,
    }  # fmt: skip
    standard = spec_of(spec, None)
    assert (standard.name, standard.training.objective) == ("s-standard", "standard")
    assert "search" not in guided.to_dict() | standard.to_dict()
    assert parse("", []).training.guidance == spec_of(Spec(), None).training.guidance


def test_the_section_changes_no_fingerprint():
    assert recipe(parse("search: {seed: 3, weight: [7]}"), "data") == recipe(Spec(), "data")


def test_standard_training_has_a_name_that_no_setting_has():
    assert name_of(None) == "standard"
    assert name_of(Setting(mask_fraction=1.0, weight=1e20)) == "k1-lambda1e20"


def test_where_attention_is_taught_k_is_the_share_that_is_marked():
    spec = parse("training: {objective: attention, attention: {explanations: /x, layers: all}}")
    own = spec_of(spec, Setting(mask_fraction=0.3, weight=2.0)).training
    assert (own.objective, own.attention.top, own.attention.weight) == ("attention", 0.3, 2.0)
    assert (own.attention.layers, own.attention.explanations) == ("all", "/x")
    assert own.guidance == spec.training.guidance
    assert spec_of(spec, None).training.objective == "standard"
    guided = spec_of(parse(""), Setting(mask_fraction=0.3, weight=2.0)).training
    assert (guided.objective, guided.guidance.mask_fraction) == ("guided", 0.3)
    assert guided.attention == spec_of(parse(""), None).training.attention


def test_layers_are_searched_where_they_are_listed():
    spec = parse("training: {objective: attention, attention: {explanations: /x, layers: all}}")
    found = grid(section("mask_fraction: [0.2], weight: [1, 3], layers: [last, [0, 2]]"))
    assert [setting.name for setting in found] == [
        "k0.2-lambda1-layers_last", "k0.2-lambda3-layers_last", "k0.2-lambda1-layers_0_2", "k0.2-lambda3-layers_0_2",
    ]  # fmt: skip
    assert [spec_of(spec, setting).training.attention.layers for setting in found[1:3]] == ["last", (0, 2)]
    text = "algorithm: random, trials: 300, weight: {low: 0.1, high: 10}"
    several = drawn(section(f"{text}, layers: [last, all, [1]]"))
    assert [(each.mask_fraction, each.weight) for each in several] == [
        (each.mask_fraction, each.weight) for each in drawn(section(text))
    ]
    assert all(70 <= sum(each.layers == layers for each in several) <= 130 for layers in ("last", "all", (1,)))


@pytest.mark.parametrize("layers", ["[last, last]", "[first]", "[]", "[[-1.5]]"])
def test_layers_that_make_no_search_are_refused(layers):
    with pytest.raises(UserError, match=r"search\.layers"):
        section(f"layers: {layers}")
