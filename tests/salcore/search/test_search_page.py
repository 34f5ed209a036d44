import math
import re

import numpy as np
import pytest

from salcore.complete import complete
from salcore.figures.signs import PERCENT
from salcore.search import outcome
from salcore.search.heat_map import heat_map
from salcore.search.page import build, findings
from salcore.search.table import printed, table
from salcore.spec import parse


@pytest.fixture
def trials(record):
    """Standard training, a better setting, a worse one, one that failed and one that was stopped."""
    return [
        record(None, [0.9, 0.92], [0.50, 0.52], snr=0.4),
        record(0.25, [0.91, 0.92], [0.30, 0.33], weight=0.5, snr=0.6),
        record(0.5, [0.89, 0.93], [0.55, 0.53], weight=0.5, snr=0.3),
        record(0.25, weight=2.0, state="failed", reason="member 0: <the loss> is nan"),
        record(0.5, [0.5], [0.9], weight=2.0, state="stopped"),
    ]


def spec(text=""):
    return complete(parse(f"name: s\nsearch: {{{text}}}"))


def test_the_table_has_a_row_for_every_trial_in_order(trials):
    found = table(trials, outcome(trials, spec().search))
    assert found["trial"].to_pylist() == [each.name for each in trials]
    assert found["mask_fraction"].to_pylist() == [None, 0.25, 0.5, 0.25, 0.5]
    assert found["chosen"].to_pylist() == [False, True, False, False, False]
    assert found["on_front"].to_pylist() == [False, True, False, False, False]
    np.testing.assert_allclose(found["accuracy_drop"].to_numpy(), [0, -0.005, 0, math.nan, 0.4])
    assert found["faithfulness"][1].as_py() == pytest.approx(0.315)
    assert found["faithfulness_low"][1].as_py() < 0.3 < 0.33 < found["faithfulness_high"][1].as_py()


def test_what_is_printed_names_every_trial_and_says_how_it_ended(trials):
    lines = printed(trials, outcome(trials, spec().search)).splitlines()
    assert [line.split()[0] for line in lines] == ["trial", *(each.name for each in trials)]
    assert lines[2].endswith("chosen, front")
    assert lines[4].endswith("failed: member 0: <the loss> is nan")
    assert lines[5].endswith("stopped after 1 members")


def panels(figure):
    """The axes that are no colour bars."""
    return [axes for axes in figure.axes if axes.get_xlabel().startswith("k")]


def test_a_grid_is_drawn_cell_by_cell_each_metric_with_its_own_scale(trials):
    figure = heat_map(trials, outcome(trials, spec().search), spec())
    accuracy, snr, areas = (axes.collections[0] for axes in panels(figure))
    np.testing.assert_allclose(np.ma.filled(areas.get_array(), np.nan), [[0.315, 0.54], [np.nan, np.nan]])
    assert areas.get_clim() == pytest.approx((0.315, 0.54)), "standard training, 0.51, lies between"
    assert snr.get_clim() == (0.3, 0.6)
    assert accuracy.get_clim() == pytest.approx((0.91, 0.915))
    axes = panels(figure)[2]
    assert [text.get_text() for text in axes.texts] == ["0.315", "0.540"]
    (frame,) = [patch for patch in axes.patches if patch.get_width() == 1]
    assert frame.get_xy() == (0, 0), "the chosen setting is the lower left one"
    crosses = [tuple(line.get_xydata()[0]) for line in axes.lines]
    assert crosses == [(0.5, 1.5), (1.5, 1.5)], "failed, and stopped"


def test_other_searches_are_drawn_as_dots(trials):
    search = spec("algorithm: random")
    figure = heat_map(trials, outcome(trials, search.search), search, ["faithfulness"])
    (axes,) = panels(figure)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.25, 0.5], [0.5, 0.5]])
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize("algorithm", ["grid", "random"])
def test_searched_layers_have_a_row_of_panels_each_on_one_scale(record, algorithm):
    trials = [record(None, [0.9], [0.5]), *(record(0.5, [0.9], [area], layers=layers)
              for layers, area in (("last", 0.2), ((0, 2), 0.8)))]  # fmt: skip
    search = spec(f"algorithm: {algorithm}, layers: [last, [0, 2], all]")
    figure = heat_map(trials, outcome(trials, search.search), search, ["faithfulness"])
    heads = [axes.get_title().partition("\n")[2] for axes in panels(figure)]
    assert heads == ["layers: last", "layers: 0, 2", "layers: all"]
    drawn = [axes.collections[0] for axes in panels(figure) if axes.collections]
    assert [float(np.ravel(each.get_array())[0]) for each in drawn] == [0.2, 0.8]
    assert [each.get_clim() for each in drawn] == [(0.2, 0.8)] * 2
    assert "lambda = 1, layers last." in build(search, trials, outcome(trials, search.search), "runs/s")


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("algorithm", ["grid", "random"])
def test_a_search_of_which_nothing_came_is_drawn_and_told_too(trials, record, kept, algorithm):
    failed = [*trials[:kept], record(0.5, state="failed", reason="no luck")]
    search = spec(f"algorithm: {algorithm}")
    found = outcome(failed, search.search)
    heat_map(failed, found, search).canvas.draw()
    page = build(search, failed, found, "runs/s")
    assert "no luck" in page
    assert ("None: " in page) == (not kept)


def test_the_page_answers_first_and_asks_no_server(trials):
    page = build(spec(), trials, outcome(trials, spec().search), "runs/s")
    text = re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.S)
    assert "k = 0.25, lambda = 0.5." in text
    assert "python -m jobs.ensemble runs/s/trials/k0.25-lambda0.5" in text
    assert text.index("Which setting?") < text.index("All trials")
    assert "Not told apart" in text or "Yes: accuracy_drop of gradient" in text
    assert "&lt;the loss&gt;" in page
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)


def test_a_difference_is_judged_member_by_member(record):
    """Members differ more than settings do: their own intervals meet, but each is better by the same."""
    standard, other = record(None, [0.9] * 3, [0.2, 0.5, 0.8]), record(0.5, [0.9] * 3, [0.1, 0.39, 0.71])
    page = build(spec(), [standard, other], outcome([standard, other], spec().search), "runs/s")
    assert "Yes: accuracy_drop of gradient (lower is better) 0.400 against 0.500" in page


def answers(records, text=""):
    """What the page answers, by its questions."""
    asked = spec(text)
    return {each.question: each.answer for each in findings(asked, records, outcome(records, asked.search), "runs/s")}


@pytest.mark.parametrize(("accuracy", "told"), [(0.88, "2.00 points less"), (0.93, "3.00 points more")])
def test_lost_accuracy_is_told_as_less_than_standard_trainings_and_won_as_more(record, accuracy, told):
    trials = [record(None, [0.9], [0.5]), record(0.5, [accuracy], [0.3])]
    assert f", {told} than standard training." in answers(trials, "accuracy_drop_at_most: 0.1")["Which setting?"]


def test_what_is_lost_is_not_known_where_standard_training_failed(record):
    trials = [record(None, state="failed", reason="diverged"), record(0.5, [0.9], [0.3])]
    found = answers(trials)
    assert "; standard training's is not known." in found["Which setting?"]
    assert "points" not in found["Which setting?"].partition(" By ")[0]
    assert found["Are the maps more faithful than standard training's?"] == "There is nothing to compare."


def test_standard_training_is_not_held_against_itself(record):
    told = answers([record(None, [0.9], [0.2]), record(0.5, [0.9], [0.3])])["Which setting?"]
    accuracy = told.partition("Accuracy ")[2].partition(" By ")[0]
    assert accuracy == f"90.00{PERCENT}."


def test_the_front_is_asked_for_where_there_are_several_objectives(trials):
    both, question = "accuracy, faithfulness", "What is on the Pareto front of accuracy, faithfulness?"
    found = answers(trials, f"objectives: [{both}]")
    assert found[question].startswith("k0.25-lambda0.5: no other of the 5 trials")
    assert f"By the member of the Pareto front of {both} that is nearest to the best" in found["Which setting?"]
    alone = answers(trials)
    assert not any("front" in each for each in [*alone, alone["Which setting?"]])
    assert "By the best faithfulness among the trials that lose at most 1.00 points" in alone["Which setting?"]
