"""The store: files appear whole or not at all, and whatever fails leaves nothing behind."""

import json
import os
import pickle
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from salcore.errors import UserError
from salcore.storage import TEMPORARY, Store, is_remote

ODD_NAMES = ["plain", "with space", "hash#and?mark", "percent%20", "ümlaut", "a=b"]


@pytest.fixture(params=["path", "uri"])
def store(request, tmp_path):
    folder = tmp_path / "run"
    return Store(folder if request.param == "path" else folder.as_uri())


def everything(store):
    return sorted(path.relative_to(store.local).as_posix() for path in store.local.rglob("*") if path.is_file())


def test_a_file_comes_back_with_its_bytes_and_its_size(store):
    store.write("a/b/c.bin", b"\x00\xff" * 9)
    assert store.read("a/b/c.bin") == b"\x00\xff" * 9
    assert store.open("a/b/c.bin").read() == b"\x00\xff" * 9
    info = store.info("a/b/c.bin")
    assert (info.size, info.mtime_ns) == (18, (store.local / "a/b/c.bin").stat().st_mtime_ns)


def test_buffers_and_empty_files_are_written(store):
    store.write("buffer", pa.py_buffer(b"abc"))
    store.write("empty", b"")
    assert (store.read("buffer"), store.read("empty")) == (b"abc", b"")


def test_what_is_not_there(store):
    assert store.info("no") is None
    assert not store.exists("no/such/file")
    assert store.files() == store.files("no/folder") == {}
    store.delete("no/such/file")
    for read in (store.read, store.open, store.read_json):
        with pytest.raises(FileNotFoundError):
            read("no/such/file")


def test_files_are_listed_below_a_prefix_in_order_of_name(store):
    names = ["b/2", "a", "b/10", "b/c/d", "Z", "bb"]
    for name in names:
        store.write(name, b"x" * len(name))
    assert list(store.files()) == sorted(names)
    assert list(store.files("b")) == ["b/10", "b/2", "b/c/d"]
    assert {name: info.size for name, info in store.files().items()} == {name: len(name) for name in names}
    assert store.info("b") is None  # a folder is no file


def test_a_reader_never_sees_a_file_half_written(store):
    size, stop, seen = 300_000, threading.Event(), []

    def write():
        for version in range(60):
            store.write("shard", bytes([version]) * (size + version))
        stop.set()

    store.write("shard", b"\x00" * size)
    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        content = store.read("shard")
        assert set(content) == {content[0]}
        assert len(content) == size + content[0]
        seen.append(content[0])
        assert "shard" in store.files()  # the temporary files that come and go meanwhile do not disturb a listing
    writer.join()
    assert seen == sorted(seen)
    assert everything(store) == ["shard"]


def test_a_memory_map_keeps_the_content_it_was_opened_with(store):
    store.write("shard", b"old" * 1000)
    mapped = store.open("shard")
    store.write("shard", b"new!" * 1000)
    assert mapped.read() == b"old" * 1000
    assert store.read("shard") == b"new!" * 1000


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(store, monkeypatch, failing):
    store.write("file", b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        store.write("file", b"new")
    assert store.read("file") == b"old"
    assert everything(store) == ["file"]


def test_data_that_cannot_be_written_leaves_nothing(store):
    with pytest.raises(TypeError):
        store.write("file", "not bytes")
    assert everything(store) == []


def test_creating_is_exclusive_among_threads(store):
    threads, winners, gate = [], [], threading.Barrier(12)

    def create(number):
        gate.wait()
        if store.create("run.lock", b"%d" % number):
            winners.append(number)

    for number in range(12):
        threads.append(threading.Thread(target=create, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert store.read("run.lock") == b"%d" % winners[0]
    assert not store.create("run.lock", b"late")
    assert everything(store) == ["run.lock"]


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="file"):
        store.write("a", b"")
    with pytest.raises(OSError, match="file"):
        store.create("a", b"")


def test_json_and_parquet_come_back(store):
    value = {"b": [1, 2.5, None], "a": {"ü": True}}
    store.write_json("value.json", value)
    assert store.read_json("value.json") == value
    assert json.loads(store.read("value.json")).items() >= value.items()
    store.write_json("value.json", dict(reversed(value.items())))
    assert list(store.read_json("value.json")) == ["a", "b"]
    table = pa.table({"epoch": [1, 2], "loss": [0.5, float("inf")]})
    store.write_parquet("history.parquet", table)
    assert store.read_parquet("history.parquet") == table


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_broken_json_is_named(store, content):
    store.write("members/0001/member.json", content)
    with pytest.raises(ValueError, match=r"members/0001/member\.json is not JSON"):
        store.read_json("members/0001/member.json")


def test_relative_paths_mean_the_folder_they_were_given_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store, above = Store("runs/x"), Store("../above")
    monkeypatch.chdir(tmp_path)
    store.write("a", b"1")
    above.write("b/c", b"2")
    assert (tmp_path / "here/runs/x/a").read_bytes() == b"1"
    assert (tmp_path / "above/b/c").read_bytes() == b"2"
    assert list(above.files()) == ["b/c"]


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Store("~/runs/x").write("a", b"1")
    assert (tmp_path / "runs/x/a").read_bytes() == b"1"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_folders_of_any_name_work(tmp_path, name):
    store = Store(tmp_path / name / "")
    store.write(f"{name}/file {name}", b"1")
    assert list(store.files()) == [f"{name}/file {name}"]
    assert store.child(name).read(f"file {name}") == b"1"
    assert Store(store.uri).read(f"{name}/file {name}") == b"1"
    assert store.local == tmp_path / name
    assert str(store) == str(tmp_path / name)
    assert store.path("a") == f"{tmp_path / name}/a"


def test_stores_travel_between_processes(store):
    store.write("a", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again.read("a") == b"1"
    assert (again.uri, str(again), again.local) == (store.uri, str(store), store.local)


@pytest.mark.parametrize("uri", ["nosuch://bucket/run", "://x"])
def test_a_uri_that_nothing_opens_is_the_users_mistake(uri):
    with pytest.raises(UserError, match="--run-dir"):
        Store(uri)


def test_uris_are_told_from_paths():
    assert is_remote("s3://bucket/run")
    assert not is_remote("/a/b")
    assert not is_remote(Path("runs/x"))


def test_temporary_names_are_recognisable(store, monkeypatch):
    names = []
    monkeypatch.setattr(os, "fsync", lambda _: names.extend(everything(store)))
    store.write("folder/file", b"x")
    assert len(names) == 1
    assert names[0].startswith(f"folder/{TEMPORARY}")


def test_an_object_store_needs_a_bucket(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(UserError, match="a bucket and a folder in it"):
        Store("s3://")


def test_an_object_store_is_asked_once_for_all_files_of_a_folder(tmp_path, monkeypatch):
    store = Store(tmp_path)
    for name in ("members/0000/member.json", "members/0001/failed.json", "membership.txt"):
        store.write(name, name.encode())
    assert store.snapshot("members") is store, "a local disk answers as fast as it lists"
    store._local = False  # what follows goes through pyarrow, as S3 does
    found = store.snapshot("members")
    asked = []
    monkeypatch.setattr(Store, "info", lambda _, name: asked.append(name))
    monkeypatch.setattr(Store, "exists", lambda _, name: asked.append(name))
    assert found.info("members/0000/member.json").size == len("members/0000/member.json")
    assert found.info("members/0002/member.json") is None
    assert found.exists("members/0001/failed.json")
    assert not found.exists("members/0000/failed.json")
    assert asked == []
    found.info("membership.txt")
    assert asked == ["membership.txt"]
    assert found.read("members/0000/member.json") == b"members/0000/member.json"
