"""Lanes: members that train side by side draw what they draw alone, and take turns at the global generators."""

import itertools
import random
import threading
import time

import numpy as np
import pytest
import torch

from salcore import seeds, training
from salcore.lanes import side_by_side
from salcore.seeds import forked
from salcore.training import fit
from salcore.turns import TURNS, Turns

CASES = [
    ("model.dropout=0.4",),
    ("training.objective=guided", "model.dropout=0.2"),
    ("training.precision=bfloat16", "training.augment.crop=1"),
]


def ended(member, data):
    """Losses and final weights of a training."""
    records = list(fit(member, data))
    weights = {name: value.clone() for name, value in records[-1].state["model"].items()}
    return [(record.train_loss, record.eval_loss, record.eval_accuracy) for record in records], weights


@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
def test_members_side_by_side_end_with_the_bits_of_each_alone(small, monkeypatch, overrides):
    _, data, members = small("ensemble.members=3", "training.epochs=2", *overrides)
    alone = [ended(member, data) for member in members]
    monkeypatch.setattr(training, "TURN", 1)
    stood = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()]  # noqa: NPY002
    handed, found = [], [None] * len(members)
    hand_on = seeds.Fork.hand_on

    def seen(fork):
        handed.append(threading.get_ident())
        hand_on(fork)

    def work(place):
        def do():
            found[place] = ended(members[place], data)

        return do

    monkeypatch.setattr(seeds.Fork, "hand_on", seen)
    side_by_side([work(place) for place in range(3)], "cpu")
    for (rows, weights), (expected, others) in zip(found, alone, strict=True):
        assert rows == expected
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    changes = sum(before != after for before, after in itertools.pairwise(handed))
    assert len(set(handed)) == 3
    assert changes > len(handed) / 2, "they took turns, step by step"
    assert random.getstate() == stood[0]
    assert np.random.get_state()[1].tolist() == stood[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), stood[2])


def test_states_that_were_not_put_back_would_be_seen(monkeypatch):
    """The test above can fail: what is drawn after a turn then comes from where another thread left the generators."""
    drawn = {number: [] for number in range(3)}

    def work(number):
        def do():
            with forked(number) as fork:
                for _ in range(50):
                    wait_until_wanted(others=[drawn[other] for other in drawn if other != number])
                    fork.hand_on()
                    drawn[number].append(float(torch.rand(())))

        return do

    def alone(number):
        with forked(number):
            return [float(torch.rand(())) for _ in range(50)]

    def wait_until_wanted(others, seconds=20):
        end = time.monotonic() + seconds
        while not TURNS.wanted and any(len(numbers) < 50 for numbers in others):
            assert time.monotonic() < end, "no other thread asks for its turn"
            time.sleep(0.0001)

    expected = {number: alone(number) for number in range(3)}
    side_by_side([work(number) for number in range(3)], "cpu")
    assert drawn == expected
    drawn.update({number: [] for number in range(3)})
    monkeypatch.setattr(seeds, "_put_back", lambda states: None)
    with torch.random.fork_rng([]):
        side_by_side([work(number) for number in range(3)], "cpu")
    assert drawn != expected


def test_one_lane_is_the_thread_that_asks():
    threads = []
    side_by_side([lambda: threads.append(threading.get_ident())], "cpu")
    assert threads == [threading.get_ident()]


def test_lanes_run_at_the_same_time():
    meet = threading.Barrier(3, timeout=10)
    side_by_side([meet.wait] * 3, "cpu")


def test_an_error_is_raised_at_once_and_leaves_the_generators_to_the_others():
    failed, drawn = threading.Event(), threading.Event()

    def fail():
        with forked(1):
            raise OSError("the disk is full")

    def go_on():
        failed.wait()
        with forked(2):
            drawn.set()

    with pytest.raises(OSError, match="the disk is full"):
        side_by_side([fail, go_on], "cpu")
    assert not drawn.is_set(), "it did not wait for the other lane, which may wait for the failed one"
    failed.set()
    assert drawn.wait(timeout=10)


def test_turns_come_in_the_order_in_which_they_were_asked_for():
    turns, order = Turns(), []
    turns.take()
    threads = []
    for number in range(5):
        before = len(turns._waiting)

        def one(number=number):
            turns.take()
            order.append(number)
            turns.leave()

        threads.append(threading.Thread(target=one, daemon=True))
        threads[-1].start()
        while len(turns._waiting) == before:
            time.sleep(0.001)
    assert turns.wanted
    turns.take()
    assert not turns.wanted, "a block within a block does not hand on"
    turns.leave()
    assert order == []
    turns.leave()
    for thread in threads:
        thread.join(timeout=10)
    assert order == [0, 1, 2, 3, 4]
    assert not turns.wanted


def test_a_turn_installs_the_threads_own_cuda_generators_and_puts_the_shared_ones_back(monkeypatch):
    """By a twin of `torch.Generator` on a GPU, whose state is what it points to."""

    class Generator:
        def __init__(self, state):
            self.state = state

        def clone_state(self):
            return Generator([*self.state])

        def graphsafe_get_state(self):
            return Generator(self.state)

        def graphsafe_set_state(self, other):
            self.state = other.state

    shared = ["shared"]
    default = Generator(shared)
    monkeypatch.setattr(torch.cuda, "default_generators", (default,))
    turns = Turns()
    with turns.own_generators():
        turns.take()
        own = default.state
        assert own is not shared
        turns.take()
        assert default.state is own
        turns.leave()
        assert default.state is own
        turns.leave()
        assert default.state is shared
        turns.take()
        assert default.state is own, "the same one in every turn: a graph keeps it"
        turns.leave()
    turns.take()
    assert default.state is shared
    turns.leave()
