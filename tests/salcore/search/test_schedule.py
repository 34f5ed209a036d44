"""Which trials there are, and which of them are over. Trials are not run: their records are written by hand."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from salcore.data import Data, Part
from salcore.search import Schedule, Setting, schedule
from salcore.search import record as files
from salcore.spec import parse
from salcore.storage import Store

PART = Part(values=np.zeros((4, 1, 2, 2), np.uint8), labels=np.zeros(4, np.int64), index=np.arange(4))
DATA = Data(train=PART, validation=PART, evaluation=PART, classes=("a", "b"), mean=np.zeros(1, np.float32),
            std=np.ones(1, np.float32), digest="data")  # fmt: skip


@dataclass
class Asked:
    """A stand-in for Optuna: the next k is a function of how many were proposed and of all that is told."""

    calls: list

    def __call__(self, search, before, tried):
        self.calls.append([each.setting.name for each in tried])
        total = sum(sum(each.values) for each in tried if each.values is not None)
        return Setting(mask_fraction=round((len(before) * 0.137 + 0.31 * total) % 1, 4), weight=1.0 + len(before))


@pytest.fixture
def searching(tmp_path, monkeypatch):
    """A function from the text of a section to its schedule; that members are trained is taken as read."""
    monkeypatch.setattr(schedule, "over", lambda trial, data: _standing(trial))

    def make(text, folder="search"):
        return Schedule(parse(f"search: {{{text}}}"), DATA, Store(tmp_path / folder), Asked([]))

    return make


def _standing(trial):
    found = files.read(trial.store)
    return found if found is not None and found.fingerprint == trial.fingerprint else None


def finish(trial, make, area=None, accuracy=0.9, **changes):
    k = None if trial.setting is None else trial.setting.mask_fraction
    area = 0.5 if k is None else k**2 if area is None else area
    rows = ([], []) if changes.get("state") == "failed" else ([accuracy], [area])
    found = make(k, *rows, weight=1.0 if k is None else trial.setting.weight, **changes)
    files.write(trial.store, replace(found, fingerprint=trial.fingerprint))


def names(found):
    return [trial and trial.name for trial in (found.trial(place) for place in range(len(found)))]


def test_standard_training_is_the_first_of_every_search(searching):
    assert names(searching("mask_fraction: [0.5], weight: [1, 2]")) == ["standard", "k0.5-lambda1", "k0.5-lambda2"]
    assert names(searching("algorithm: random, trials: 2"))[0] == "standard"
    assert names(searching("algorithm: optuna, trials: 2", "optuna"))[0] == "standard"


def test_a_trial_is_over_when_its_record_stands_and_is_of_this_very_trial(searching, record):
    found = searching("mask_fraction: [0.5], weight: [1]")
    finish(found.trial(0), record)
    assert [each.name for each in found.records()] == ["standard"]
    finish(found.trial(1), record)
    assert len(found.records()) == 2
    others = ("method: null, samples: 3", "faithfulness: deletion")
    for other in others:
        assert searching(f"mask_fraction: [0.5], weight: [1], {other}").records() == []
    assert len(searching("mask_fraction: [0.5], weight: [1], objectives: accuracy").records()) == 2


def test_a_failed_trial_is_over_unless_it_is_to_be_tried_again(searching, record):
    text = "mask_fraction: [0.5], weight: [1]"
    finish(searching(text).trial(1), record, state="failed", reason="diverged")
    assert len(searching(text).records()) == 1
    again = searching(text)
    again.forget_failed()
    assert again.records() == searching(text).records() == []
    finish(again.trial(1), record, state="failed", reason="diverged")
    assert len(again.records()) == 1, "tried again, it failed again"


def test_a_trial_that_asha_stopped_is_over_as_long_as_there_is_asha(searching, record):
    text = "mask_fraction: [0.5], weight: [1]"
    finish(searching(text).trial(1), record, state="stopped")
    assert len(searching(f"{text}, asha: true").records()) == 1
    assert searching(text).records() == []


def drive(found, make, pick, most):
    """Do all trials, at most so many at the same time, ended in the order in which `pick` says."""
    place, at_work, order = 0, [], []
    while place < len(found) or at_work:
        trial = found.trial(place) if place < len(found) and len(at_work) < most else None
        if trial is not None:
            place += 1
            if found.over(trial) is None:
                at_work.append(trial)
        else:
            trial = at_work.pop(pick(len(at_work)))
            finish(trial, make)
            order.append(trial.name)
    return order


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_the_same_trials_are_proposed_in_whatever_order_they_end(searching, record, ahead):
    text = f"algorithm: optuna, trials: 9, ahead: {ahead}"
    draw = np.random.default_rng(0)
    picks = {"one": lambda count: 0, "last": lambda count: count - 1, "any": lambda count: int(draw.integers(count))}
    made = {}
    for name, pick in picks.items():
        for most in (1, 2, 9):
            found = searching(text, f"{name}{most}")
            order = drive(found, record, pick, most)
            assert sorted(order) == sorted(names(found))
            made[name, most] = names(found)
    assert len({tuple(each) for each in made.values()}) == 1
    assert len({*made["one", 1]}) == 10


def test_a_proposal_knows_all_results_but_the_latest_so_many(searching, record):
    found = searching("algorithm: optuna, trials: 6, ahead: 2")
    drive(found, record, lambda count: 0, 3)
    told = [len(each) for each in found._propose.calls]
    assert told == [0, 0, 0, 1, 2, 3]


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(searching, record):
    text = "algorithm: optuna, trials: 8, ahead: 2"
    undisturbed = searching(text, "undisturbed")
    drive(undisturbed, record, lambda count: 0, 3)
    killed = searching(text, "killed")
    for place in range(4):  # three are over, and one was begun
        trial = killed.trial(place)
        if place < 3:
            finish(trial, record)
    again = searching(text, "killed")
    order = drive(again, record, lambda count: count - 1, 2)
    assert names(again) == names(undisturbed)
    assert not {"standard", *names(undisturbed)[1:3]} & {*order}, "what was over is not done again"


def test_proposals_hold_once_they_are_made(searching, record):
    text = "algorithm: optuna, trials: 4, ahead: 0"
    found = searching(text)
    drive(found, record, lambda count: 0, 1)
    finish(found.trial(1), record, area=0.77)
    assert names(searching(text)) == names(found)
    longer = searching("algorithm: optuna, trials: 5, ahead: 0")
    assert names(longer)[:5] == names(found)
    assert len(longer.records()) == 5


def test_who_looks_at_a_search_has_nothing_proposed(searching, record):
    """MLflow's thread, the progress and a plan ask what there is while Tune's thread asks for the next trial."""
    found = searching("algorithm: optuna, trials: 4, ahead: 0")
    assert [trial.name for trial in found.known()] == ["standard"]
    finish(found.trial(0), record)
    assert len(found.records()) == 1
    assert not found.store.exists(schedule.PROPOSALS)
    first = found.trial(1)
    again = searching("algorithm: optuna, trials: 4, ahead: 0")
    assert [trial.name for trial in again.known()] == ["standard", first.name], "proposed before the search was killed"
    assert again._propose.calls == []
    grid = searching("mask_fraction: [0.5], weight: [1, 2]", "grid")
    assert [trial.name for trial in grid.known()] == ["standard", "k0.5-lambda1", "k0.5-lambda2"]


def test_threads_that_ask_at_the_same_time_get_the_same_trial(searching):
    found = searching("algorithm: optuna, trials: 1")
    asked = found._propose

    def slow(*given):
        time.sleep(0.1)
        return asked(*given)

    found._propose = slow
    with ThreadPoolExecutor(4) as threads:
        trials = list(threads.map(found.trial, [1] * 4))
    assert len(asked.calls) == 1
    assert len({id(trial) for trial in trials}) == 1


def test_what_failed_is_told_as_failed_and_what_loses_too_much_accuracy_as_the_worst(searching, record):
    told = []

    def propose(search, before, tried):
        told.append(tried)
        return Setting(mask_fraction=0.1 * len(before), weight=1.0)

    found = searching("algorithm: optuna, trials: 3, ahead: 0")
    found._propose = propose
    finish(found.trial(0), record)
    finish(found.trial(1), record, state="failed", reason="diverged")
    finish(found.trial(2), record, area=0.01, accuracy=0.5)
    found.trial(3)
    failed, poor = told[-1]
    assert failed.values is None
    assert poor.values[0] < -1000
