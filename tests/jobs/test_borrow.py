"""A finished ensemble that explains other images: what is refused, and when its members are copied. Without Ray."""

import json

import numpy as np
import pytest
from PIL import Image

import salcore
from jobs.borrow import borrow
from jobs.command import read
from jobs.explain import explain
from jobs.prepare import begin, prepare
from salcore.borrowed import is_borrowed
from salcore.errors import UserError
from salcore.member_files import fail, train_member
from tests.run_files import files, weights

SPEC = """
data: {name: digits, train_samples: 60, eval_samples: 20}
model: {width: 2}
training: {epochs: 0}
attribution: {methods: [gradient]}
"""


@pytest.fixture
def ensemble(tmp_path, monkeypatch):
    """A function that makes a run: its members are trained, but for those that are left out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "pictures" / "one.png")

    def make(name, members, *, root_seed=0, left_out=()):
        overrides = [f"ensemble.members={members}", f"ensemble.root_seed={root_seed}"]
        plan = prepare(read("ensemble", "", ["spec.yaml", *overrides, "--run-dir", name]))
        begin(plan)
        for member in plan.members:
            if member.index not in left_out:
                train_member(member, plan.data, plan.store)
        return plan

    return make


def asked(run, *switches, new="new"):
    return read("explain", "", [run, "data=folder:pictures", "--run-dir", new, *switches])


def test_a_plan_copies_nothing(ensemble, tmp_path, capsys):
    ensemble("a", 2)
    assert explain(["a", "data=folder:pictures", "--run-dir", "new", "--plan"]) == 0
    assert f"those of {tmp_path / 'a'}; 2 to copy" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_members_are_copied_when_the_run_begins(ensemble, tmp_path):
    ensemble("a", 2)
    plan = borrow(asked("a"))
    assert not (tmp_path / "new").exists()
    begin(plan)
    assert is_borrowed(plan.store)
    assert weights(tmp_path / "new") == weights(tmp_path / "a")
    assert salcore.open("new").members == (0, 1)
    assert plan.trained() == list(plan.members)
    assert prepare(read("reduce", "", ["new"])).fingerprint == plan.fingerprint, "it stands on its own"


def test_a_run_that_grew_brings_its_new_members_alone(ensemble, tmp_path):
    ensemble("a", 2)
    begin(borrow(asked("a")))
    before = files(tmp_path / "new" / "members" / "0001")
    ensemble("a", 3)
    begin(borrow(asked("a")))
    assert weights(tmp_path / "new") == weights(tmp_path / "a")
    assert len(weights(tmp_path / "new")) == 3
    assert files(tmp_path / "new" / "members" / "0001") == before


def test_a_copy_that_was_interrupted_is_not_taken_for_a_member_of_another_run(ensemble, tmp_path):
    ensemble("a", 2)
    ensemble("b", 2, root_seed=1)
    begin(borrow(asked("a")))
    for name in ("spec.yaml", "members/ensemble.yaml", "members/0000/member.json", "members/0001/member.json"):
        (tmp_path / "new" / name).unlink()
    begin(borrow(asked("b")))
    assert weights(tmp_path / "new") == weights(tmp_path / "b")


@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_directory_of_another_ensemble_is_refused(ensemble, tmp_path, capsys, members):
    ensemble("a", 2)
    ensemble("b", members, root_seed=1)
    second = borrow(asked("b"))  # planned before the first one begins
    begin(borrow(asked("a")))
    before = files(tmp_path / "new")
    for switches in ([], ["--plan"]):
        assert explain(["b", "data=folder:pictures", "--run-dir", "new", *switches]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: --run-dir: expected a new folder; {tmp_path / 'new'} holds members that are")
        assert told.count("\n") == 1
    with pytest.raises(UserError, match="holds members that are not those of"):
        begin(second)
    assert files(tmp_path / "new") == before


def test_a_run_whose_members_are_not_all_trained_is_refused(ensemble, tmp_path):
    plan = ensemble("a", 3, left_out=[1])
    with pytest.raises(UserError, match=r"RUN: expected a finished run, .* 1 of 3 are not trained yet"):
        borrow(asked("a"))
    assert not (tmp_path / "new").exists()
    fail(plan.store, plan.members[1], "nan", epoch=1, attempts=1)
    begin(borrow(asked("a")))
    assert salcore.open("new").members == (0, 2)
    begin(borrow(asked("new", new="newer")))
    assert sorted(weights(tmp_path / "newer")) == ["0000", "0002"]
    assert json.loads((tmp_path / "newer" / "members" / "0002" / "member.json").read_text())["index"] == 2
