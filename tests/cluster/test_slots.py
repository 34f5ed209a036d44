"""Slots on a real cluster: what happens when one of them is killed. (Who is given what: test_queue.)"""

import contextlib
import os
import signal
import time

import psutil
import ray

from cluster import start, train
from cluster.queue import Queue, Work
from salcore.data import load
from salcore.member_files import CHECKPOINT, Outcome, trained
from salcore.members import plan
from salcore.spec import parse
from salcore.storage import Store

TINY = """
data: {name: digits, train_samples: 100, eval_samples: 20}
model: {name: small_cnn, width: 4, norm: batch, dropout: 0.3}
"""


def members(count, *overrides):
    spec = parse(TINY, [f"ensemble.members={count}", *overrides])
    data = load(spec.data)
    return spec, data, plan(spec, data.digest)


def test_only_a_cluster_that_is_named_is_joined(monkeypatch):
    """Another program's cluster on the same machine would be found by Ray, and would end with that program."""
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options.get("address")))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start.start()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    start.start()
    assert asked == ["local", None], "None: Ray takes it from RAY_ADDRESS"


@ray.remote(num_cpus=0)
class Idle:
    """Stands for a slot's process."""

    def pid(self):
        return os.getpid()


def test_queue_hears_of_a_death_at_once(ray_cluster):
    _, _, planned = members(2)
    queue = Queue.remote([Work(run=0, member=member) for member in planned], 3)
    slots = [Idle.remote() for _ in range(2)]
    for number, slot in enumerate(slots):
        ray.get(queue.register.remote(number, slot))
    assert ray.get(queue.take.remote(0)).member.index == 0
    assert ray.get(queue.take.remote(1)).member.index == 1
    ray.get(queue.done.remote(1, 0, Outcome(index=1, reason=None, seconds=0.0)))
    assert ray.get(queue.take.remote(1)) is None, "one member is still held: ask again"
    os.kill(ray.get(slots[0].pid.remote()), signal.SIGKILL)
    killed = time.monotonic()
    while (again := ray.get(queue.take.remote(1))) is None:
        assert time.monotonic() - killed < 10
        time.sleep(0.05)
    assert (again.member.index, again.crashes) == (0, 1)
    ray.get(queue.done.remote(1, 0, Outcome(index=0, reason=None, seconds=0.0)))
    assert ray.get(queue.take.remote(1)) == "leave"


def workers():
    """Processes of slots, by pid."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("RayTrainWorker" in word for word in process.cmdline()[:1]):
                found[process.pid] = process
    return found


def test_free_slot_takes_up_the_member_of_a_killed_one(ray_cluster, tmp_path):
    """One pool of two slots serves two runs: a short member, then a long one whose slot is killed in the middle."""
    short, long = members(1, "training.epochs=1"), members(1, "training.epochs=400", "ensemble.root_seed=1")
    stores = [Store(tmp_path / name) for name in ("short", "long")]
    runs = [
        train.Run(store=store, data=train.Source.of(data, spec.data), members=planned)
        for store, (spec, data, planned) in zip(stores, (short, long), strict=True)
    ]
    room = start.Room(slots=2, cpus=1, gpus=0.0)
    killed_at = taken_at = None
    survivors, there = set(), set()
    for status in train.train(runs, room, name=f"free-{os.getpid()}", attempts=3, scratch=str(tmp_path / "scratch")):
        if killed_at is None and len(status.outcomes) == 1 and stores[1].exists(f"members/0000/{CHECKPOINT}"):
            assert status.training == ((1, 0),)
            pids = workers()
            assert len(pids) == 2
            # The slot that trains is the one that spends processor time.
            before = {pid: sum(process.cpu_times()[:2]) for pid, process in pids.items()}
            time.sleep(1.0)
            spent = {pid: sum(process.cpu_times()[:2]) - before[pid] for pid, process in pids.items()}
            busy = max(spent, key=spent.__getitem__)
            survivors = set(pids) - {busy}
            os.kill(busy, signal.SIGKILL)
            killed_at = time.monotonic()
        elif killed_at and taken_at is None and status.crashes == 1 and status.training == ((1, 0),):
            taken_at = time.monotonic()
            there = set(workers())
    assert killed_at is not None
    assert taken_at is not None
    assert there == survivors, "the free slot, undisturbed, took it before the dead one was back"
    assert status.crashes == 1
    assert sorted((run, outcome.index, outcome.reason) for run, outcome in status.outcomes) == [
        (0, 0, None),
        (1, 0, None),
    ]
    assert trained(stores[1], long[2][0])
    epochs = stores[1].read_parquet("members/0000/history.parquet")["epoch"].to_pylist()
    assert epochs == list(range(1, 401))


def test_data_is_one_copy_that_workers_cannot_change(ray_cluster):
    spec, data, _ = members(1)
    source = train.Source.of(data, spec.data)
    images = source.get().train.images
    assert not images.flags.writeable
    assert (images == data.train.images).all()
