"""The studies of saliency guided training: what they ask for, the paper's numbers they show, which way a claim goes."""

import math

import numpy as np
import pytest

from salcore.spec import from_dict
from salcore.studies import (
    STUDIES,
    guided_eraser,
    guided_masking,
    guided_mnist,
    guided_spread,
    guided_timeseries,
    guided_vanishing,
)
from salcore.studies.guided import GUIDANCE, GUIDED, STANDARD, either_way, gained, missing, pairs, told

GUIDED_STUDIES = [name for name in STUDIES if name.startswith("guided_")]


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("name", GUIDED_STUDIES)
def test_every_study_asks_for_ensembles_that_a_spec_takes(name, preset):
    study = STUDIES[name]
    specs = {key: from_dict(values) for key, values in study.ensembles(**study.PRESETS[preset]).items()}
    for key, spec in specs.items():
        assert spec.training.objective == ("guided" if key.endswith(GUIDED) else "standard")
        assert getattr(study, "METHOD", "gradient") in [method.folder for method in spec.attribution.methods]


def test_both_ways_of_training_differ_in_the_objective_alone():
    specs = {key: from_dict(values) for key, values in guided_mnist.ensembles(**guided_mnist.SMALL).items()}
    standard, guided = specs[STANDARD], specs[GUIDED]
    assert guided.training.guidance.mask_fraction == 0.5
    assert (guided.training.guidance.mode, guided.training.guidance.of) == ("eval", "log_probability")
    same = {"objective": "standard", "guidance": standard.training.guidance}
    assert guided.model_copy(update={"training": guided.training.model_copy(update=same)}) == standard


def test_the_pairs_of_a_study_are_found_by_name_standard_first():
    runs = {f"a-{GUIDED}": 1, f"a-{STANDARD}": 2, f"b-x-{STANDARD}": 3, f"b-x-{GUIDED}": 4}
    assert pairs(runs) == {"a": (2, 1), "b-x": (3, 4)}


def test_a_gain_is_guided_less_standard_paired_by_seed():
    standard, guided = np.array([0.1, 0.5, 0.9]), np.array([0.21, 0.59, 1.0])
    row = gained("what", standard, guided, papers=(0.2, 0.5))
    assert row.ours == pytest.approx(0.1)
    assert row.paper == pytest.approx(0.3)
    # Pairing takes the large differences between members out of the interval: t(0.975, 2) s / sqrt(3).
    assert row.high - row.ours == pytest.approx(4.30265 * np.std([0.11, 0.09, 0.1], ddof=1) / math.sqrt(3), rel=1e-4)
    assert row.holds is True
    assert gained("what", guided, standard).holds is False
    assert gained("what", standard, guided, above=None).holds is None
    assert gained("what", standard, guided[:2]).holds is None


def test_a_loss_within_a_margin_holds():
    standard = np.array([0.99, 0.98, 0.985])
    assert gained("accuracy", standard, standard - [0.003, 0.002, 0.001], above=-0.006).holds is True
    assert gained("accuracy", standard, standard - [0.010, 0.011, 0.012], above=-0.006).holds is False


def test_rows_that_are_not_had_say_why():
    row = missing("FEVER", 0.2, "no training part")
    assert (row.paper, row.holds, row.note) == (0.2, None, "no training part")
    assert math.isnan(row.ours)
    assert told("what", [1.0, 2.0]).ours == 1.5


def test_table_1_is_the_papers():
    paper = guided_eraser.PAPER
    assert {len(cells) for cells in paper.values()} == {7}
    assert paper["movies", "comprehensiveness"][2:4] == (0.265, 0.306)  # integrated gradients
    assert paper["esnli", "sufficiency"][6] == 0.366  # random
    better = [
        paper["movies", "comprehensiveness"][place + 1] - paper["movies", "comprehensiveness"][place]
        for place in (0, 2, 4)
    ]
    assert min(better) > 0  # guided is the second of each two


def test_table_2_is_the_papers():
    paper = guided_timeseries.PAPER
    assert set(paper) == {(m, n) for m in ("aup", "aur") for n in guided_timeseries.FULL["networks"]}
    assert {len(cells) for cells in paper.values()} == {12}
    place = 2 * list(guided_timeseries.METHODS).index("integrated_gradients")
    assert paper["aup", "tcn"][place : place + 2] == (0.233, 0.291)
    assert paper["aur", "tcn"][place : place + 2] == (0.191, 0.210)
    assert paper["aup", "input_cell_lstm"][9] == max(paper["aup", "input_cell_lstm"]) == 0.272  # deepshap, guided
    assert paper["aur", "transformer"][-2:] == (0.040, 0.018)  # smoothgrad


def test_the_published_run_of_mnist_is_that_of_the_code():
    assert guided_mnist.PUBLISHED["gradient"][GUIDED] == (0.469, 0.229, 0.170)
    assert guided_mnist.PUBLISHED["accuracy"] == {STANDARD: (0.9864,), GUIDED: (0.9809,)}


def test_spread_and_accuracy_drop_share_their_ensembles():
    drop = guided_mnist.ensembles(**guided_mnist.SMALL)
    spread = guided_spread.ensembles(**guided_spread.SMALL)
    assert {name.removeprefix("mnist-"): values for name, values in spread.items()} == drop


def test_sets_of_the_full_time_series_are_the_ten_of_the_benchmark():
    assert len(set(guided_timeseries.FULL["sets"])) == 10
    assert set(guided_vanishing.SMALL["sets"]) == {"earlier", "center", "later"}


def test_curves_that_lie_apart_are_told_by_their_mean_distance():
    from salcore.faithfulness import Curve

    first = Curve(fractions=(0.0, 0.5, 1.0), accuracy=(1.0, 0.5, 0.1))
    second = Curve(fractions=(0.0, 0.5, 1.0), accuracy=(0.9, 0.7, 0.0))
    assert guided_masking._apart(first, second) == pytest.approx(0.15)  # what nothing is removed from does not count


def test_either_way_leaves_what_it_is_given():
    values = {"training": {"epochs": 1}}
    found = either_way(values, {"weight": 2.0})
    assert values == {"training": {"epochs": 1}}
    assert found[GUIDED]["training"] == {"epochs": 1, "objective": "guided", "guidance": GUIDANCE | {"weight": 2.0}}
