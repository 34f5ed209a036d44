"""`ensemble.until` on a real cluster: a run that stops is the beginning of one that does not, bit for bit."""

import contextlib
import json
import shutil

import pytest
import torch
import yaml

import salcore
from jobs.command import read
from jobs.ensemble import ensemble as ensemble_command
from jobs.explain import explain as explain_command
from jobs.outlook import describe, map_shapes
from jobs.prepare import prepare
from jobs.status import status as status_command
from jobs.tracking import client
from jobs.train import train as train_command
from salcore import layout, until
from salcore.member_files import fail, train_member
from salcore.storage import Store
from tests.run_files import assert_same_statistics, files, weights

METHODS = ("gradient", "cam")
TINY = """
name: tiny
data: {name: digits, train_samples: 100, eval_samples: 20}
model: {name: small_cnn, width: 4, norm: batch, dropout: 0.3}
ensemble: {members: 6}
training: {epochs: 1, batch_size: 32}
cluster: {slots: 2}
attribution: {batch_size: 8, shard_samples: 12, methods: [gradient, {name: gradcam, as: cam, samples: 11}]}
"""
UNTIL = "ensemble.until={width: 0.16, first: 3, step: 2}"
"""The interval of these members is about 0.22 wide for 3 of them, 0.12 for 5."""
TRAINED = "of 1 threads"
"""Said where any member is trained."""


@pytest.fixture(scope="module")
def tiny(place):
    (place / "tiny.yaml").write_text(TINY)
    return "tiny.yaml"


@pytest.fixture(scope="module")
def full(ensemble, tiny, place, tmp_path_factory):
    """All 6 members, without until: trained here, one after the other, and explained and reduced at once."""
    folder = tmp_path_factory.mktemp("until") / "full"
    with contextlib.chdir(place):
        plan = prepare(read("ensemble", "", [tiny, "--run-dir", str(folder)]))
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.spec.training.threads)
    try:
        for member in plan.members:
            assert train_member(member, plan.data, plan.store).reason is None
    finally:
        torch.set_num_threads(threads)
    finished = ensemble(tiny, run_dir=folder)
    assert finished.status == 0
    assert TRAINED not in finished.err
    return folder


@pytest.fixture(scope="module")
def stopped(ensemble, tiny, tmp_path_factory):
    """A run in two slots that stops after its second look, and what it printed."""
    folder = tmp_path_factory.mktemp("until") / "stopped"
    return folder, ensemble(tiny, UNTIL, run_dir=folder)


@pytest.fixture
def from_full(full, tmp_path):
    return shutil.copytree(full, tmp_path / "run")


@pytest.fixture
def from_stopped(stopped, tmp_path):
    return shutil.copytree(stopped[0], tmp_path / "run")


def summary(run):
    """The summary's bytes: its NaNs are equal too."""
    return (run / layout.SUMMARY).read_bytes()


def assert_same_run(one, other):
    """Weights, maps, statistics and their summary, to the last bit."""
    assert weights(one) == weights(other)
    shards = sorted(path.relative_to(one) for path in one.glob("maps/*/*/part-*.arrow"))
    assert shards == sorted(path.relative_to(other) for path in other.glob("maps/*/*/part-*.arrow"))
    assert all((one / shard).read_bytes() == (other / shard).read_bytes() for shard in shards)
    assert_same_statistics(one, other, METHODS)
    assert summary(one) == summary(other)


def test_it_stops_at_the_look_whose_interval_is_narrow_enough(stopped):
    run, finished = stopped
    assert finished.status == 0, finished.err
    opened = salcore.open(run)
    assert opened.planned == len(opened.members) == len(weights(run)) == 5
    rounds = json.loads((run / until.FILE).read_text())["rounds"]
    assert [each["members"] for each in rounds] == [3, 5]
    wide, narrow = (each["high"] - each["low"] for each in rounds)
    assert narrow < 0.16 < wide
    row = opened.summary.to_pylist()[0]
    assert [row["snr"], row["snr_low"], row["snr_high"]] == [rounds[1][key] for key in ("value", "low", "high")]
    told = [line for line in finished.err.splitlines() if line.startswith("until ")]
    assert len(told) == 2
    assert told[0].startswith("until    3 members: SNR ")
    assert "0.16 asked, about " in told[0]
    assert told[1].endswith("narrower than the 0.16 asked")
    assert "not reached" not in finished.err
    assert "members  3 to 6 x small_cnn" in finished.out
    assert (run / layout.REPORT).is_file()


def test_it_is_the_beginning_of_the_whole_run_bit_for_bit(stopped, from_full, ensemble, tiny):
    """The first 5 of 6 that were trained at once; their statistics are those of a run of 5."""
    before = weights(from_full)
    assert before.items() > weights(stopped[0]).items()
    assert ensemble(tiny, "ensemble.members=5", run_dir=from_full).status == 0
    assert_same_statistics(stopped[0], from_full, METHODS)
    assert summary(from_full) == summary(stopped[0])
    for shard in stopped[0].glob("maps/*/*/part-*.arrow"):
        assert shard.read_bytes() == (from_full / shard.relative_to(stopped[0])).read_bytes()


def test_more_members_than_it_takes_may_lie_in_the_directory(stopped, from_full, ensemble, tiny):
    trained = weights(from_full)
    finished = ensemble(tiny, UNTIL, run_dir=from_full)
    assert finished.status == 0
    assert TRAINED not in finished.err
    assert weights(from_full) == trained
    assert salcore.open(from_full).members == (0, 1, 2, 3, 4)
    assert_same_statistics(stopped[0], from_full, METHODS)
    assert (from_full / until.FILE).read_bytes() == (stopped[0] / until.FILE).read_bytes()


def test_the_same_command_again_does_nothing_and_says_so(from_stopped, ensemble, tiny):
    before = files(from_stopped)
    finished = ensemble(tiny, UNTIL, run_dir=from_stopped)
    assert finished.status == 0
    assert finished.out.splitlines()[-1].endswith("is finished (5 members, enough for ensemble.until; at most 6)")
    assert files(from_stopped) == before


def test_interrupted_in_its_second_round_it_ends_the_same_in_one_slot(stopped, from_stopped, ensemble, tiny):
    store = Store(from_stopped)
    looks = store.read_json(until.FILE)
    store.write_json(until.FILE, {**looks, "rounds": looks["rounds"][:1]})
    for member in (3, 4):
        shutil.rmtree(from_stopped / "members" / f"{member:04d}")
        for folder in from_stopped.glob(f"maps/*/member={member:04d}"):
            shutil.rmtree(folder)
    (from_stopped / layout.SUMMARY).unlink()
    finished = ensemble(tiny, UNTIL, "cluster.slots=1", run_dir=from_stopped)
    assert finished.status == 0
    assert "train    2 members in 1 slots" in finished.err
    assert finished.err.count("\nuntil ") == 1, "the look that was taken is not taken again"
    assert_same_run(from_stopped, stopped[0])


def test_without_its_looks_it_takes_them_again_and_trains_nothing(stopped, from_stopped, ensemble, tiny):
    (from_stopped / until.FILE).unlink()
    (from_stopped / layout.SUMMARY).unlink()
    finished = ensemble(tiny, UNTIL, run_dir=from_stopped)
    assert finished.status == 0
    assert TRAINED not in finished.err
    assert (from_stopped / until.FILE).read_bytes() == (stopped[0] / until.FILE).read_bytes()
    assert_same_run(from_stopped, stopped[0])


def test_it_goes_on_to_all_members_without_until(full, from_stopped, ensemble, tiny):
    finished = ensemble(tiny, run_dir=from_stopped)
    assert finished.status == 0
    assert "train    1 members" in finished.err
    assert_same_run(from_stopped, full)


def test_what_all_members_do_not_reach_is_said_with_the_number_that_may(from_full, ensemble, tiny):
    asked = "ensemble.until={width: 0.001, method: cam, first: 3, step: 2}"
    for _ in range(2):  # of the finished run too
        finished = ensemble(tiny, asked, run_dir=from_full)
        assert finished.status == 0, "the maximum is what the user allowed"
        last = finished.err.splitlines()[-1]
        assert last.startswith("ensemble.until is not reached: 6 members: SNR ")
        assert "members projected, more than the at most 6 of ensemble.members" in last
    assert "nothing to do" in finished.out
    assert salcore.open(from_full).planned == 6
    looks = json.loads((from_full / until.FILE).read_text())
    assert looks["method"] == "cam"
    assert [each["members"] for each in looks["rounds"]] == [3, 5, 6]


def test_mlflow_has_the_members_that_were_trained(stopped, place):
    ids = json.loads((stopped[0] / "mlflow.json").read_text())
    mlflow = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    parent = mlflow.get_run(ids["parent_run_id"])
    assert parent.info.status == "FINISHED"
    steps = [point.step for point in mlflow.get_metric_history(parent.info.run_id, "snr/gradient")]
    assert min(steps) == 5, "copies of the run, which other tests go on with, add to the same history"
    assert len(ids["member_run_ids"]) == 5
    assert {mlflow.get_run(run).info.status for run in ids["member_run_ids"].values()} == {"FINISHED"}


def test_status_tells_the_look_that_settled_it(stopped, job):
    lines = job(status_command, stopped[0]).out.splitlines()
    assert "train    5/5 members trained" in lines
    [line] = [line for line in lines if line.startswith("until ")]
    assert line.startswith("until    5 members: SNR ")


# Without a cluster


@pytest.mark.parametrize("command", [train_command, explain_command])
def test_one_stage_alone_is_refused_until_the_number_is_settled(command, job, tiny, tmp_path):
    finished = job(command, tiny, UNTIL, "--run-dir", tmp_path / "run")
    assert finished.status == 2
    assert finished.err.startswith("error: ensemble.until: expected python -m jobs.ensemble")
    assert "ensemble.until=null" in finished.err
    assert not (tmp_path / "run").exists()


def test_one_stage_alone_is_of_the_members_that_were_settled(stopped, job):
    finished = job(train_command, stopped[0])
    assert finished.status == 0
    assert "is finished (5 members" in finished.out


def test_a_plan_tells_the_fewest_and_the_most(job, tiny, stopped, tmp_path):
    finished = job(ensemble_command, tiny, UNTIL, "--plan", "--run-dir", tmp_path / "run")
    assert finished.status == 0
    lines = finished.out.splitlines()
    assert any(line.startswith("members  3 to 6 x small_cnn") for line in lines)
    assert lines[3].startswith("until    the interval of the mean SNR of gradient is narrower than 0.16; looks begin")
    assert f"maps     at most {6 * (2 + 1)} shards" in finished.out
    assert " for 3 and " in lines[-1]
    assert " for 6 members on one slot" in lines[-1]
    plan = prepared(stopped[0])
    assert "members  5 x small_cnn" in (text := describe(plan, map_shapes(plan)))
    assert "narrower than 0.16: it is" in text


def prepared(run, *arguments):
    return prepare(read("ensemble", "", [str(run), *arguments]))


def test_a_method_that_the_run_has_not_is_refused(job, tiny, tmp_path):
    named = "ensemble.until={width: 0.16, method: gradcam}"
    finished = job(ensemble_command, tiny, named, "--run-dir", tmp_path / "run")
    assert finished.status == 2
    assert finished.err.startswith("error: ensemble.until.method: expected a folder name of attribution.methods")
    assert finished.err.count("\n") == 1


def test_another_until_decides_anew_on_the_looks_that_were_taken(from_stopped):
    assert len(prepared(from_stopped, "ensemble.until={width: 0.5, first: 3}").members) == 3
    assert len(prepared(from_stopped, "ensemble.until.width=0.15").members) == 5
    narrow = prepared(from_stopped, "ensemble.until.width=0.001")
    assert narrow.undecided
    assert narrow.decision.members == 6
    assert len(prepared(from_stopped, "ensemble.until=null").members) == 6
    assert prepared(from_stopped, "data.eval_samples=19").rounds == ()


def test_looks_without_a_failed_member_stand_until_it_is_trained(from_stopped):
    plan = prepared(from_stopped)
    shutil.rmtree(from_stopped / "members" / "0003")
    assert not prepared(from_stopped).undecided, "a member that was lost is made again, the same"
    fail(plan.store, plan.members[3], "nan", epoch=1, attempts=1)
    [kept] = prepared(from_stopped).rounds
    assert kept.members == 3
    without = [*plan.rounds[:1], until.Round(members=5, value=0.5, low=0.4, high=0.5, failed=(3,))]
    until.write(plan.store, plan.spec, plan.fingerprint, without)
    assert len(prepared(from_stopped).members) == 5
    again = prepared(from_stopped, "--retry-failed")
    assert again.undecided
    assert [each.members for each in again.rounds] == [3]


def test_a_run_that_borrows_the_members_has_those_there_are(from_stopped):
    store = prepared(from_stopped).store
    store.write(layout.BORROWED, yaml.safe_dump({"ensemble_of": "elsewhere"}).encode())
    plan = prepared(from_stopped)
    assert [member.index for member in plan.members] == [0, 1, 2, 3, 4]
    assert (plan.spec.ensemble.members, plan.spec.ensemble.until, plan.undecided) == (5, None, False)
