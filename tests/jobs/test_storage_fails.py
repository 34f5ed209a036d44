"""A disk that is full, a store that is read-only or gone: one clear line, nothing half-written, and it goes on."""

import os
import resource
import shutil
import signal
from contextlib import contextmanager, suppress

import pytest

from jobs.command import guarded
from jobs.status import status
from salcore import inventory, layout
from salcore.data import load
from salcore.errors import Damaged
from salcore.explain import Explainer
from salcore.member_files import train_member
from salcore.members import plan
from salcore.spec import parse
from salcore.storage import TEMPORARY, Store

SMALL = """
data: {name: digits, image_size: 4, train_samples: 30, eval_samples: 9}
model: {width: 2, depth: 1}
ensemble: {members: 2}
training: {epochs: 2, batch_size: 16}
attribution: {shard_samples: 5, batch_size: 8}
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


@pytest.fixture(scope="module")
def asked():
    spec = parse(SMALL)
    data = load(spec.data)
    return spec, data, plan(spec, data.digest)


def work(store, asked):
    """Train and explain, as a run does; all of it, or as far as storage lets it."""
    spec, data, members = asked
    for member in members:
        assert train_member(member, data, store).reason is None
    found = inventory.take(store, spec, data, members)
    worker = Explainer(spec, data, members, store)
    for item in found.missing:
        found.enter(worker.explain(item))
    found.write()


def results(store):
    ends = (".arrow", ".safetensors")
    return {name: store.read(name) for name in store.files() if name.endswith(ends)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, asked):
    store = Store(tmp_path_factory.mktemp("undisturbed") / "run")
    work(store, asked)
    return results(store)


@contextmanager
def files_of_at_most(size):
    """The system itself refuses to let a file grow beyond so many bytes, in the middle of a write."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_the_system_stops_half_way_leaves_the_old_file_and_nothing_else(store):
    store.write("a/b", b"old")
    with files_of_at_most(1000), pytest.raises(OSError, match="too large"):
        store.write("a/b", b"x" * 10_000)
    assert store.read("a/b") == b"old"
    assert list(store.files()) == ["a/b"]
    store.write("a/b", b"x" * 10_000)
    assert store.info("a/b").size == 10_000


@pytest.mark.parametrize("size", [0, 100, 1000, 1500, 3000, 4000, 6000])
def test_a_run_whose_files_no_longer_fit_goes_on_when_there_is_room(store, asked, undisturbed, size):
    with files_of_at_most(size), suppress(OSError):
        work(store, asked)
    assert not [name for name in store.files() if TEMPORARY in name]
    work(store, asked)
    assert results(store) == undisturbed


def test_a_disk_that_fills_up_at_any_write_loses_nothing_that_was_finished(asked, undisturbed, tmp_path, monkeypatch):
    asked, write, number = (*asked[:2], asked[2][:1]), Store.write, 0
    undisturbed = {name: content for name, content in undisturbed.items() if "0000" in name.split("part")[0]}
    while True:
        store, left, number = Store(tmp_path / str(number)), [number], number + 1

        def full(self, name, data, left=left):
            if left[0] == 0:
                raise OSError(28, "No space left on device", self.path(name))
            left[0] -= 1
            write(self, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", full)
            code = guarded("ensemble", lambda _, store=store: work(store, asked) or 0, [])
        before = {name: info for name, info in store.files().items() if name.endswith((".arrow", ".safetensors"))}
        if code == 0:
            break
        work(store, asked)
        assert results(store) == undisturbed
        after = store.files()
        again = {name for name, info in before.items() if after[name] != info}
        assert again <= {name for name in before if name.endswith(".safetensors")}, "a shard was made twice"
    assert number > 8


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/somewhere/run/members/0000/history.parquet"),
        OSError(30, "Read-only file system", "/somewhere/run"),
        FileNotFoundError(2, "No such file or directory", "/somewhere/run/spec.yaml"),
        OSError(116, "Stale file handle\nof two lines"),
    ],
)
def test_storage_that_fails_ends_a_command_in_one_line_that_says_how_to_go_on(capsys, error):
    def fail(arguments):
        raise error

    assert guarded("ensemble", fail, ["digits", "--run-dir", "/some where/run"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert " ".join(error.strerror.split()) in told
    assert "what is finished is kept" in told
    assert told.endswith("python -m jobs.ensemble digits --run-dir '/some where/run'\n")


def test_a_damaged_file_ends_a_command_in_one_line(capsys):
    def fail(arguments):
        raise Damaged("/run/until.json is damaged (it is no mapping): delete it to have it made again")

    assert guarded("reduce", fail, ["/run"]) == 1
    assert capsys.readouterr().err.startswith("error: /run/until.json is damaged")


def test_other_errors_keep_their_traceback():
    """They are ours to mend, and are found by it."""

    def fail(arguments):
        raise KeyError("x")

    with pytest.raises(KeyError):
        guarded("reduce", fail, [])


def test_a_store_that_vanishes_in_the_middle_is_made_again(store, asked, undisturbed):
    spec, data, members = asked

    def vanish(record):
        if record.epoch == 1:
            shutil.rmtree(store.local)

    train_member(members[0], data, store, on_epoch=vanish)
    work(store, asked)
    assert results(store) == undisturbed
    shutil.rmtree(store.local)
    assert store.files() == {}
    assert len(inventory.take(store, spec, data, members).missing) == 4
    work(store, asked)
    assert results(store) == undisturbed


def test_a_store_that_cannot_be_made_is_told_before_the_first_epoch_counts(tmp_path, asked):
    (tmp_path / "file").write_bytes(b"no folder")
    store = Store(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="file"):
        train_member(asked[2][0], asked[1], store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_run_can_be_read_and_refuses_to_grow(store, asked):
    work(store, asked)
    folders = [store.local, *(path for path in store.local.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert inventory.take(store, *asked).missing == []
        with pytest.raises(PermissionError):
            store.write("x", b"")
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_the_status_of_a_run_writes_nothing(store, asked, capsys, monkeypatch):
    """So a run on a store that is read-only can be looked at."""
    work(store, asked)
    store.write(layout.SPEC, SMALL.encode())
    monkeypatch.setattr(Store, "write", lambda *_: pytest.fail("written"))
    assert status([str(store)]) == 0
    assert "2/2 members trained" in capsys.readouterr().out
