"""One driver per run directory: a living one is named and respected, a dead one is not waited for."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest

from jobs import lock
from jobs.lock import STALE_S, Lock
from salcore.errors import UserError
from salcore.layout import LOCK
from salcore.storage import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


def holder(**changes):
    own = {"host": platform.node(), "pid": os.getpid(), "started": "2026-01-02T03:04:05+00:00"}
    return own | {"process_started": psutil.Process().create_time()} | changes


def dead_process():
    """The number of a process that has just ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def age(store, seconds):
    then = time.time() - seconds
    os.utime(store.local / LOCK, (then, then))


def test_the_lock_says_who_holds_it_and_goes_at_the_end(store):
    with Lock(store):
        found = store.read_json(LOCK)
        assert (found["host"], found["pid"]) == (platform.node(), os.getpid())
        assert found["started"].startswith("20")
    assert not store.exists(LOCK)
    with Lock(store):
        assert store.exists(LOCK)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_lock_goes_whatever_ends_the_block(store, error):
    with pytest.raises(error), Lock(store):
        raise error
    assert not store.exists(LOCK)


def test_a_second_driver_is_refused_and_told_who_has_it(store):
    with Lock(store):
        mine = store.read(LOCK)
        with pytest.raises(UserError) as refused, Lock(store):
            pytest.fail("two drivers")
        assert refused.value.key == "--run-dir"
        started = json.loads(mine)["started"]
        for word in (f"process {os.getpid()}", platform.node(), started):
            assert word in str(refused.value)
        assert store.read(LOCK) == mine
    assert not store.exists(LOCK)


def test_of_many_drivers_at_once_one_gets_the_run(store):
    gate, held, refused = threading.Barrier(8), [], []

    def drive():
        gate.wait()
        try:
            with Lock(store):
                held.append(threading.get_ident())
                time.sleep(0.3)
        except UserError:
            refused.append(threading.get_ident())

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


@pytest.mark.parametrize(
    "changes",
    [{"pid": "dead"}, {"process_started": psutil.Process().create_time() - 5}],
    ids=["its process is gone", "its number was given to another process"],
)
def test_a_lock_of_a_driver_that_died_is_taken_over(store, changes):
    if changes.get("pid") == "dead":
        changes = {"pid": dead_process()}
    store.write_json(LOCK, holder(**changes))
    with Lock(store):
        assert store.read_json(LOCK)["pid"] == os.getpid()
        assert store.read_json(LOCK)["started"] != holder()["started"]
    assert not store.exists(LOCK)


def test_what_a_driver_left_half_written_goes_when_its_run_is_taken_over(store):
    half, whole = "members/0000/.tmp-00ff-checkpoint.pt", "members/0000/checkpoint.pt"
    for name in (half, whole, f".tmp-00ff-{LOCK}"):  # the last is of a driver that looks at the lock now
        store.write(name, b"")
    with Lock(store):
        assert store.exists(half), "nobody died"
    store.write_json(LOCK, holder(pid=dead_process()))
    with Lock(store):
        assert not store.exists(half)
    assert sorted(store.files()) == [f".tmp-00ff-{LOCK}", whole]


def test_of_many_drivers_at_a_dead_ones_lock_one_gets_the_run(store):
    """The second to look must not take away the lock of the first."""
    for _ in range(5):
        store.write_json(LOCK, holder(pid=dead_process()))
        gate, held = threading.Barrier(8), []

        def drive(gate=gate, held=held):
            gate.wait()
            with suppress(UserError), Lock(store):
                held.append(threading.get_ident())
                time.sleep(0.3)

        threads = [threading.Thread(target=drive) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) == 1
        assert not store.files()


def test_a_driver_that_died_while_it_took_a_run_over_does_not_keep_it(store):
    store.write_json(LOCK, holder(pid=dead_process()))
    store.write(lock.REMOVING, b"{}")
    with pytest.raises(UserError, match="one just took"), Lock(store):
        pytest.fail("two drivers")
    then = time.time() - STALE_S - 10
    os.utime(store.local / lock.REMOVING, (then, then))
    with Lock(store):
        assert store.read_json(LOCK)["pid"] == os.getpid()
    assert not store.files()


@pytest.mark.parametrize("jump", [-7200.0, -1.0, 1.0, 7200.0])
def test_a_living_driver_is_respected_when_the_clock_is_set(store, monkeypatch, jump):
    """A process's start, as the system tells it, moves with the clock; so does the time at which it was booted."""
    with Lock(store):
        created, booted = psutil.Process.create_time, psutil.boot_time()
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: created(self) + jump)
        monkeypatch.setattr(psutil, "boot_time", lambda: booted + jump)
        with pytest.raises(UserError, match=f"process {os.getpid()}"), Lock(store):
            pytest.fail("two drivers")


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_the_clock_of_this_machine_says_nothing_of_another_ones_lock(store, monkeypatch, jump):
    store.write_json(LOCK, holder(host="elsewhere", pid=1))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    with pytest.raises(UserError, match="process 1 on elsewhere"), Lock(store):
        pytest.fail("two drivers")


def test_a_lock_from_the_future_is_not_respected_for_ever(store):
    """Its machine's clock, or the store's, was wrong when it was renewed, and its driver is long dead."""
    store.write_json(LOCK, holder(host="elsewhere", pid=1))
    age(store, -3 * STALE_S)
    with Lock(store):
        assert store.read_json(LOCK)["host"] == platform.node()


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b'{"host": 3}', b'{"pid": -1}', b"\xff", b"{"])
def test_a_lock_that_cannot_be_understood_is_taken_over(store, content):
    store.write(LOCK, content)
    with Lock(store):
        assert store.read_json(LOCK)["pid"] == os.getpid()
    assert not store.exists(LOCK)


def test_a_lock_of_a_number_that_no_process_can_have_is_taken_over(store):
    store.write_json(LOCK, holder(pid=2**70))
    with Lock(store):
        assert store.read_json(LOCK)["pid"] == os.getpid()


def test_a_lock_of_another_machine_is_respected_while_it_is_renewed(store):
    store.write_json(LOCK, holder(host="elsewhere", pid=1))
    age(store, STALE_S - 10)
    with pytest.raises(UserError, match="process 1 on elsewhere"), Lock(store):
        pytest.fail("two drivers")
    age(store, STALE_S + 10)
    with Lock(store):
        assert store.read_json(LOCK)["host"] == platform.node()


def test_the_lock_is_renewed_while_the_block_runs(store, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    with Lock(store):
        age(store, STALE_S + 10)
        deadline = time.monotonic() + 5
        while time.time() - store.info(LOCK).mtime_ns / 1e9 > STALE_S:
            assert time.monotonic() < deadline, "never renewed"
            time.sleep(0.01)


def test_a_renewal_that_is_under_way_at_the_end_leaves_no_lock(store, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.5)
    renewing, write = threading.Event(), Store.write

    def slow(self, name, data):
        renewing.set()
        time.sleep(0.2)
        write(self, name, data)

    with Lock(store):
        monkeypatch.setattr(Store, "write", slow)
        assert renewing.wait(5)
    time.sleep(0.4)
    assert not store.exists(LOCK)


@pytest.mark.parametrize("below", ["run", "a/b/run"])
def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path, below):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(UserError, match="a folder that can be written") as refused,
        Lock(Store(tmp_path / "file" / below)),
    ):
        pytest.fail("no folder")
    assert refused.value.key == "--run-dir"
    with pytest.raises(UserError, match="a folder that can be written"), Lock(Store(tmp_path / "file")):
        pytest.fail("no folder")
