"""The planner: which ways there are to share the cores, which of them is chosen, and that it is measured."""

import time
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from salcore import planner
from salcore.members import plan
from salcore.planner import Way, measured, ways
from salcore.spec import ModelSpec


@pytest.mark.parametrize("cores", [1, 2, 7, 12, 16])
def test_every_way_uses_all_cores_unless_there_are_fewer_members(cores):
    assert all(way.slots * way.threads == cores for way in ways(cores, most=cores))
    assert [way.threads for way in ways(cores, 1)] == [count for count in range(1, cores + 1) if cores % count == 0]
    assert {way.slots for way in ways(cores, 1)} == {1}


@pytest.mark.parametrize(("members", "slots"), [(1, 1), (2, 2), (4, 4), (5, 1)])
def test_the_best_way_is_that_of_the_fewest_rounds_at_its_pace(members, slots):
    """By 4, 2 or 1 slots: one member takes 1, 0.59 or 0.33 s; two 1, 0.59, 0.67; five 2, 1.76, 1.67."""
    found = [Way(threads=4 // count, slots=count, pace=pace) for count, pace in ((4, 1.0), (2, 1.7), (1, 3.0))]
    assert min(found, key=lambda way: way.seconds(members)).slots == slots


def test_what_is_measured_is_a_training_with_the_threads_asked_for(small):
    _, data, members = small()
    found = measured(members[0], data, cores=2, members=2)
    assert sorted((way.threads, way.slots) for way in found) == [(1, 2), (2, 1)]
    assert all(way.pace > 0 for way in found)
    assert found[0].seconds(2) <= found[1].seconds(2)


def test_a_machine_of_many_cores_is_measured_on_some_and_its_slots_are_counted_on_all(small, monkeypatch):
    monkeypatch.setattr(planner, "_paces", lambda member, data, trials: [1.0 for _ in trials])
    _, data, members = small()
    found = measured(members[0], data, cores=48, members=40)
    assert (found[0].threads, found[0].slots) == (1, 40)
    assert [(way.threads, way.slots) for way in found if way.threads == 16] == [(16, 3)]


def test_few_slots_train_all_members_one_after_the_other(small, monkeypatch):
    """Of 12 members 3 slots of one thread train 4 each; 2 of two threads train 6 each, 1.7 times as fast: 3.5."""
    monkeypatch.setattr(
        planner, "_paces", lambda member, data, trials: [{1: 1.0, 2: 1.7, 4: 2.0}[way.threads] for way in trials]
    )
    _, data, members = small()
    found = measured(members[0], data, cores=4, members=12, slots=3)
    assert [(way.slots, way.threads) for way in found] == [(2, 2), (3, 1), (1, 4)]


def test_little_data_travels_and_nothing_is_evaluated(small):
    _, data, _ = small()
    few = planner._few(data, 10)
    assert len(few.train.values) == len(few.train) == 10
    np.testing.assert_array_equal(few.train.values, data.train.values[data.train.index[:10]])
    np.testing.assert_array_equal(few.train.labels, data.train.labels[data.train.index[:10]])
    assert len(few.validation) == len(few.evaluation) == 0
    assert few.shape == data.shape


def test_a_turn_ends_soon_after_its_time(monkeypatch):
    pinned = []
    monkeypatch.setattr(planner, "pin", pinned.append)

    class Slow:
        epochs = 0

        def __next__(self):
            self.epochs += 1
            time.sleep(0.02)

    slow = Slow()
    assert planner._pace(slow, 10, threads=1, seconds=0.05) < 10 / 0.02
    assert slow.epochs == 3
    planner._pace(slow, 10, threads=1, seconds=0.0)
    assert slow.epochs == 4
    assert pinned == [1, 1]


def broken(*, input_shape, classes):
    """A network that cannot be trained."""

    class Broken(nn.Linear):
        def forward(self, inputs):
            raise ZeroDivisionError

    return Broken(1, classes)


def test_a_training_that_fails_is_told(small, capfd):
    spec, data, _ = small()
    spec = spec.model_copy(update={"model": ModelSpec(name=f"python:{broken.__module__}:broken")})
    with pytest.raises(RuntimeError, match=r"set training\.threads"):
        measured(plan(spec, data.digest)[0], data, cores=2, members=2)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_samples_that_teach_nothing_are_not_measured(small, monkeypatch):
    _, data, members = small()
    labels = data.train.labels.copy()
    labels[data.train.index[:30]] = -1
    given = []
    monkeypatch.setattr(planner, "_paces", lambda member, data, trials: given.append(data) or [1.0 for _ in trials])
    measured(members[0], replace(data, train=replace(data.train, labels=labels)), cores=1, members=1)
    assert len(given[0].train) == min(4 * members[0].training.batch_size, len(data.train) - 30)
    assert (given[0].train.labels >= 0).all()
