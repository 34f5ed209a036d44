"""Slots on a real cluster: what happens when one of them is killed. (Who is given what: test_queue.)"""

import contextlib
import os
import signal
import time

import psutil
import ray

from cluster import start, train
from cluster.queue import Queue, Work
from cluster.source import Source
from salcore.data import load
from salcore.member_files import CHECKPOINT, WEIGHTS, train_member, trained
from salcore.members import Outcome, plan
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
    """Pids of the slots' processes that are there now, and what they are called."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline()[:1])
            if title.startswith("ray::RayTrainWorker("):
                found[process.pid] = title.removeprefix("ray::RayTrainWorker(").partition(")")[0]
    return found


def beginnings(store):
    """(slot, pid) of every time that member 0 was begun, from the logs of the run."""
    found = []
    for log in sorted((store.local / "logs").glob("train-slot-*.log")):
        pid = None
        for line in log.read_text().splitlines():
            words = line.split()[1:]  # without the time
            if words[0] == "process":
                pid = int(words[1])
            elif words == ["member", "0", "begins"]:
                found.append((log.stem, pid))
    return found


def test_free_slot_takes_up_the_member_of_a_killed_one(ray_cluster, tmp_path):
    """One pool of two slots serves two runs: a short member, then a long one whose slot is killed in the middle.

    The slot that trains the long one is halted until the other slot stands idle beside it, however late that starts.
    """
    short, long = members(1, "training.epochs=1"), members(1, "training.epochs=400", "ensemble.root_seed=1")
    stores = [Store(tmp_path / name) for name in ("short", "long")]
    runs = [
        train.Run(store=store, data=Source.of(data, spec.data), members=planned)
        for store, (spec, data, planned) in zip(stores, (short, long), strict=True)
    ]
    room = start.Room(slots=2, cpus=1, gpus=0.0)
    halted, there = None, set()
    for status in train.train(runs, room, name=f"free-{os.getpid()}", attempts=3, scratch=str(tmp_path / "scratch")):
        if halted is None and stores[1].exists(f"members/0000/{CHECKPOINT}"):
            [first] = beginnings(stores[1])
            halted = psutil.Process(first[1])
            halted.suspend()
            epochs_before = len(stores[1].read_parquet("members/0000/history.parquet"))
        if halted is not None and not there and status.slots == 2 and status.done == 1:
            assert status.training == ((1, 0),)
            called = workers()
            there = called.keys() - {halted.pid}
            halted.kill()
    assert there, "both slots came to stand while the long member was held"
    assert sorted(called.values()) == ["slot 0 of short and 1 more", "slot 1 of short and 1 more"]
    assert 0 < epochs_before < 400, "it was killed in the middle"
    again = [each for each in beginnings(stores[1]) if each != first]
    assert len(again) == 1
    assert again[0][0] != first[0], "the other slot"
    assert again[0][1] in there, "undisturbed: its process is the one that stood beside the killed one"
    assert status.crashes == 1
    assert (status.done, status.given_up) == (2, ())
    assert trained(stores[0], short[2][0])
    assert trained(stores[1], long[2][0])
    epochs = stores[1].read_parquet("members/0000/history.parquet")["epoch"].to_pylist()
    assert epochs == list(range(1, 401))


def test_data_is_one_copy_that_workers_cannot_change(ray_cluster):
    spec, data, _ = members(1)
    source = Source.of(data, spec.data)
    images = source.get().train.values
    assert not images.flags.writeable
    assert (images == data.train.values).all()


def test_slots_that_share_a_gpu_are_lanes_of_one_process(ray_cluster, tmp_path):
    """Here without the GPU: one worker, whose lanes train all members to the bits of each alone."""
    spec, data, planned = members(3, "training.epochs=3", "model.dropout=0.3")
    store, alone = Store(tmp_path / "lanes"), Store(tmp_path / "alone")
    run = train.Run(store=store, data=Source.of(data, spec.data), members=planned)
    room = start.Room(slots=2, cpus=1, gpus=0.0, lanes=2)
    called, told, arenas = set(), [], set()
    for status in train.train([run], room, name=f"lanes-{os.getpid()}", attempts=3, scratch=str(tmp_path / "scratch")):
        told.append(status)
        called |= set(workers().values())
        for pid in workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                arenas.add(psutil.Process(pid).environ().get("MALLOC_ARENA_MAX"))
    assert called == {"slots 0 to 1 of lanes"}
    assert arenas == {"1"}, "else glibc gives a thread's memory back after each step"
    assert told[-1].done == 3
    logs = {log.stem: log.read_text() for log in (store.local / "logs").glob("train-slot-*.log")}
    assert sorted(logs) == ["train-slot-0", "train-slot-1"]
    assert len({log.split("process ")[1].split()[0] for log in logs.values()}) == 1
    for member in planned:
        train_member(member, data, alone)
        file = f"members/{member.index:04d}/{WEIGHTS}"
        assert store.read(file) == alone.read(file)


def test_lanes_of_a_killed_worker_go_on_together(ray_cluster, tmp_path):
    """Whichever member it died of, both go on after their checkpoints, and end with the bits of each alone."""
    spec, data, planned = members(2, "training.epochs=400", "model.dropout=0.3")
    store, alone = Store(tmp_path / "killed"), Store(tmp_path / "alone")
    run = train.Run(store=store, data=Source.of(data, spec.data), members=planned)
    room, name = start.Room(slots=2, cpus=1, gpus=0.0, lanes=2), f"killed-{os.getpid()}"
    before = []
    for status in train.train([run], room, name=name, attempts=2, scratch=str(tmp_path / "scratch")):
        if not before and all(store.exists(f"members/{member.index:04d}/{CHECKPOINT}") for member in planned):
            [worker] = workers()
            os.kill(worker, signal.SIGKILL)
            before = [len(store.read_parquet(f"members/{member.index:04d}/history.parquet")) for member in planned]
        told = status
    assert [0 < epochs < 400 for epochs in before] == [True, True], "it was killed in the middle of both"
    assert told.crashes == 1
    assert told.given_up == ()
    assert workers() == {}
    for member in planned:
        train_member(member, data, alone)
        folder = f"members/{member.index:04d}"
        assert store.read_parquet(f"{folder}/history.parquet")["epoch"].to_pylist() == list(range(1, 401))
        assert store.read(f"{folder}/{WEIGHTS}") == alone.read(f"{folder}/{WEIGHTS}")
