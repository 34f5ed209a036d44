"""What a cluster holds: arithmetic on the resources of its nodes, without a cluster."""

import os
import signal
import sys

import psutil
import pytest

from cluster import start
from cluster.start import Room, room
from salcore.errors import UserError
from salcore.spec import ClusterSpec

LAPTOP = [{"CPU": 8.0, "memory": 1e9}]
GPUS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}]
HEAD = {"CPU": 4.0}


def found(nodes, work=100, threads=1, grows=False, **keys):
    return room(ClusterSpec(**keys), threads, work, nodes, grows=grows)


@pytest.mark.parametrize(
    ("nodes", "threads", "slots"),
    [
        (LAPTOP, 1, 8),
        (LAPTOP, 2, 4),
        (LAPTOP, 3, 2),
        (LAPTOP, 8, 1),
        (LAPTOP * 3, 3, 6),  # two on each node: a slot does not span nodes
        ([{"CPU": 2.0}, {"CPU": 7.0}, {}], 2, 4),
    ],
)
def test_without_gpus_slots_fill_the_cores(nodes, threads, slots):
    assert found(nodes, threads=threads) == Room(slots=slots, cpus=threads, gpus=0)


@pytest.mark.parametrize(
    ("gpus", "threads", "slots", "lanes"),
    [
        ("auto", 1, 6, 1),
        (1, 1, 6, 1),
        (0.5, 1, 12, 2),
        (0.25, 1, 24, 4),
        (2, 1, 3, 1),
        (4, 1, 1, 1),
        (0, 1, 32, 1),
        (0.25, 4, 8, 4),
        (0.25, 8, 4, 2),  # a process has the cores of all its slots, and a node no more than two of these
    ],
)
def test_with_gpus_slots_fill_the_gpus_or_the_cores_whichever_is_less(gpus, threads, slots, lanes):
    per_slot = 1.0 if gpus == "auto" else float(gpus)
    expected = Room(slots=slots, cpus=threads, gpus=per_slot, lanes=lanes)
    assert found(GPUS, threads=threads, gpus_per_slot=gpus if gpus == "auto" else float(gpus)) == expected


def test_a_head_without_gpus_holds_no_slot_that_wants_one():
    assert found([HEAD, *GPUS]).slots == 6


@pytest.mark.parametrize(("work", "slots"), [(1, 1), (3, 3), (100, 8), (0, 1)])
def test_there_are_no_more_slots_than_work_and_at_least_one(work, slots):
    assert found(LAPTOP, work=work).slots == slots


def test_fewer_slots_than_fit_may_be_asked_for_and_more_are_cut_to_the_cores():
    assert found(LAPTOP, slots=3).slots == 3
    assert found(LAPTOP, slots=30).slots == 8


def refused(nodes, **keys):
    with pytest.raises(UserError) as error:
        found(nodes, **keys)
    return error.value.key, str(error.value)


def test_more_gpus_than_a_node_has_are_refused():
    for nodes, most in ((LAPTOP, 0), (GPUS, 4)):
        name, message = refused(nodes, gpus_per_slot=5.0)
        assert name == "cluster.gpus_per_slot"
        assert f"({most})" in message
        assert message.endswith("got 5.0")
    assert refused(LAPTOP, gpus_per_slot=0.5)[0] == "cluster.gpus_per_slot"


def test_more_threads_than_a_node_has_cores_are_refused():
    name, message = refused(LAPTOP * 2, threads=9)
    assert name == "training.threads"
    assert "(8)" in message


def test_more_slots_with_gpus_than_the_cluster_holds_are_refused():
    name, message = refused(GPUS, slots=7, gpus_per_slot=1.0)
    assert name == "cluster.slots"
    assert "(6)" in message
    assert found(GPUS, slots=6, gpus_per_slot=1.0).slots == 6


@pytest.mark.parametrize("slots", ["auto", 1])
def test_a_slot_that_no_single_node_holds_is_refused(slots):
    nodes = [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}]
    assert refused(nodes, threads=2, slots=slots)[0] in {"training.threads", "cluster.slots"}


def test_a_cluster_without_nodes_holds_nothing():
    assert refused([])[0] == "training.threads"


def test_in_a_cluster_that_grows_slots_may_follow_as_nodes_join():
    assert found(LAPTOP, grows=True) == Room(slots=8, cpus=1, gpus=0, most=100)
    assert found(LAPTOP, work=3, grows=True) == Room(slots=3, cpus=1, gpus=0, most=3)


def test_in_a_cluster_that_grows_a_number_of_slots_asks_for_nodes():
    head = [{"CPU": 0.0}]
    assert found(head, grows=True, slots=6) == Room(slots=6, cpus=1, gpus=0)
    assert found(head, grows=True, slots=6, threads=9, gpus_per_slot=0.5) == Room(slots=6, cpus=9, gpus=0.5)
    assert found(head, grows=True, slots=6, work=2).slots == 2
    assert refused(head, grows=True)[0] == "cluster.slots"


@pytest.mark.parametrize(
    ("quota", "found"),
    [
        ("max 100000", 6),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 6),
        ("nonsense", 6),
        ("not numbers", 6),
        (None, 6),
    ],
)
def test_cores_are_those_that_the_process_may_use_and_has_a_share_of(quota, found, monkeypatch, tmp_path):
    """So many does a cluster of this machine get, and so many are measured by `training.threads: auto`."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(start, "CGROUP", tmp_path / "cpu.max")
    if quota is not None:
        start.CGROUP.write_text(quota)
    assert start.cores() == found
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert start.cores() == (8 if found == 6 else found)


def test_a_cluster_of_this_machine_has_its_cores_and_no_log_monitor(ray_cluster):
    """Nobody asks for what it reads, ten times a second."""
    assert sum(node.get("CPU", 0) for node in start.nodes()) == start.cores()
    helpers = [" ".join(each.cmdline()) for each in psutil.Process().children() if each.status() != "zombie"]
    assert any("raylet" in each for each in helpers)
    assert not any("log_monitor.py" in each for each in helpers)


def test_ray_does_not_take_the_answer_to_termination(monkeypatch):
    """Its own ends the process without a word of how to go on."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(start.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(start.ray, "init", lambda **_: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)))
    monkeypatch.setattr(start, "_end_log_monitor", lambda: None)
    monkeypatch.setattr(start.os, "environ", dict(os.environ))
    start.start()
    assert signal.getsignal(signal.SIGTERM) is before
