"""One trial on real digits, without Ray: what it leaves, what it reuses, and how it fails."""

import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

import salcore
from salcore import layout, members
from salcore.complete import complete
from salcore.data import load
from salcore.faithfulness import measure, over_members
from salcore.search import Setting, Trial, over, record, run
from salcore.search import trial as trials
from salcore.spec import parse
from salcore.storage import Store

TEXT = """
name: t
data: {name: digits, train_samples: 200, eval_samples: 50}
model: {name: small_cnn, width: 4}
ensemble: {members: 3}
training: {epochs: 2, batch_size: 32, learning_rate: 0.02}
attribution: {batch_size: 32, shard_samples: 20, methods: [gradient, {name: input_x_gradient, samples: 30}]}
"""
SETTING = Setting(mask_fraction=0.5, weight=1.0)


@pytest.fixture(scope="module")
def digits():
    return load(parse(TEXT).data)


@pytest.fixture(scope="module")
def trial(digits):
    """A function that begins a trial in a folder: its spec.yaml stands."""

    def begin(folder, setting=SETTING, *overrides):
        spec = complete(parse(TEXT, overrides))
        found = Trial.of(setting, spec, digits, Store(folder))
        marks = {"data": digits.digest, "member": members.recipe(found.spec, digits.digest)}
        found.store.write(layout.SPEC, yaml.safe_dump({**found.spec.to_dict(), "fingerprints": marks}).encode())
        return found, spec.search

    return begin


@pytest.fixture(scope="module")
def done(trial, digits, tmp_path_factory):
    """A finished trial, and what it yielded."""
    torch.set_num_threads(1)
    found, search = trial(tmp_path_factory.mktemp("done"))
    return found, search, list(run(found, search, digits))


@pytest.fixture
def copied(done, tmp_path):
    """The finished trial in another folder."""
    shutil.copytree(done[0].store.local, tmp_path / "trials" / done[0].name)
    return replace(done[0], store=Store(tmp_path / "trials" / done[0].name)), done[1]


def stamps(found, pattern="members/*/weights.safetensors"):
    return {str(path): path.stat().st_mtime_ns for path in found.store.local.glob(pattern)}


def test_the_folder_is_that_of_any_run(done):
    opened = salcore.open(done[0].store.uri)
    assert opened.members == (0, 1, 2)
    assert opened.methods == ("gradient", "input_x_gradient")
    assert opened.summary["samples"].to_pylist() == [50, 30]
    assert opened.spec.training.guidance.weight == 1.0


def test_the_record_is_what_the_run_says_by_other_ways(done, digits):
    found, _, (*_, last) = done
    opened = salcore.open(found.store.uri)
    labels, logits = opened.logits()
    accuracies = [float((member.argmax(1) == labels).mean()) for member in logits]
    assert [row.accuracy for row in last.members] == accuracies
    assert last.accuracy == over_members(accuracies)
    areas = measure(opened, "gradient", "accuracy_drop", data=digits).own
    assert tuple(row.faithfulness for row in last.members) == areas
    assert last.faithfulness == over_members(areas)
    assert last.snr_debiased.value == opened.summary["snr_debiased"][0].as_py()
    assert last.snr_debiased.low < last.snr_debiased.value < last.snr_debiased.high
    assert record.read(found.store) == last == over(found, digits)


def test_it_tells_of_every_member(done):
    assert [(len(each.members), each.state) for each in done[2]] == [(1, "stopped"), (2, "stopped"), (3, "finished")]
    assert math.isnan(done[2][0].faithfulness.value), "nothing is measured that nobody asks for"


def test_the_method_and_the_samples_of_the_measure_are_as_asked(trial, digits, copied):
    found, search = trial(
        copied[0].store.local.parents[1], SETTING, "search.method=input_x_gradient", "search.samples=10"
    )
    before = stamps(found)
    *_, last = run(found, search, digits)
    expected = measure(salcore.open(found.store.uri), "input_x_gradient", "accuracy_drop", data=digits, samples=10).own
    assert tuple(row.faithfulness for row in last.members) == expected
    assert stamps(found) == before, "members are those that were there"


def test_with_asha_it_is_compared_after_every_member_and_ends_with_the_same_numbers(trial, digits, done, tmp_path):
    found, search = trial(tmp_path, SETTING, "search.asha=true")
    *parts, last = run(found, search, digits)
    assert [len(each.scores) for each in parts] == [1, 2]
    assert last.scores == tuple(-each.faithfulness.value for each in (*parts, last))
    assert replace(last, scores=()) == done[2][-1]
    for count, part in enumerate(parts, 1):
        areas = [row.faithfulness for row in last.members[:count]]
        assert part.faithfulness.value == pytest.approx(np.mean(areas))


def test_standard_training_is_not_compared_with_itself(trial, digits, tmp_path):
    found, search = trial(tmp_path, None, "search.asha=true", "ensemble.members=2")
    assert [each.scores for each in run(found, search, digits)] == [(), ()]


def test_a_trial_that_was_broken_off_goes_on_and_trains_nobody_twice(trial, digits, done, tmp_path):
    found, search = trial(tmp_path)
    first = run(found, search, digits)
    next(first)
    first.close()
    assert record.read(found.store) is None
    before = stamps(found)
    assert len(before) == 1
    *_, last = run(found, search, digits)
    assert last == done[2][-1]
    assert before.items() <= stamps(found).items()


def test_more_members_are_added_to_those_that_are_there(trial, digits, done, copied):
    grown, search = trial(copied[0].store.local.parents[1], SETTING, "ensemble.members=4")
    assert over(grown, digits) is None
    before = stamps(grown)
    *_, last = run(grown, search, digits)
    assert last.members[:3] == done[2][-1].members
    assert len(last.members) == 4
    assert before.items() <= stamps(grown).items()


@pytest.mark.parametrize("file", ["members/0001/weights.safetensors", "maps/gradient/member=0001/part-00001.arrow"])
@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_damaged_trial_is_not_over_and_is_mended(copied, digits, done, file, damage):
    found, search = copied
    path = found.store.local / file
    path.unlink() if damage == "gone" else os.truncate(path, 100)
    assert over(found, digits) is None
    *_, last = run(found, search, digits)
    assert last == done[2][-1]
    assert over(found, digits) == last


def test_weights_that_somebody_altered_fail_the_trial_by_name(copied, digits):
    found, search = copied
    path = found.store.local / "members/0001/weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shutil.rmtree(found.store.local / "maps/gradient/member=0001")
    *_, last = run(found, search, digits)
    assert last.state == "failed"
    assert "was altered" in last.reason


def test_a_member_that_diverges_fails_its_trial(trial, digits, tmp_path):
    found, search = trial(tmp_path, Setting(mask_fraction=0.5, weight=1e40))
    *_, last = run(found, search, digits)
    assert (last.state, last.members) == ("failed", ())
    assert last.reason.startswith("member 0: the ")
    assert over(found, digits) == last == record.read(found.store)


def test_storage_that_fails_is_not_the_trial_s_fault(trial, digits, tmp_path, monkeypatch):
    found, search = trial(tmp_path)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(Store, "write_parquet", full)
    with pytest.raises(OSError, match="No space"):
        list(run(found, search, digits))
    assert record.read(found.store) is None


def test_a_gpu_that_fails_is_not_the_trial_s_fault(trial, digits, tmp_path, monkeypatch):
    """It takes no more work of this process: the trials that follow would all fail by it."""
    found, search = trial(tmp_path)

    def dead(*_, **__):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(trials, "train_member", dead)
    with pytest.raises(torch.AcceleratorError):
        list(run(found, search, digits))
    assert record.read(found.store) is None


def test_the_fingerprint_is_of_all_that_the_record_follows_from(trial, digits, tmp_path):
    def of(*overrides, setting=SETTING):
        return trial(tmp_path, setting, *overrides)[0].fingerprint

    same = ("search.seed=3", "search.objectives=accuracy", "search.asha=true", "search.accuracy_drop_at_most=null",
            "cluster.slots=1", "name=other", "search.method=gradient")  # fmt: skip
    assert {of(override) for override in same} == {of()}
    others = ("ensemble.members=2", "training.epochs=1", "attribution.target=3", "search.samples=9",
              "search.faithfulness=deletion", "search.method=input_x_gradient")  # fmt: skip
    found = [of(), of(setting=None), of(setting=Setting(mask_fraction=0.5, weight=2.0)), *map(of, others)]
    assert len({*found}) == len(found)
