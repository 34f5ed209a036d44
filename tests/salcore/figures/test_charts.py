import re

import numpy as np
import pytest

from salcore.figures import charts, png, svg
from salcore.figures.canvas import CSS_COLOURS
from salcore.statistics import Estimate

SURE = Estimate(value=0.5, low=0.4, high=0.6)
UNKNOWN = Estimate(value=np.nan, low=np.nan, high=np.nan)
RNG = np.random.default_rng(0)


def texts(figure):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg(figure, "test"))


def norms(samples, points):
    return RNG.uniform(1, 2, (samples, points)), RNG.uniform(1, 2, (samples, points))


FIGURES = {
    "methods": lambda: charts.method_snr(["a", "b"], [SURE, SURE], [0.5, 0.6], 8),
    "one_member": lambda: charts.method_snr(["a"], [UNKNOWN], [np.nan], 1),
    "averaging": lambda: charts.mean_map_snr(["a", "b"], [0.5, 0.0], 8),
    "classes": lambda: charts.snr_by_class(RNG.uniform(0, 1, 50), np.arange(50) % 7, list("abcdefg")),
    "no_class": lambda: charts.snr_by_class(np.full(3, np.nan), np.full(3, -1), []),
    "many_classes": lambda: charts.snr_by_class(
        RNG.uniform(0, 1, 300), np.arange(300) % 100, [f"k{i}" for i in range(100)]
    ),
    "many_samples": lambda: charts.snr_by_class(RNG.uniform(0, 1, 5000), np.arange(5000) % 3, list("abc")),
    "confidence": lambda: charts.snr_by_confidence(RNG.uniform(0, 1, 9), RNG.uniform(0, 1, 9), np.arange(9) - 1),
    "norms": lambda: charts.convergence_norms((1, 2, 3), *norms(5, 3)),
    "snr": lambda: charts.convergence_snr((1, 2, 3), *norms(5, 3)),
    "snr_of_one": lambda: charts.convergence_snr((1,), np.ones((5, 1)), np.full((5, 1), np.nan)),
    "accuracies": lambda: charts.accuracies({0: 0.9, 1: 0.1}, 0.95, 0.1),
    "accuracy": lambda: charts.accuracies({0: 0.9}, 0.9, np.nan),
    "training": lambda: charts.training({0: ([1, 2], [0.5, 0.7])}),
    "differences": lambda: charts.differences(["a", "b"], [SURE, UNKNOWN], [(0.1, 0.2), (np.nan, np.nan)], "SNR", 1.0),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_chart_is_drawn_small_and_the_same_each_time(name):
    first = svg(FIGURES["methods"](), "x")
    assert first == svg(FIGURES["methods"](), "x")
    drawn = svg(FIGURES[name](), name)
    assert drawn.startswith("<svg")
    assert len(drawn) < 400_000
    assert png(FIGURES[name](), dpi=40).startswith(b"\x89PNG")


def test_colours_of_the_page_are_variables_and_ids_carry_the_name():
    drawn = svg(FIGURES["classes"](), "mine")
    assert not any(colour in drawn for colour in CSS_COLOURS)
    assert "var(--ink)" in drawn
    ids = re.findall(r'\sid="([^"]*)"', drawn)
    assert all(name.startswith("mine-") for name in ids)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", drawn)) | set(re.findall(r'href="#([^"]*)"', drawn)) <= set(ids)


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg(FIGURES["norms"](), "x")
    assert dict(matplotlib.rcParams) == before


def test_classes_are_named_and_the_mean_is_told():
    snr = np.array([1.0, 2.0, 3.0])
    found = texts(charts.snr_by_class(snr, np.array([0, 1, 1]), ["cat", "dog", "absent"]))
    assert {"cat", "dog", "mean of all samples: 2.00"} <= set(found)
    assert "absent" not in found


def test_of_many_classes_the_extremes_are_shown():
    labels = np.repeat(np.arange(50), 4)
    found = texts(charts.snr_by_class(labels.astype(float), labels, [f"class{i}" for i in range(50)]))
    shown = {name for name in found if name.startswith("class")}
    assert shown == {f"class{i}" for i in (*range(10), *range(40, 50))}


def test_names_of_classes():
    assert charts.class_name(["a"], 0) == "a"
    assert charts.class_name(["a"], -1) == "unlabelled"
    assert charts.class_name([], 3) == "class 3"
