"""The studies of parameter-space saliency: which way their claims go, on runs that are blamed already."""

import math

import numpy as np
import pytest

from salcore.blame import numbers
from salcore.spec import from_dict
from salcore.storage import Store
from salcore.studies import (
    STUDIES,
    blame_finetuning,
    blame_masking,
    blame_neighbours,
    blame_profiles,
    blame_pruning,
)
from tests.salcore.blame.test_blame_page import PASTED

STUDIES_OF_ONE_RUN = (blame_profiles, blame_pruning, blame_neighbours, blame_finetuning)


def rows(study, blame):
    return {row.what: row for row in study.rows({"x": blame.run})}


@pytest.fixture(scope="module")
def masked(make, tmp_path_factory):
    made = make(Store(tmp_path_factory.mktemp("masked") / "run"), *PASTED)
    made.profile()
    made.blame()
    return made.open()


def test_all_but_masking_read_one_and_the_same_run():
    asked = [study.ensembles(**study.PRESETS["small"]) for study in STUDIES_OF_ONE_RUN]
    assert all(each == asked[0] for each in asked)
    spec = from_dict(asked[0]["cifar10"])
    assert (spec.parameters.held_out, spec.parameters.independent) == ("validation", "evaluation")
    assert {name for name in STUDIES if name.startswith("blame_")} == {
        study.__name__.rpartition(".")[2] for study in (*STUDIES_OF_ONE_RUN, blame_masking)
    }


def test_pruning_claims_that_the_most_salient_lower_the_incorrect_class_the_most(blame):
    found = rows(blame_pruning, blame)
    for mode in ("paper", "silenced"):
        changes = numbers.pruned(blame, mode, "incorrect")
        last = {choice: values.mean()[-1].value for choice, values in changes.items()}
        means = {choice: values.values.mean() for choice, values in changes.items()}
        first = found[f"x, {mode}: most lowers the incorrect class's confidence more than random"]
        assert first.ours == pytest.approx(means["random"] - means["most"])
        second = found[f"x, {mode}: random lowers the incorrect class's confidence more than least"]
        assert second.ours == pytest.approx(means["least"] - means["random"])
        shown = found[f"x, {mode}: incorrect class's confidence, 5 most filters off"]
        assert (shown.ours, shown.paper) == (pytest.approx(last["most"]), -0.30)


def test_each_choice_is_shown_and_compared_at_its_own_best(blame):
    corrected = {choice: [e.value for e in values.mean()] for choice, values in
                 numbers.pruned(blame, "paper", "corrected").items()}  # fmt: skip
    found = rows(blame_pruning, blame)
    claim = found["x, paper: most corrects more than random, each at its best"]
    assert claim.ours == pytest.approx(max(corrected["most"]) - max(corrected["random"]))
    shown = found["x, paper: corrected at best by most"]
    assert (shown.ours, shown.paper) == (pytest.approx(max(corrected["most"])), 0.12)
    best = corrected["most"].index(max(corrected["most"]))
    assert shown.note == f"with {blame.parameters.pruned[best]} filters off"


def test_neighbours_have_to_beat_what_is_chance_among_mistakes(blame):
    found = rows(blame_neighbours, blame)
    shared = numbers.neighbours_share_pair(blame)["all"]
    row = found["x: share of such neighbours above that of all mistakes, all filters"]
    assert row.ours == pytest.approx(shared.neighbours.value - shared.of_mistakes)
    assert row.holds == (True if shared.beyond.low > 0 else False if shared.beyond.high < 0 else None)
    assert 0 < shared.chance < shared.of_mistakes < 1


def test_fine_tuning_compares_most_with_random_on_neighbours(blame):
    found = rows(blame_finetuning, blame)
    for measure, label in numbers.TUNED.items():
        choices, network = numbers.tuned(blame, measure)
        assert found[f"x: {label}, whole network"].ours == pytest.approx(network.mean()[0].value)
        what = f"x: {label}, most more than random"
        assert (what in found) == (measure != "corrected")
        if what in found:
            means = {choice: values.values.mean() for choice, values in choices.items()}
            assert found[what].ours == pytest.approx(means["most"] - means["random"])


def test_profiles_claim_more_and_deeper_for_wrong_samples(blame):
    found = rows(blame_profiles, blame)
    assert found["x: mean standardised profile"].ours == numbers.salience(blame).value
    wrong, right = (found[f"x: deep half less early half, {kind} samples"].ours for kind in ("wrong", "right"))
    assert found["x: how deep the profile lies"].ours == pytest.approx(wrong - right)


def test_masking_turns_a_fall_into_a_gain_and_knows_the_culprit(masked):
    found = rows(blame_masking, masked)
    test = numbers.masking_tests(masked)["salient"]
    row = found["x, salient pixels: incorrect class's confidence falls, by"]
    assert (row.ours, row.low, row.high) == (-test.incorrect.value, -test.incorrect.high, -test.incorrect.low)
    assert found["x, salient pixels: true class's confidence rises, by"].ours == test.true.value
    more = numbers.masking_contrast(masked)
    row = found["x: incorrect class's confidence falls more by salient pixels than by random ones"]
    assert row.ours == -more.incorrect.value
    change = {kind: numbers.masking_tests(masked)[kind].incorrect.value for kind in ("salient", "random")}
    assert more.incorrect.value == pytest.approx(change["salient"] - change["random"])
    culprit = found["x: share of the salient pixels in the clutter that misled"]
    assert 0 <= culprit.ours <= 1
    assert "its share of the pixels outside the box is 0.0" in culprit.note


@pytest.mark.parametrize("study", STUDIES_OF_ONE_RUN)
def test_every_figure_is_drawn(study, blame):
    drawn = list(study.figures({"x": blame.run}))
    assert drawn
    assert all(picture.content.startswith("<svg") for picture in drawn)


def test_numbers_of_few_samples_stay_defined(blame):
    for row in rows(blame_pruning, blame).values():
        assert math.isfinite(row.ours)


def test_deep_filters_that_answer_to_few_samples_are_told(blame):
    """By hand: the median over each layer's filters of deviation over mean; the mean over members and layers."""
    early, deep = numbers.relative_deviations(blame)
    ratios = np.mean([np.divide(s.deviation, s.mean) for s in map(blame.statistics, blame.members)], axis=0)
    layers = [np.median(ratios[where]) for where in blame.filters.slices().values()]
    half = (len(layers) + 1) // 2
    assert (early, deep) == (pytest.approx(np.mean(layers[:half])), pytest.approx(np.mean(layers[half:])))
