"""What a run has done, told from storage alone: at its beginning, in the middle, and at its end."""

import os
import shutil
import time
from datetime import UTC, datetime

import psutil
import pyarrow as pa
import pytest
import yaml

from jobs.command import guarded
from jobs.lock import STALE_S, Holder, Lock
from jobs.status import act, describe, status
from salcore import inventory, layout, open
from salcore.data import load
from salcore.explain import Explainer
from salcore.layout import member_file
from salcore.member_files import CHECKPOINT, FAILED, HISTORY, RECORD, WEIGHTS, fail, train_member
from salcore.members import plan
from salcore.search import Record, record
from salcore.spec import parse
from salcore.storage import Store

SMALL = """
data: {name: digits, train_samples: 100, eval_samples: 21}
model: {width: 4}
ensemble: {members: 3}
training: {epochs: 2, batch_size: 32}
attribution: {shard_samples: 8, batch_size: 8, methods: [gradient, {name: gradcam, as: cam, samples: 11}]}
"""


@pytest.fixture
def run(tmp_path):
    """A run of three members that has only begun: spec, data, members, store."""
    spec = parse(SMALL)
    data = load(spec.data)
    store = Store(tmp_path / "run")
    store.write(layout.SPEC, yaml.safe_dump(spec.to_dict()).encode())
    return spec, data, plan(spec, data.digest), store


NOW = 1_760_000_000.0


def lines(store, now=None):
    return describe(open(store.uri), now or time.time()).splitlines()


def stamp(seconds):
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat(timespec="milliseconds")


def drive(store, seconds, **changes):
    """Lock a run as a driver that began so many seconds from NOW."""
    holder = Holder.here().model_copy(update={"started": stamp(seconds), **changes})
    store.write(layout.LOCK, holder.model_dump_json().encode())


def log(store, slot, *events):
    """The log of a slot, from (seconds from NOW, what is told)."""
    text = "".join(f"{stamp(seconds)} {line}\n" for seconds, line in events)
    store.write(f"logs/train-slot-{slot}.log", text.encode())


def train(member, begins, *ends, process="process 7 on node-1, 1 threads"):
    """What a slot tells of a member and the ends of its epochs."""
    epochs = [(end, f"member {member} {{'epoch': {number}}}") for number, end in enumerate(ends, 1)]
    return [(begins, process), (begins, f"member {member} begins"), *epochs]


def trained(store, member, epochs):
    """Epochs of a member that is in training, on storage."""
    store.write_parquet(member_file(member, HISTORY), pa.table({"epoch": range(epochs), "seconds": [1.0] * epochs}))
    store.write(member_file(member, CHECKPOINT), b"state")


def test_at_the_beginning_nothing_is_done(run):
    _, _, _, store = run
    assert lines(store) == [
        f"run      {store}",
        "driver   none",
        "train    0/3 members trained",
        "explain  gradient: 0/0 shards, not reduced",
        "explain  cam: 0/0 shards, not reduced",
        "report   not written",
    ]


def test_in_the_middle_every_member_and_method_says_where_it_is(run):
    spec, data, members, store = run

    def stop(record):
        raise KeyboardInterrupt

    train_member(members[0], data, store)
    with pytest.raises(KeyboardInterrupt):
        train_member(members[1], data, store, on_epoch=stop)
    fail(store, members[2], "the training loss is nan in epoch 2", epoch=2, attempts=1)
    worker = Explainer(spec, data, members[:1], store)
    for item in inventory.take(store, spec, data, members[:1]).missing[:2]:
        worker.explain(item)
    with Lock(store):
        found = lines(store)
    assert found[1].startswith("driver   process ")
    assert found[2:5] == [
        "train    1/3 members trained, 1 failed",
        "         member 1 has a checkpoint",
        "         member 2 failed: the training loss is nan in epoch 2",
    ]
    assert found[5:7] == ["explain  gradient: 2/3 shards, not reduced", "explain  cam: 2/2 shards, not reduced"]


def resize(store, members, epochs):
    spec = parse(SMALL, [f"ensemble.members={members}", f"training.epochs={epochs}"])
    store.write(layout.SPEC, yaml.safe_dump(spec.to_dict()).encode())


def test_who_is_in_training_where_how_fast_and_how_long_still(run):
    *_, store = run
    resize(store, members=7, epochs=4)
    store.write(member_file(0, RECORD), b"{}")
    drive(store, -100)
    before = train(5, -900, -800)  # in a slot of an earlier driver, much slower
    first = train(0, -75, -65, -55, -45, -35), (-33, "member 0 is trained"), train(1, -30, -21, -13)
    log(store, 0, *before, *first[0], first[1], *first[2])
    log(store, 1, *train(2, -50, -30, -10, process="process 8 on node-2, 1 threads"))
    trained(store, 1, 2)
    trained(store, 2, 2)
    trained(store, 5, 1)
    # Slot 0 took 40 + 2 + 17 s for 6 epochs, and is 13 s in the next: 59 + (13 - 59 / 6) = 62.1667 s. Slot 1: 20 s.
    one, other = (59 + 13 - 59 / 6) / 6, 20.0
    rate = 3600 * (1 / (4 * one) + 1 / (4 * other))
    # Slot 0 is free after 2 epochs less 13 s, slot 1 after 2 less 10 s; then each takes two of the four that wait.
    left = max(2 * one - 13, 2 * other - 10) + 2 * 4 * (one + other) / 2
    found = lines(store, NOW)
    assert found[2:6] == [
        f"train    1/7 members trained, 2 in training, {rate:.3g} members/h, "
        f"{int(round(left) // 60)}:{round(left) % 60:02d} left",
        "         member 1 in training, 2/4 epochs done, in slot 0, process 7 on node-1",
        "         member 2 in training, 2/4 epochs done, in slot 1, process 8 on node-2",
        "         member 5 has a checkpoint",
    ]


def test_before_the_first_epoch_there_is_no_rate(run):
    *_, store = run
    drive(store, -100)
    log(store, 0, *train(0, -30))
    assert lines(store, NOW)[2:4] == [
        "train    0/3 members trained, 1 in training",
        "         member 0 in training, 0/2 epochs done, in slot 0, process 7 on node-1",
    ]


def test_of_a_driver_that_died_there_is_what_it_was_at_and_no_rate(run):
    *_, store = run
    log(store, 0, *train(0, -75, -65))
    log(store, 1, *train(1, -75, -65), (-64, "member 1 failed: the training loss is nan"))
    log(store, 2, *train(0, -60, -50))  # which had taken it over
    trained(store, 0, 1)
    told = [
        "train    0/3 members trained",
        "         member 0 was in training after 1/2 epochs, in slot 2, process 7 on node-1; "
        "last heard of at 2025-10-09T08:52:30Z",
    ]
    assert lines(store, NOW)[1:4] == ["driver   none", *told]
    gone = next(pid for pid in range(2, 1 << 22) if not psutil.pid_exists(pid))
    drive(store, -100, pid=gone)
    died = lines(store, NOW)
    assert died[1].startswith(f"driver   none: process {gone} on ")
    assert died[1].endswith("has died")
    assert died[2:4] == told
    drive(store, -100, host="elsewhere")
    for age, alive in ((STALE_S + 1, False), (STALE_S - 1, True)):
        os.utime(store.local / layout.LOCK, (NOW - age, NOW - age))
        assert ("died" in lines(store, NOW)[1]) != alive
        assert ("members/h" in lines(store, NOW)[2]) == alive


def test_a_member_that_was_given_up_after_its_slot_died_is_not_in_training(run):
    *_, store = run
    drive(store, -100)
    log(store, 0, *train(0, -75, -65))
    store.write_json(member_file(0, FAILED), {"reason": "its slot died 3 times", "fingerprint": ""})
    for seconds, in_training in ((-60, False), (-90, True)):  # in the latter case it is tried again
        os.utime(store.local / member_file(0, FAILED), (NOW + seconds, NOW + seconds))
        assert ("1 in training" in lines(store, NOW)[2]) == in_training


def test_how_fast_shards_are_made_since_the_driver_began(run):
    *_, store = run
    store.write(member_file(0, RECORD), b"{}")
    store.write(member_file(1, RECORD), b"{}")
    names = [f"{layout.maps_folder('gradient', member)}/{layout.part_file(part)}" for member in (0, 1)
             for part in range(3)]  # fmt: skip
    for name, seconds in zip(names[:5], (-5000, -40, -30, -20, -10), strict=True):
        store.write(name, b"shard")
        os.utime(store.local / name, (NOW + seconds, NOW + seconds))
    told = ["explain  gradient: 5/6 shards, not reduced", "explain  cam: 0/4 shards, not reduced"]
    drive(store, -100)
    assert lines(store, NOW)[3:6] == [*told, "explain  6 shards/min, 0:50 left"]
    assert lines(store, NOW + 50)[5] == "explain  2.25 shards/min, 2:13 left", "none was made for 60 s: 80 s for 3"
    drive(store, -35)
    assert lines(store, NOW)[5] == "explain  6 shards/min, 0:50 left"
    drive(store, -15)
    assert lines(store, NOW)[3:] == [*told, "report   not written"]
    store.delete(layout.LOCK)
    assert lines(store, NOW)[3:] == [*told, "report   not written"]


def test_long_logs_are_read_from_their_end(run):
    *_, store = run
    drive(store, -200_000)
    long = train(0, -100_000, *range(-99_000, -9_000, 10))  # 9,000 epochs, and nobody knows where it began
    log(store, 0, *long)
    resize(store, members=3, epochs=10_000)
    trained(store, 0, 9_000)
    assert "member 0 in training, 9000/10000 epochs done, in slot 0, process 7 on node-1" in lines(store, NOW)[3]
    log(store, 0, *long, (-8000, "member 0 is trained"), *train(1, -7_000, *range(-6_000, -1_000, 10)))
    assert "member 1 in training, 0/10000 epochs done" in lines(store, NOW)[3]
    store.write("logs/train-slot-0.log", b"")
    assert lines(store, NOW)[2] == "train    0/3 members trained"


def test_ten_thousand_members_are_told_without_opening_a_file_of_each(run, monkeypatch):
    *_, store = run
    resize(store, members=10_000, epochs=2)
    for member in range(500):
        folder = store.local / layout.member_folder(member)
        folder.mkdir(parents=True)
        for name in (RECORD, WEIGHTS, HISTORY):
            (folder / name).touch()
    drive(store, -100)
    log(store, 0, *train(500, -75, -65))
    trained(store, 500, 1)
    opened = []
    for name in ("read", "open"):
        whole = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda self, path, whole=whole: opened.append(path) or whole(self, path))
    assert "500/10000 members trained, 1 in training" in lines(store, NOW)[2]
    assert {path for path in opened if path.startswith("members")} == {member_file(500, HISTORY)}
    assert len(opened) < 20


def test_files_that_are_being_written_do_not_count(run):
    spec, data, members, store = run
    train_member(members[0], data, store)
    Explainer(spec, data, members[:1], store).explain(inventory.take(store, spec, data, members[:1]).missing[0])
    before = lines(store)
    store.write(f"members/0000/.tmp-00-{CHECKPOINT}", b"half")
    store.write(f"{layout.maps_folder('gradient', 0)}/.tmp-00-part-00001.arrow", b"half")
    assert lines(store) == before


def test_of_a_search_every_trial_is_told(run):
    spec, *_, store = run
    text = yaml.safe_dump({**spec.to_dict(), "fingerprints": {"search": "mark"}}).encode()
    store.write(layout.SPEC, text)
    for name, state, reason in (("k0.5", None, None), ("standard", "finished", None), ("wild", "failed", "nan")):
        trial = store.child(f"trials/{name}")
        trial.write(layout.SPEC, yaml.safe_dump(spec.to_dict()).encode())
        trial.write(member_file(0, RECORD), b"{}")
        if state is not None:
            record.write(trial, Record(name=name, setting=None, fingerprint="mark", state=state, reason=reason))
    assert lines(store)[1:] == [
        "driver   none",
        "trial    k0.5: 1/3 members trained, not over",
        "trial    standard: 1/3 members trained, finished",
        "trial    wild: 1/3 members trained, failed: nan",
        "report   not written",
    ]


def test_the_report_is_shown_where_it_is(run):
    *_, store = run
    store.write(layout.REPORT, b"<html>")
    assert lines(store)[-1] == f"report   {store.path(layout.REPORT)}"


def test_the_command_prints_it_and_changes_nothing(run, capsys, tmp_path):
    *_, store = run
    before = store.files()
    assert status([str(store)]) == 0
    assert capsys.readouterr().out.splitlines() == lines(store)
    assert store.files() == before
    shutil.rmtree(tmp_path / "run")
    assert status([str(store)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_wrong_command_line_is_told_in_one_line(capsys):
    assert guarded("status", act, []) == 2
    assert capsys.readouterr().err.count("\n") == 1
