"""The studies of saliency guided training: what they ask for, the paper's numbers they show, which way a claim goes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from salcore.errors import UserError
from salcore.faithfulness import Curve, Measured, measure
from salcore.settings import settings_of
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
from salcore.studies.guided import GUIDANCE, GUIDED, STANDARD, either_way, faithfulness, gained, missing, pairs, told
from tests.salcore.test_runs import make

GUIDED_STUDIES = [name for name in STUDIES if name.startswith("guided_")]


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("name", GUIDED_STUDIES)
def test_every_study_asks_for_ensembles_that_a_spec_takes(name, preset):
    study = STUDIES[name]
    specs = {key: from_dict(values) for key, values in study.ensembles(**study.PRESETS[preset]).items()}
    for key, spec in specs.items():
        assert spec.training.objective == ("guided" if key.endswith(GUIDED) else "standard")
        assert getattr(study, "METHOD", "gradient") in [method.folder for method in spec.attribution.methods]


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("name", GUIDED_STUDIES)
def test_a_preset_has_every_setting_that_the_signature_names(name, preset):
    """Users' settings are held against the signature, and told from the preset."""
    study = STUDIES[name]
    assert set(study.PRESETS[preset]) == set(settings_of(study.ensembles))


def test_both_ways_of_training_differ_in_the_objective_alone():
    specs = {key: from_dict(values) for key, values in guided_mnist.ensembles(**guided_mnist.SMALL).items()}
    standard, guided = specs[STANDARD], specs[GUIDED]
    assert guided.training.guidance.mask_fraction == 0.5
    assert (guided.training.guidance.mode, guided.training.guidance.of) == ("eval", "log_probability")
    same = {"objective": "standard", "guidance": standard.training.guidance}
    assert guided.model_copy(update={"training": guided.training.model_copy(update=same)}) == standard


@pytest.mark.parametrize("study", [guided_mnist, guided_masking])
def test_networks_of_digits_are_trained_with_adadelta_at_its_own_rate(study):
    for values in study.ensembles(**study.SMALL).values():
        training = from_dict(values).training
        assert (training.optimizer, training.schedule, training.learning_rate) == ("adadelta", "constant", 1.0)


def test_the_pairs_of_a_study_are_found_by_name_standard_first():
    one, two, three, four = (SimpleNamespace(members=(0, 1)) for _ in range(4))
    runs = {f"a-{GUIDED}": one, f"a-{STANDARD}": two, f"b-x-{STANDARD}": three, f"b-x-{GUIDED}": four}
    assert pairs(runs) == {"a": (two, one), "b-x": (three, four)}
    with pytest.raises(UserError, match="the same members of a"):
        pairs({f"a-{GUIDED}": one, f"a-{STANDARD}": SimpleNamespace(members=(0, 2))})


def test_two_networks_of_one_name_are_refused_and_a_set_without_a_network():
    small = guided_timeseries.SMALL | {"networks": ["tcn", {"name": "tcn", "channels": 4}]}
    with pytest.raises(UserError, match=r"study\.networks: expected networks of different names"):
        guided_timeseries.ensembles(**small)
    with pytest.raises(UserError, match=r"study\.networks: expected a network for other too"):
        guided_spread.ensembles(**guided_spread.SMALL | {"data": {"other": "digits"}})


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


def test_what_guidance_takes_off_is_standard_less_guided():
    standard, guided = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.29, 0.41])
    row = gained("what", standard, guided, sign=-1, papers=(0.7, 0.3))
    assert row.ours == pytest.approx(0.2)
    assert row.paper == pytest.approx(0.4)
    assert row.holds is True
    assert row.note == "standard 0.500, guided 0.300", "the numbers themselves keep their sign and place"
    assert gained("what", standard, guided, sign=-1, names=("a", "b"), above=None).note == "a 0.500, b 0.300"


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
    first = Curve(fractions=(0.0, 0.5, 1.0), accuracy=(1.0, 0.5, 0.1))
    second = Curve(fractions=(0.0, 0.5, 1.0), accuracy=(0.9, 0.7, 0.0))
    assert guided_masking._apart(first, second) == pytest.approx(0.15)  # what nothing is removed from does not count


def test_either_way_leaves_what_it_is_given():
    values = {"training": {"epochs": 1}}
    found = either_way(values, {"weight": 2.0})
    assert values == {"training": {"epochs": 1}}
    assert found[GUIDED]["training"] == {"epochs": 1, "objective": "guided", "guidance": GUIDANCE | {"weight": 2.0}}


def test_guidance_that_is_given_comes_before_that_of_the_published_code():
    guidance = either_way({"training": {}}, {"mode": "train"})[GUIDED]["training"]["guidance"]
    assert guidance == {"mode": "train", "of": "log_probability"}
    assert GUIDANCE == {"mode": "eval", "of": "log_probability"}


def test_all_methods_are_measured_on_the_samples_that_each_explains_and_random_once_per_member(small, tmp_path):
    run, _, data, _ = make(small, tmp_path / "run", "ensemble.members=2")
    assert {len(run.column(method, "sample")) for method in run.methods} == {11, 21}
    found = faithfulness(run, "accuracy_drop", random=True)
    assert [method for method, _ in found] == [*run.methods, None]
    for (method, name), each in found.items():
        draws = {} if method else {"draws": 1}
        alone = measure(run, method, name, samples=11, data=data, **draws)
        assert (each.samples, each.own, each.of_mean) == (11, alone.own, alone.of_mean)
    assert found[None, "accuracy_drop"].own != measure(run, None, "accuracy_drop", samples=11, data=data).own
    assert [method for method, _ in faithfulness(run, "accuracy_drop")] == [*run.methods]


def around(value, method=None, name="accuracy_drop"):
    """A measure of three members, each with a level curve."""
    own = (value - 0.01, value, value + 0.01)
    curves = tuple(Curve(fractions=(0.0, 0.1, 0.2, 0.3), accuracy=(area,) * 4) for area in own)
    return Measured(
        name=name, method=method, better="lower", members=(0, 1, 2), samples=4,
        own=own, of_mean=own, results=curves, of_mean_results=curves,
    )  # fmt: skip


@pytest.fixture
def rows_of(monkeypatch):
    """A function from a study and `value(run's name, method, measure)` to its rows by what they tell."""

    def tell(study, names, methods, value):
        def measured(run, *measures, random=False):
            asked = [(method, name) for method in (*methods, *[None] * random) for name in measures]
            return {key: around(value(run.name, *key), *key) for key in asked}

        monkeypatch.setattr(study, "faithfulness", measured)
        monkeypatch.setattr(study, "accuracies", lambda run: np.array([0.97, 0.98, 0.99]))
        runs = {name: SimpleNamespace(name=name, members=(0, 1, 2), methods=tuple(methods)) for name in names}
        return {row.what: row for row in study.rows(runs)}

    return tell


def test_an_area_that_guidance_lowers_is_one_that_it_takes_off(rows_of):
    rows = rows_of(guided_mnist, (STANDARD, GUIDED), ("gradient",), lambda way, *_: {STANDARD: 0.6, GUIDED: 0.35}[way])
    row = rows["gradient: area that guidance takes off"]
    assert (row.ours, row.holds) == (pytest.approx(0.25), True)
    assert "standard 0.600, guided 0.350" in row.note
    for way, area in ((STANDARD, 0.6), (GUIDED, 0.35)):
        for share, paper in zip(("10%", "20%", "30%"), guided_mnist.PUBLISHED["gradient"][way], strict=True):
            cell = rows[f"gradient, {way}: accuracy without {share} of the pixels"]
            assert (cell.ours, cell.paper) == (pytest.approx(area), paper)


def test_more_is_better_of_comprehensiveness_and_less_of_sufficiency(rows_of):
    values = {
        "movies-standard": {"comprehensiveness": 0.2, "sufficiency": 0.4},
        "movies-guided": {"comprehensiveness": 0.3, "sufficiency": 0.1},
    }
    rows = rows_of(guided_eraser, values, guided_eraser.METHODS, lambda name, _, measure: values[name][measure])
    more = rows["movies: integrated_gradients, comprehensiveness guided above standard, by"]
    less = rows["movies: integrated_gradients, sufficiency guided below standard, by"]
    assert (more.ours, more.holds) == (pytest.approx(0.1), True)
    assert (less.ours, less.holds) == (pytest.approx(0.3), True)
    assert (more.paper, less.paper) == (pytest.approx(0.306 - 0.265), pytest.approx(0.054 - 0.002))
    cell = rows["movies, sufficiency: smoothgrad, guided"]
    assert (cell.ours, cell.paper) == (pytest.approx(0.1), 0.008)
    assert rows["movies, comprehensiveness: random, guided"].paper == 0.056
    assert rows["fever, sufficiency: random"].note == "not had: no run is of fever (study.data)"


def test_the_bias_is_late_less_early_and_guidance_takes_it_off(rows_of):
    values = {"earlier-standard": 0.2, "later-standard": 0.6, "earlier-guided": 0.5, "later-guided": 0.65}
    rows = rows_of(guided_vanishing, values, ("gradient",), lambda name, *_: values[name])
    for area in ("AUP", "AUR"):
        standard = rows[f"{area} of late cells less that of early ones, standard"]
        guided = rows[f"{area} of late cells less that of early ones, guided"]
        taken = rows[f"{area}: bias towards late cells that guidance takes off"]
        assert (standard.ours, standard.holds) == (pytest.approx(0.4), True)
        assert standard.note == "earlier 0.200, later 0.600"
        assert (guided.ours, guided.holds) == (pytest.approx(0.15), None), "of the guided ones nothing is claimed"
        assert (taken.ours, taken.holds) == (pytest.approx(0.25), True)
        assert taken.note == "standard 0.400, guided 0.150"
    early = [name for name in values if name.startswith("earlier")]
    assert not any("late" in what for what in rows_of(guided_vanishing, early, ("gradient",), lambda *_: 0.5))


def test_a_cell_of_table_2_is_a_mean_over_the_sets_and_empty_where_a_method_fails(rows_of):
    values = {
        "middle-tcn-standard": 0.1,
        "middle-tcn-guided": 0.4,
        "moving-tcn-standard": 0.3,
        "moving-tcn-guided": 0.5,
    }
    methods = [method for method in guided_timeseries.METHODS if method != "deeplift"]
    rows = rows_of(guided_timeseries, values, methods, lambda name, *_: values[name])
    gain = rows["Diff(AUP): tcn, integrated_gradients, guided less standard"]
    assert (gain.ours, gain.paper, gain.holds) == (pytest.approx(0.25), pytest.approx(0.291 - 0.233), True)
    standard, guided = (rows[f"Diff(AUR): tcn, smoothgrad, {way}"] for way in (STANDARD, GUIDED))
    assert (standard.ours, standard.paper) == (pytest.approx(0.2), 0.046)
    assert (guided.ours, guided.paper) == (pytest.approx(0.45), 0.138)
    lacking = rows["Diff(AUP): tcn, deeplift, guided"]
    assert (lacking.paper, lacking.note) == (0.270, "deeplift does not explain this network")
    assert math.isnan(lacking.ours)


def epochs_of(epochs):
    found = guided_timeseries.ensembles(**guided_timeseries.SMALL | {"sets": ["middle"], "epochs": epochs})
    return {name: values["training"]["epochs"] for name, values in found.items()}


def test_epochs_of_series_are_each_networks_own_or_one_number_for_all():
    both = (STANDARD, GUIDED)
    own = {f"middle-{network}-{way}": count for network, count in (("tcn", 3), ("lstm", 5)) for way in both}
    assert epochs_of({"tcn": 3, "lstm": 5}) == own
    assert epochs_of(7) == dict.fromkeys(own, 7)
    with pytest.raises(UserError, match=r"^study\.epochs: expected a number for lstm too"):
        epochs_of({"tcn": 3})
