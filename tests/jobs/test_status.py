"""What a run has done, told from storage alone: at its beginning, in the middle, and at its end."""

import shutil

import pytest
import yaml

from jobs.command import guarded
from jobs.lock import Lock
from jobs.status import act, describe, status
from salcore import inventory, layout, open
from salcore.data import load
from salcore.explain import Explainer
from salcore.member_files import CHECKPOINT, fail, train_member
from salcore.members import plan
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


def lines(store):
    return describe(open(store.uri)).splitlines()


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
        "train    1/3 members trained",
        "         member 1 has a checkpoint",
        "         member 2 failed: the training loss is nan in epoch 2",
    ]
    assert found[5:7] == ["explain  gradient: 2/3 shards, not reduced", "explain  cam: 2/2 shards, not reduced"]


def test_files_that_are_being_written_do_not_count(run):
    spec, data, members, store = run
    train_member(members[0], data, store)
    Explainer(spec, data, members[:1], store).explain(inventory.take(store, spec, data, members[:1]).missing[0])
    before = lines(store)
    store.write(f"members/0000/.tmp-00-{CHECKPOINT}", b"half")
    store.write(f"{layout.maps_folder('gradient', 0)}/.tmp-00-part-00001.arrow", b"half")
    assert lines(store) == before


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
