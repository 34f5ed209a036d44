"""Rows, their verdicts, and what each study asks for; the studies themselves run in tests/jobs/test_study.py."""

import math

import numpy as np
import pytest

from salcore.spec import from_dict
from salcore.statistics import Estimate
from salcore.studies import (
    STUDIES,
    noise_architecture,
    noise_convergence,
    noise_samples,
    noise_sources,
    noise_table,
    summaries,
)
from salcore.studies.noise_architecture import Network
from salcore.studies.row import Row, claimed, difference, interval, table


def estimate(value, low, high):
    return Estimate(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("ours", "holds"),
    [
        (estimate(1.0, 0.1, 2.0), True),
        (estimate(-1.0, -2.0, -0.1), False),
        (estimate(1.0, -0.1, 2.0), None),
        (estimate(1.0, math.nan, math.nan), None),
    ],
)
def test_a_claim_holds_where_its_whole_interval_does(ours, holds):
    row = claimed("what", ours)
    assert row.holds is holds
    assert ("undecided" in row.note) is (holds is None and not math.isnan(ours.low))
    assert ("no interval" in row.note) is math.isnan(ours.low)


def test_a_difference_of_independent_ensembles_adds_in_quadrature():
    found = difference(estimate(1.0, 0.7, 1.1), estimate(2.0, 1.6, 2.3))
    assert (found.value, found.low, found.high) == pytest.approx(
        (1.0, 1 - math.hypot(0.4, 0.1), 1 + math.hypot(0.3, 0.3))
    )


def test_rows_are_a_table_that_keeps_what_is_unknown():
    rows = (
        Row(what="a", paper=None, ours=1.0, low=math.nan, high=math.nan),
        Row(what="b", paper=0.5, ours=1.0, low=0.5, high=1.5, holds=False, note="n"),
    )
    found = table(rows).to_pylist()
    assert [each["paper"] for each in found] == [None, 0.5]
    assert [each["holds"] for each in found] == [None, False]
    assert list(found[0]) == ["what", "paper", "ours", "low", "high", "holds", "note"]
    assert [interval(row) for row in rows] == ["–", "0.500 to 1.500"]  # noqa: RUF001 - a dash as it is printed


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("name", STUDIES)
def test_presets_are_valid_specs(name, preset):
    study = STUDIES[name]
    specs = {key: from_dict(values) for key, values in study.ensembles(**study.PRESETS[preset]).items()}
    assert specs
    if preset == "full" and name.startswith("noise"):
        assert {spec.ensemble.members for spec in specs.values()} <= {20, 30}, "as many as the paper's ensembles have"


def test_the_paper_s_table_stands_under_its_own_names():
    assert noise_table.paper("cifar10-vgg19", "gradient") == 0.436
    assert noise_table.paper("imagenette-resnet101", "gradcam_top") == 3.171
    assert noise_table.paper("imagenette-resnet18", "lime") == 0.997
    assert {noise_table.paper("cifar10-resnet18", shap) for shap in noise_table.SHAPS} == {0.365}
    assert noise_table.paper("cifar10-resnet18", "attention_rollout") is None
    assert noise_table.paper("mine-resnet18", "gradient") is None


def test_vgg_has_softplus_on_imagenette_alone():
    full = noise_table.ensembles(**noise_table.PRESETS["full"])
    assert full["imagenette-vgg19"]["model"]["activation"] == "softplus"
    assert "activation" not in full["cifar10-vgg19"]["model"]
    assert len(full) == 6


def test_the_cross_holds_every_line_of_the_figure():
    axes = noise_architecture.PRESETS["small"]
    names = noise_architecture.ensembles(**axes)
    assert {name.split("-")[0] for name in names if "width16" in name} == {"depth1", "depth2", "depth4"}
    assert {name.split("-")[1] for name in names if "depth2" in name} == {"width4", "width16", "width64"}
    assert len(names) == len(set(names)) == 4 * 5 - 2, "five networks in each of four kinds, but depth 1 has no pooling"
    every = noise_architecture.ensembles(**noise_architecture.PRESETS["full"])
    assert len(every) == 6 * (3 * 4 + 2)


def test_depth_one_begins_the_lines_of_both_poolings():
    snr = estimate(1.0, 0.9, 1.1)
    found = {
        Network(depth=depth, width=8, pooling=pooling, relu=False): snr
        for depth, pooling in ((1, "average"), (2, "average"), (2, "max"), (3, "max"))
    }
    lines = noise_architecture._lines(found, "depth")
    assert [[network.depth for network in line] for line in lines] == [[1, 2], [1, 2, 3]]


def test_the_power_of_the_width_is_that_of_a_square_root():
    found = {
        Network(depth=2, width=width, pooling="max", relu=True): estimate(
            width**0.5, 0.9 * width**0.5, 1.1 * width**0.5
        )
        for width in (4, 16, 64)
    }
    power = noise_architecture._power(list(found), found)
    # Three points at distances of log 4 from the middle: the error of the slope is 0.1 / (sqrt(2) log 4).
    assert power.value == pytest.approx(0.5)
    assert power.high - power.value == pytest.approx(0.1 / (math.sqrt(2) * math.log(4)))


def test_one_source_alone_is_all_that_differs():
    specs = noise_sources.ensembles(**noise_sources.PRESETS["small"])
    assert specs["only_order"]["ensemble"]["vary"] == ["order"]
    assert "init" not in specs["fixed_init"]["ensemble"]["vary"]
    assert specs["only_model"]["model"] == specs["all"]["model"]
    assert specs["only_model"]["model"]["dropout"] > 0
    assert specs["sgd"]["training"]["optimizer"] == "sgd"
    assert specs["instance_norm"]["model"]["norm"] == "instance"


@pytest.mark.parametrize(
    ("interval", "holds"), [((-0.05, 0.08), True), ((-0.05, 0.3), None), ((0.25, 0.4), False), ((-0.5, -0.25), False)]
)
def test_no_correlation_is_a_claim_that_can_fail(interval, holds):
    assert noise_samples._none("c", estimate(float(np.mean(interval)), *interval)).holds is holds


class Norms:
    """Stands for a run whose samples have a squared signal of `signal2` and a noise of 1 in each member."""

    def __init__(self, signal2):
        self.signal2 = signal2

    def convergence_members(self, method):
        return tuple(range(1, 13))

    def column(self, method, name):
        noise = np.random.default_rng(0).normal(1, 0.01, (50, 12))
        power = self.signal2 + 1 / np.arange(1, 13) if name == "mean_norm" else np.ones(12)
        return noise * np.sqrt(power)


@pytest.mark.parametrize(("signal2", "holds"), [(2.0, True), (0.0, None)])
def test_noise_does_not_level_off(signal2, holds):
    """The norm of a mean of pure noise falls as 1 / sqrt(m) for ever."""
    found = {row.what: row for row in noise_convergence.rows({"e": Norms(signal2)})}
    (plateau,) = (row for what, row in found.items() if "levels off" in what)
    (falls,) = (row for what, row in found.items() if "falls" in what)
    assert plateau.holds is holds
    assert falls.holds is True


def test_methods_of_one_ensemble_are_paired_over_its_members(monkeypatch):
    """What members do to both methods alike is not in the interval; the first of the two is the one that leads."""
    common = np.array([0.0, 0.4, -0.3, 0.1])
    without = {"a": 1.5 + common, "b": 1.0 + common + np.array([0.0, 0.01, -0.01, 0.0])}
    monkeypatch.setattr(summaries, "leave_one_out", lambda run, *methods: [without[name] for name in methods])
    monkeypatch.setattr(summaries, "rows_of", lambda run: {"a": {"snr_debiased": 1.5}, "b": {"snr_debiased": 1.0}})
    found = summaries.lead(None, "a", "b")
    assert found.value == 0.5
    assert 0.4 < found.low < found.value < found.high < 0.6


def test_thirty_members_need_no_correction():
    row = {"members": 30, **{f"{name}{end}": value for name, value in (("snr", 1.0), ("snr_at_30", 2.0))
                             for end in ("", "_low", "_high")}}  # fmt: skip
    assert summaries.at_30(row).value == 1.0
    assert summaries.at_30(row | {"members": 6}).value == 2.0
