import re

import numpy as np
import pytest

from salcore.figures import charts, method_charts, png, svg
from salcore.figures.canvas import CSS_COLOURS
from salcore.statistics import Estimate
from salcore.studies import ensemble_dream

SURE = Estimate(value=0.5, low=0.4, high=0.6)
UNKNOWN = Estimate(value=np.nan, low=np.nan, high=np.nan)
RNG = np.random.default_rng(0)


def texts(figure):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg(figure, "test"))


def norms(samples, points):
    return RNG.uniform(1, 2, (samples, points)), RNG.uniform(1, 2, (samples, points))


FIGURES = {
    "methods": lambda: method_charts.method_snr(["a", "b"], [SURE, SURE], [0.5, 0.6], 8),
    "one_member": lambda: method_charts.method_snr(["a"], [UNKNOWN], [np.nan], 1),
    "averaging": lambda: method_charts.mean_map_snr(["a", "b"], [0.5, 0.0], 8),
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
    "members": lambda: charts.likeness_of_members(["a", "b"], [{0: 0.5, 1: 0.1}, {0: 0.5, 1: 0.6}], [(1,), ()]),
    "ssim": lambda: method_charts.ssim_by_snr(["a", "b"], [SURE, UNKNOWN], [0.5, 0.6]),
    "grouped": lambda: method_charts.grouped(["a", "b"], {"x": [SURE, UNKNOWN]}, paper={"paper": [0.6, None]}),
    "lines": lambda: method_charts.lines([1, 2], {"x": [SURE, SURE], "y": [SURE, UNKNOWN]}, "depth", dashed=["y"]),
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


def test_dollars_in_names_are_letters():
    names = ["$5_$10", "$10-$20"]
    assert set(names) <= set(texts(charts.snr_by_class(np.ones(2), np.arange(2), names)))
    assert set(names) <= set(texts(ensemble_dream.grid(np.zeros((1, 2, 1, 4, 4)), ["one network"], names)))


def test_of_many_classes_the_extremes_are_shown():
    labels = np.repeat(np.arange(50), 4)
    found = texts(charts.snr_by_class(labels.astype(float), labels, [f"class{i}" for i in range(50)]))
    shown = {name for name in found if name.startswith("class")}
    assert shown == {f"class{i}" for i in (*range(10), *range(40, 50))}


def test_names_of_classes():
    assert charts.class_name(["a"], 0) == "a"
    assert charts.class_name(["a"], -1) == "unlabelled"
    assert charts.class_name([], 3) == "class 3"


def dots(axes, label):
    """x and y of the marks of one series."""
    return next(line.get_xydata() for line in axes.lines if line.get_label() == label)


def test_grouped_dots_lie_in_their_rows_at_their_values_and_crosses_beside_their_own():
    values = {name: [Estimate(value=v + k, low=v + k - 0.1, high=v + k + 0.1) for v in (1.0, 2.0, 3.0)]
              for k, name in enumerate(("vgg", "resnet"))}  # fmt: skip
    axes = method_charts.grouped(["a", "b", "c"], values, paper={"resnet": [1.5, None, 3.5]}).axes[0]
    vgg, resnet, crosses = dots(axes, "vgg"), dots(axes, "resnet"), dots(axes, "paper")
    assert vgg[:, 0].tolist() == [1, 2, 3]
    assert resnet[:, 0].tolist() == [2, 3, 4]
    assert (np.rint(vgg[:, 1]) == [0, 1, 2]).all()
    assert (vgg[:, 1] < resnet[:, 1]).all()
    assert crosses[[0, 2], 0].tolist() == [1.5, 3.5]
    assert np.isnan(crosses[1, 0])
    assert (crosses[:, 1] == resnet[:, 1]).all()


def test_crosses_of_no_group_lie_in_the_middle_of_the_row():
    axes = method_charts.grouped(["a", "b"], {"ours": [SURE, SURE]}, paper={"the paper": [0.1, 0.2]}).axes[0]
    assert dots(axes, "the paper").tolist() == [[0.1, 0], [0.2, 1]]


def test_lines_are_dashed_as_asked_and_leave_out_what_is_unknown():
    series = {"linear": [SURE, UNKNOWN, SURE], "ReLU": [SURE, SURE, SURE]}
    axes = method_charts.lines([4, 8, 16], series, "width", dashed={"ReLU"}, log2=True).axes[0]
    strokes = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert (strokes["linear"], strokes["ReLU"]) == ("-", "--")
    assert dots(axes, "linear").tolist() == [[4, 0.5], [16, 0.5]]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "8", "16"]


def test_names_of_dots_cover_neither_each_other_nor_a_dot():
    from salcore.figures.labels import _covered

    rng = np.random.default_rng(0)
    snr = [Estimate(value=v, low=v - 0.02, high=v + 0.02) for v in rng.uniform(0, 2, 9)]
    ssim = [0.5, 0.5, 0.51, 0.1, 0.12, 0.9, 0.3, 0.31, 0.7]
    figure = method_charts.ssim_by_snr([f"method_{i}" for i in range(9)], snr, ssim)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    names = [text.get_window_extent() for text in axes.texts]
    assert len(names) == 9
    assert not any(a.overlaps(b) for i, a in enumerate(names) for b in names[:i])
    marks = [box for x, y in zip(snr, ssim, strict=True) for box in _covered(axes, x, y)]
    assert not any(name.overlaps(mark) for name in names for mark in marks)


def test_an_outlier_is_numbered_and_red():
    figure = charts.likeness_of_members(["a"], [{0: 0.5, 1: 0.1}], [(1,)])
    axes = figure.axes[0]
    assert dots(axes, "a member").tolist() == [[0.5, 0]]
    assert dots(axes, "an outlier, with its number").tolist() == [[0.1, 0]]
    assert [text.get_text() for text in axes.texts] == ["1"]


def test_a_legend_of_long_names_has_one_column():
    from salcore.figures.canvas import columns_for

    assert columns_for(["a" * 40, "b"]) == 1
    assert columns_for(["a", "b"]) == 2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_accuracy_is_below_none_or_above_all(share):
    [axes] = charts.accuracies({0: share, 1: share}, share, np.nan).axes
    low, high = axes.get_xlim()
    assert low < 100 * share < high
    assert all(0 <= tick <= 100 for tick in axes.get_xticks() if low <= tick <= high)
