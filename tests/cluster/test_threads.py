"""`training.threads: auto`: where it is measured, for how many members, and what is told."""

import pytest
import torch

from cluster import start, threads
from salcore.data import load
from salcore.errors import UserError
from salcore.members import plan
from salcore.planner import Way
from salcore.spec import parse

SPEC = "data: {name: digits, train_samples: 64}\nmodel: {width: 4}\nensemble: {members: 10}\n"


@pytest.fixture
def asked(monkeypatch):
    """A function that asks for threads; the cores, members and slots that were measured."""
    measured = []

    def stand_in(member, data, *, cores, members, slots):
        measured.append((cores, members, slots))
        return [Way(threads=4, slots=2, pace=1.0), Way(threads=8, slots=1, pace=1.5)]

    def ask(*overrides):
        spec = parse(SPEC, overrides)
        data = load(spec.data)
        return threads.best(spec, plan(spec, data.digest)[0], data)

    monkeypatch.setattr(threads, "measured", stand_in)
    monkeypatch.setattr(start, "cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(threads, "_FOUND", {})
    ask.measured = measured
    return ask


def test_this_machine_is_measured_and_the_choice_is_told(asked, capsys):
    assert asked() == 4
    assert asked.measured == [(8, 10, None)]
    assert capsys.readouterr().out.endswith("threads  2 slots of 4 (1 of 8: 1.33 x the time)\n")


def test_the_same_members_are_measured_once_in_a_process(asked, capsys):
    assert asked() == asked() == 4
    assert asked.measured == [(8, 10, None)]
    assert capsys.readouterr().out.count("measuring") == 1
    asked("training.batch_size=7")
    assert len(asked.measured) == 2


def test_no_more_slots_are_measured_than_are_asked_for(asked):
    asked("cluster.slots=3")
    assert asked.measured == [(8, 10, 3)], "of ten members all the same"


@pytest.mark.parametrize("nothing", ["training.epochs=0"])
def test_where_nothing_is_trained_nothing_is_measured(asked, nothing):
    assert asked(nothing) == 1
    assert not asked.measured


@pytest.mark.parametrize(("overrides", "found"), [((), 1), (("cluster.gpus_per_slot=0.0",), 4)])
def test_a_slot_with_a_gpu_has_one_thread(asked, monkeypatch, overrides, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert asked(*overrides) == found


def test_a_measurement_that_fails_asks_for_a_number(asked, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("it died")

    monkeypatch.setattr(threads, "measured", fail)
    with pytest.raises(UserError, match=r"training\.threads: expected a number, as measuring failed \(it died\)"):
        asked()


def test_a_cluster_that_was_started_elsewhere_is_measured_on_its_largest_node(asked, monkeypatch):
    states = []
    nodes = [{"CPU": 4.0}, {"CPU": 16.0}, {}]
    monkeypatch.setattr(start, "grows", lambda: True)
    monkeypatch.setattr(start, "start", lambda: states.append("joined"))
    monkeypatch.setattr(start, "stop", lambda: states.append("left"))
    monkeypatch.setattr(threads.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(start, "nodes", lambda: nodes)
    tasks = []

    class Remote:
        def __init__(self, **options):
            tasks.append(options)

        def __call__(self, function):
            self.remote = function
            return self

    monkeypatch.setattr(threads.ray, "remote", Remote)
    monkeypatch.setattr(threads.ray, "get", lambda found, timeout: found)
    assert asked() == 4
    assert tasks == [{"num_cpus": 16, "max_retries": 0}]
    assert asked.measured == [(16, 5, None)]
    assert states == ["joined", "left"] * 2
    nodes[:2] = []
    with pytest.raises(UserError, match="no node has cores yet"):
        asked()
