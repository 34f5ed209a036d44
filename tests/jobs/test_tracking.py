import csv
import itertools
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from jobs import searches, table_forwarding
from jobs.forwarding import PARENT, REASON, Ending, Tracked
from jobs.records import MAY_CHANGE, VALUE_LIMIT, settings
from jobs.tracking import Server, Tracker, client, forwarder_of, tracking_uri
from jobs.trial_forwarding import STATE, TrialForwarder
from salcore import layout
from salcore.errors import UserError
from salcore.layout import member_file
from salcore.member_files import FAILED, HISTORY, RECORD
from salcore.members import plan, recipe
from salcore.search import Record, Setting, Trial, fail, record
from salcore.spec import describe, parse
from salcore.storage import Store

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = itertools.count()
DIGEST = "digest of the data"

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated",  # MLflow's own use of SQLAlchemy
)


class Fault(Exception):
    pass


class Faulty:
    """A client whose n-th calls fail: before they reach the server, or after it did the work and its answer is lost."""

    def __init__(self, inner, faults):
        self.inner, self.faults, self.calls = inner, faults, 0

    def __getattr__(self, name):
        method = getattr(self.inner, name)

        def call(*args, **kwargs):
            number, self.calls = self.calls, self.calls + 1
            fault = self.faults.get(number)
            if fault == "before":
                raise Fault(name)
            result = method(*args, **kwargs)
            if fault == "after":
                raise Fault(name)
            return result

        return call


class Scene:
    """A run directory that is written as workers would, and what MLflow has of it in an experiment of its own."""

    def __init__(self, uri, folder, members=2, text="{}"):
        self.uri, self.client = uri, client(uri)
        self.name = f"scene_{next(NUMBERS)}"
        self.store = Store(folder / self.name)
        self.text = text
        self.resize(members)

    def resize(self, members, *overrides):
        self.spec = parse(self.text, [f"name={self.name}", f"ensemble.members={members}", *overrides])
        self.members = plan(self.spec, DIGEST)

    @property
    def tracked(self):
        fingerprint = recipe(self.spec, DIGEST)
        return Tracked(store=self.store, spec=self.spec, members=self.members, fingerprint=fingerprint, uri=self.uri)

    def forwarder(self, inner=None):
        return forwarder_of(Server(inner or self.client, self.uri), self.tracked)

    def tracker(self, **options):
        tracked = self.tracked
        return Tracker(
            self.store, self.spec, self.members, fingerprint=tracked.fingerprint, uri=self.uri, poll_s=0.05, **options
        )

    def train(self, index, epochs, seconds=0.5):
        rows = [
            {
                "epoch": epoch,
                "train_loss": 1 / epoch + index,
                "eval_loss": math.nan if epoch == 1 else 2 / epoch,
                "eval_accuracy": 1 - 1 / (epoch + 1),
                "learning_rate": 0.01,
                "seconds": seconds,
            }
            for epoch in range(1, epochs + 1)
        ]
        self.store.write_parquet(member_file(index, HISTORY), pa.Table.from_pylist(rows))

    def end(self, index, name=RECORD, reason=None):
        fingerprint = self.members[index].fingerprint
        self.store.write_json(member_file(index, name), {"fingerprint": fingerprint, "reason": reason})

    def runs(self):
        """(parent, children by name) as they stand."""
        experiment = self.client.get_experiment_by_name(self.name)
        runs = self.client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if PARENT not in run.data.tags]
        children = {run.info.run_name: run for run in runs if PARENT in run.data.tags}
        assert len(parents) == 1
        assert len(children) == len(runs) - 1
        assert {run.data.tags[PARENT] for run in children.values()} <= {parents[0].info.run_id}
        return parents[0], children

    def points(self, run, key):
        return sorted((point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key))

    def table(self):
        """(member, status, reason, epochs, training loss, seconds) of every row on the parent."""
        place = Path(self.runs()[0].info.artifact_uri.removeprefix("file://"), "members.csv")
        names = "member", "status", "reason", "epochs", "train_loss", "seconds"
        with place.open(newline="") as stream:
            return [tuple(row[name] for name in names) for row in csv.DictReader(stream)]

    def statuses(self):
        parent, children = self.runs()
        return parent.info.status, [children[name].info.status for name in sorted(children)]

    def assert_whole(self, epochs):
        """Every member stands once, with every finite value of every epoch once."""
        _, children = self.runs()
        assert sorted(children) == [f"member-{index:04d}" for index in range(len(self.members))]
        for index in range(len(self.members)):
            run, steps = children[f"member-{index:04d}"], range(1, epochs + 1)
            assert self.points(run, "train/loss") == [(step, 1 / step + index) for step in steps]
            assert self.points(run, "eval/loss") == [(step, 2 / step) for step in steps if step > 1]
            assert self.points(run, "eval/accuracy") == [(step, 1 - 1 / (step + 1)) for step in steps]
            assert self.points(run, "train/learning_rate") == [(step, 0.01) for step in steps]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def uri(folder):
    """A database in a file that is never flushed: thousands of commits would wait for the disk."""

    def hasten(connection, record):
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hasten)
    yield f"sqlite:///{folder}/deeper/mlflow.db"
    event.remove(Engine, "connect", hasten)


@pytest.fixture
def scene(uri, folder):
    return Scene(uri, folder)


RESULTS = Ending(status="FINISHED", metrics={"snr/gradient": 0.5, "ensemble/accuracy": math.nan})


def test_a_run_stands_as_promised(scene):
    scene.store.write(layout.SPEC, b"tracking: {uri: 'https://ann:secret@host'}")
    scene.store.write(layout.SUMMARY, b"rows")
    for index in (0, 1):
        scene.train(index, 3)
        scene.end(index)
    with scene.tracker() as tracker:
        assert tracker.ready()
        named = scene.store.read_json(layout.MLFLOW)
        assert tracker.finish(
            "FINISHED", metrics=RESULTS.metrics, artifacts=[layout.SPEC, layout.SUMMARY, layout.REPORT]
        )

    scene.assert_whole(3)
    parent, children = scene.runs()
    fingerprint = recipe(scene.spec, DIGEST)
    assert parent.info.run_name == f"{scene.name}-{fingerprint[:8]}"
    assert parent.info.run_id == named["parent_run_id"]
    assert parent.data.tags["salcore.fingerprint"] == fingerprint
    assert children["member-0001"].data.tags["salcore.fingerprint"] == scene.members[1].fingerprint
    assert scene.statuses() == ("FINISHED", ["FINISHED", "FINISHED"])
    assert parent.data.metrics == {"snr/gradient": 0.5}
    assert scene.points(parent, "snr/gradient") == [(2, 0.5)]
    assert scene.store.read_json(layout.MLFLOW)["member_run_ids"]["0001"] == children["member-0001"].info.run_id

    told = parent.data.params | {key: value for key, value in parent.data.tags.items() if key.startswith(MAY_CHANGE)}
    keys = {key for key, *_ in describe()} - {"attribution.methods.name"}
    # Sections that are not asked for are no part of a run.
    unasked = ("model.", "search.", "parameters", "sallm", "ensemble.until.")
    assert {key for key in keys if not key.startswith(unasked)} <= set(told)
    assert (parent.data.params["training.epochs"], parent.data.params["data.train_samples"]) == ("3", "null")
    assert parent.data.tags["ensemble.members"] == "2"

    artifacts = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(Path(scene.uri.removeprefix("sqlite:///")).parent / "mlartifacts" / scene.name)
    assert (artifacts / layout.SUMMARY).read_bytes() == b"rows"
    assert b"secret" not in (artifacts / layout.SPEC).read_bytes()
    assert not (artifacts / layout.REPORT).exists()


def test_specs_are_uploaded_without_the_password_of_the_server(scene):
    specs = (layout.SPEC, layout.CHOSEN)
    for name in specs:
        scene.store.write(name, b"tracking: {uri: 'https://ann:secret@host'}")
    scene.forwarder().forward(Ending(status="FINISHED", artifacts=searches.ARTIFACTS))
    artifacts = Path(scene.runs()[0].info.artifact_uri.removeprefix("file://"))
    assert [(artifacts / name).read_text() for name in specs] == ["tracking: {uri: 'https://host'}"] * 2


def test_the_times_of_epochs_are_those_of_training(scene):
    scene.train(0, 3)
    scene.forwarder().forward()
    run = scene.runs()[1]["member-0000"]
    times = [point.timestamp for point in scene.client.get_metric_history(run.info.run_id, "train/loss")]
    written = scene.store.info(member_file(0, HISTORY)).mtime_ns // 1_000_000
    assert times == [written - 1000, written - 500, written]
    assert run.info.start_time == written - 1500


def play(scene, faults):
    """A run of two members; after an error, as after a kill, comes a forwarder that knows nothing."""
    faulty = Faulty(scene.client, faults)
    forwarder = None

    def forward(ending=None):
        nonlocal forwarder
        while True:
            try:
                forwarder = forwarder or scene.forwarder(faulty)
                return forwarder.forward(ending)
            except Fault:
                forwarder = None

    scene.train(0, 1)
    forward()
    scene.train(0, 2)
    scene.end(0)
    scene.train(1, 1)
    forward()
    scene.end(1, FAILED, "the training loss is nan")
    forward()
    scene.train(1, 2)
    scene.end(1)
    scene.store.delete(member_file(1, FAILED))
    forward(RESULTS)
    return faulty.calls


def assert_played(scene):
    scene.assert_whole(2)
    parent, children = scene.runs()
    assert scene.points(parent, "snr/gradient") == [(2, 0.5)]
    assert scene.statuses() == ("FINISHED", ["FINISHED", "FINISHED"])
    assert "salcore.reason" not in children["member-0001"].data.tags


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_metric_stands_once_whichever_call_fails(uri, folder, when):
    calls = play(Scene(uri, folder), {})
    assert calls >= 20
    for number in range(calls):
        scene = Scene(uri, folder)
        play(scene, {number: when})
        assert_played(scene)


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.dictionaries(st.integers(0, 60), st.sampled_from(["before", "after"]), min_size=2, max_size=12))
def test_every_metric_stands_once_after_any_faults(uri, folder, faults):
    scene = Scene(uri, folder)
    play(scene, faults)
    assert_played(scene)


def test_a_batch_that_arrives_after_it_was_given_up_stands_once(scene):
    class Late(Faulty):
        """The first batch of metrics is given up by the client, and reaches the server after it was sent again."""

        late = None

        def log_batch(self, *args, **kwargs):
            if self.late is None and kwargs.get("metrics"):
                self.late = (args, kwargs)
                raise Fault
            self.inner.log_batch(*args, **kwargs)

    late = Late(scene.client, {})
    scene.train(0, 2)
    with pytest.raises(Fault):
        scene.forwarder(late).forward()
    scene.forwarder(late).forward()
    args, kwargs = late.late
    scene.client.log_batch(*args, **kwargs)
    scene.resize(1)
    scene.assert_whole(2)


def test_an_epoch_that_was_trained_again_in_another_time_stands_once(scene):
    scene.resize(1)
    scene.train(0, 2)
    scene.forwarder().forward()
    scene.train(0, 3, seconds=0.7)
    scene.forwarder().forward()
    scene.assert_whole(3)


def test_of_runs_created_twice_one_is_kept(scene):
    scene.train(0, 2)
    scene.forwarder().forward()
    scene.resize(1)
    parent, children = scene.runs()
    for run in (parent, children["member-0000"]):
        scene.client.create_run(run.info.experiment_id, tags=run.data.tags, run_name=run.info.run_name)
    scene.forwarder().forward()
    scene.assert_whole(2)
    assert scene.runs()[0].info.run_id == parent.info.run_id


def test_a_grown_run_goes_on_in_the_same_mlflow_run(scene):
    for index in (0, 1):
        scene.train(index, 2)
        scene.end(index)
    scene.forwarder().forward(RESULTS)
    before = scene.runs()[0]
    scene.resize(3, "attribution.methods=[gradient, gradcam]", "data.eval_samples=600")
    scene.train(2, 2)
    scene.end(2)
    scene.forwarder().forward(Ending(status="FINISHED", metrics={"snr/gradient": 0.4, "snr/gradcam": 1.0}))
    scene.assert_whole(2)
    parent = scene.runs()[0]
    assert parent.info.run_id == before.info.run_id
    assert parent.data.params == before.data.params
    assert (parent.data.tags["ensemble.members"], parent.data.tags["data.eval_samples"]) == ("3", "600")
    assert "gradcam" in parent.data.tags["attribution.methods"]
    assert scene.points(parent, "snr/gradient") == [(2, 0.5), (3, 0.4)]
    assert parent.data.metrics == {"snr/gradient": 0.4, "snr/gradcam": 1.0}


def test_statuses_of_an_interrupted_run_are_put_right_at_the_end_and_at_resume(scene):
    def interrupted():
        with scene.tracker():
            scene.train(0, 2)
            scene.end(0)
            scene.train(1, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert scene.statuses() == ("KILLED", ["FINISHED", "KILLED"])
    resumed = scene.forwarder()
    resumed.forward()
    assert scene.statuses() == ("RUNNING", ["FINISHED", "RUNNING"])
    scene.train(1, 2)
    scene.end(1)
    resumed.forward(RESULTS)
    assert scene.statuses() == ("FINISHED", ["FINISHED", "FINISHED"])
    scene.assert_whole(2)


def test_a_failed_member_tells_its_reason(scene):
    scene.train(0, 1)
    scene.end(0)
    scene.end(1, FAILED, "the training loss is nan in epoch 1")
    scene.forwarder().forward(Ending(status="FAILED", metrics={"snr/gradient": 0.5}))
    parent, children = scene.runs()
    assert scene.statuses() == ("FAILED", ["FINISHED", "FAILED"])
    assert children["member-0001"].data.tags["salcore.reason"] == "the training loss is nan in epoch 1"
    assert scene.points(parent, "snr/gradient") == [(1, 0.5)]


def test_a_value_that_changed_is_the_one_shown(scene):
    scene.train(0, 1)
    scene.end(0)
    for value in (0.5, 0.25, 0.25):
        scene.forwarder().forward(Ending(status="FINISHED", metrics={"snr/gradient": value}))
    parent, _ = scene.runs()
    assert scene.points(parent, "snr/gradient") == [(1, 0.25), (1, 0.5)]


def test_files_of_another_fingerprint_count_as_missing(scene):
    stranger = Scene(scene.uri, scene.store.local.parent, text="training: {epochs: 7}")
    stranger.store = scene.store
    stranger.end(0)
    scene.forwarder().forward()
    assert scene.runs()[1] == {}


def test_a_directory_made_anew_gets_a_new_run(scene):
    scene.forwarder().forward()
    first = scene.runs()[0].info.run_id
    scene.store.delete(layout.MLFLOW)
    scene.client.delete_run(first)
    scene.forwarder().forward()
    assert scene.runs()[0].info.run_id != first


def test_children_follow_when_somebody_deleted_the_parent(scene):
    for index in (0, 1):
        scene.train(index, 2)
        scene.end(index)
    scene.forwarder().forward(RESULTS)
    scene.client.delete_run(scene.runs()[0].info.run_id)
    scene.forwarder().forward(RESULTS)
    assert_played(scene)


def test_only_files_that_changed_are_read(scene):
    class Counting(Store):
        reads = 0

        def read(self, name):
            self.reads += 1
            return super().read(name)

    for index in (0, 1):
        scene.train(index, 2)
    scene.store = Counting(scene.store.uri)
    forwarder = scene.forwarder()
    forwarder.forward()
    before = scene.store.reads
    for _ in range(5):
        forwarder.forward()
    assert scene.store.reads == before
    scene.train(1, 3)
    forwarder.forward()
    assert scene.store.reads == before + 1


@pytest.fixture
def crowd(uri, folder):
    """Three members, which are too many for runs of their own: one is trained, one in training, one waits."""
    scene = Scene(uri, folder, members=3, text="tracking: {member_runs: 2}")
    scene.train(0, 2)
    scene.end(0)
    scene.train(1, 1)
    return scene


DONE = ("0", "FINISHED", "", "2", "0.5", "1.000")
WAITING = ("2", "SCHEDULED", "", "", "", "")


def test_of_many_members_there_is_a_table_on_the_parent(crowd):
    forwarder = crowd.forwarder()
    forwarder.forward()
    parent, children = crowd.runs()
    assert children == {}
    assert crowd.table() == [DONE, ("1", "RUNNING", "", "1", "2", "0.500"), WAITING]
    assert parent.data.tags["tracking.member_runs"] == "2"
    assert parent.info.status == "RUNNING"
    crowd.train(1, 2)
    crowd.end(1)
    crowd.end(2, FAILED, "the training loss is nan, in epoch 1")
    forwarder.forward(RESULTS)
    failed = ("2", "FAILED", "the training loss is nan, in epoch 1", "0", "", "0.000")
    assert crowd.table() == [DONE, ("1", "FINISHED", "", "2", "1.5", "1.000"), failed]
    assert crowd.points(crowd.runs()[0], "snr/gradient") == [(2, 0.5)], "over the number of trained members"
    assert crowd.statuses() == ("FINISHED", [])


def test_the_table_is_made_anew_once_a_minute_and_at_the_end(crowd, monkeypatch):
    forwarder = crowd.forwarder()
    forwarder.forward()
    before = crowd.table()
    crowd.train(1, 2)
    forwarder.forward()
    assert crowd.table() == before
    now = time.monotonic()
    monkeypatch.setattr(table_forwarding.time, "monotonic", lambda: now + table_forwarding.EVERY_S + 1)
    forwarder.forward()
    assert crowd.table()[1] == ("1", "RUNNING", "", "2", "1.5", "1.000")
    forwarder.forward(Ending(status="KILLED"))
    assert crowd.table()[1] == ("1", "KILLED", "", "2", "1.5", "1.000")
    assert crowd.statuses() == ("KILLED", [])


def test_of_many_members_only_files_that_changed_are_read_and_nothing_is_sent_twice(crowd, monkeypatch):
    read, sent = [], []
    whole = Store.read
    monkeypatch.setattr(Store, "read", lambda self, name: read.append(name) or whole(self, name))
    monkeypatch.setattr(table_forwarding, "EVERY_S", 0.0)
    upload = Server.upload
    monkeypatch.setattr(Server, "upload", lambda self, *args: sent.append(args[1]) or upload(self, *args))
    forwarder = crowd.forwarder()
    forwarder.forward()
    read.clear()
    forwarder.forward()
    assert (read, sent) == ([], ["members.csv"])
    crowd.train(1, 2)
    forwarder.forward()
    assert (read, sent) == ([member_file(1, HISTORY)], ["members.csv"] * 2)
    crowd.end(1)
    forwarder.forward(RESULTS)
    assert len(sent) == 3
    crowd.forwarder().forward(RESULTS)
    assert len(sent) == 3
    assert crowd.points(crowd.runs()[0], "snr/gradient") == [(2, 0.5)]


def test_a_run_that_grows_beyond_member_runs_keeps_the_runs_of_its_members(uri, folder):
    scene = Scene(uri, folder, text="tracking: {member_runs: 2}")
    scene.train(0, 2)
    scene.end(0)
    scene.train(1, 1)
    scene.forwarder().forward(Ending(status="KILLED"))
    scene.resize(3)
    scene.train(1, 2)
    scene.end(1)
    scene.train(2, 2)
    scene.end(2)
    scene.forwarder().forward(RESULTS)
    assert [row[:2] for row in scene.table()] == [("0", "FINISHED"), ("1", "FINISHED"), ("2", "FINISHED")]
    assert scene.statuses() == ("FINISHED", ["FINISHED", "FINISHED"])
    assert scene.points(scene.runs()[0], "snr/gradient") == [(3, 0.5)]
    scene.resize(2)
    scene.assert_whole(2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_table_stands_whichever_call_fails(uri, folder, when):
    text = "tracking: {member_runs: 1}"
    for number in range(play(Scene(uri, folder, text=text), {})):
        scene = Scene(uri, folder, text=text)
        play(scene, {number: when})
        assert [row[:2] for row in scene.table()] == [("0", "FINISHED"), ("1", "FINISHED")]
        assert scene.points(scene.runs()[0], "snr/gradient") == [(2, 0.5)]
        assert scene.statuses() == ("FINISHED", [])


def retry(scene, faults):
    """A trial that failed, was retried while the server was away, and failed of something else or finished."""
    setting = Setting(mask_fraction=0.5, weight=1.0)
    where = scene.store.child(f"trials/{setting.name}")
    trial = Trial(name=setting.name, setting=setting, spec=scene.spec, store=where, fingerprint="of the trial")
    faulty = Faulty(scene.client, {})

    def forward():
        while True:
            try:
                server = Server(faulty, scene.uri)
                forwarder = TrialForwarder(server, scene.tracked, trials=lambda: [trial], outcome=lambda: None)
                return forwarder.forward(RESULTS)
            except Fault:
                pass

    def stands():
        found = scene.runs()[1][trial.name]
        return found.info.status, found.data.tags[STATE], found.data.tags.get(REASON)

    fail(trial, "no memory")
    forward()
    assert stands() == ("FAILED", "failed", "no memory")
    before = faulty.calls
    faulty.faults = {before + number: fault for number, fault in faults.items()}
    fail(trial, "diverged")
    forward()
    assert stands() == ("FAILED", "failed", "diverged")
    finished = Record(name=trial.name, setting=setting, fingerprint=trial.fingerprint, state="finished")
    record.write(where, finished)
    forward()
    assert stands() == ("FINISHED", "finished", None)
    return faulty.calls - before


def test_a_trial_that_was_retried_while_the_server_was_away_is_told_anew(scene):
    retry(scene, {})


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trial_stands_as_it_ended_whichever_call_fails(uri, folder, when):
    calls = retry(Scene(uri, folder), {})
    for number in range(calls):
        retry(Scene(uri, folder), {number: when})


def test_an_outage_is_told_once_and_loses_nothing(scene):
    down, told = threading.Event(), []
    down.set()

    def connect(uri):
        if down.is_set():
            raise ConnectionError("no route to http://ann:secret@host")
        return scene.client

    tracker = scene.tracker(connect=connect, tell=told.append)
    tracker.start()
    assert not tracker.ready()
    for index in (0, 1):
        scene.train(index, 2)
        scene.end(index)
    time.sleep(0.3)
    assert len(told) == 1
    assert "http://host" in told[0]
    assert "secret" not in told[0]
    down.clear()
    assert tracker.finish("FINISHED", metrics=RESULTS.metrics)
    assert len(told) == 2
    assert_played(scene)


def test_a_server_that_never_answers_holds_up_nobody(scene):
    hanging = threading.Event()
    tracker = scene.tracker(connect=lambda uri: hanging.wait(30), tell=lambda message: None)
    started = time.monotonic()
    tracker.start()
    assert not tracker.ready(0.1)
    assert not tracker.finish("FINISHED", wait_s=0.2)
    assert time.monotonic() - started < 2
    hanging.set()


def test_what_could_not_be_sent_is_sent_by_finish_alone(scene):
    for index in (0, 1):
        scene.train(index, 2)
        scene.end(index)
    assert scene.tracker().finish("FINISHED", metrics=RESULTS.metrics)
    assert_played(scene)


def test_settings_are_flat_cut_visibly_and_without_secrets():
    long = ["/" + "x" * 100] * 100
    spec = parse("{}", ["data.mirror=https://ann:p@w:rd@host/data", f"model.blocks={long}", "ensemble.members=4"])
    fixed, latest = settings(spec)
    assert (fixed["model.blocks"][-5:], len(fixed["model.blocks"])) == ("(cut)", VALUE_LIMIT)
    assert latest["ensemble.members"] == "4"
    assert fixed["training.guidance.mask_fraction"] == "0.5"
    assert not fixed.keys() & latest.keys()
    assert "ann" not in latest["data.mirror"]


def test_where_records_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    store = Store("/shared/runs/toy")
    assert tracking_uri(parse("{}"), store) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri(parse("tracking: {uri: 'http://host:5000'}"), store) == "http://host:5000"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert tracking_uri(parse("{}"), store) == "sqlite:////shared/runs/mlflow.db"
    with pytest.raises(UserError, match=r"tracking\.uri: expected an MLflow server"):
        tracking_uri(parse("{}"), Store("mock:///bucket/runs/toy"))
    with pytest.raises(UserError, match=r"tracking\.uri"):
        tracking_uri(parse("tracking: {uri: ./mlruns}"), store)


def test_mlflow_is_imported_here_alone_and_late():
    importing = re.compile(r"^\s*(import|from) mlflow", re.MULTILINE)
    sources = [path for room in ("salcore", "cluster", "jobs") for path in (ROOT / room).rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in sources if importing.search(path.read_text())} == {
        "jobs/tracking.py"
    }
    check = "import sys, jobs.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


@pytest.fixture
def server(tmp_path):
    """(uri, start): a real server that is not up before `start()`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        f"{tmp_path}/served",
    ]
    started = []

    def start():
        with (tmp_path / "server.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
        started.append(process)

    yield f"http://127.0.0.1:{port}", start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def test_a_real_server_that_comes_up_in_the_middle_of_a_run(server, tmp_path):
    uri, start = server
    scene = Scene(uri, tmp_path)
    told = []
    scene.store.write(layout.SPEC, b"name: x")
    with scene.tracker(tell=told.append) as tracker:
        assert not tracker.ready()
        start()
        for index in (0, 1):
            scene.train(index, 2)
            scene.end(index)
        assert tracker.finish("FINISHED", metrics=RESULTS.metrics, artifacts=[layout.SPEC], wait_s=120)
    assert [message.startswith(f"MLflow at {uri}") for message in told] == [True, True]
    assert_played(scene)
    parent, _ = scene.runs()
    assert [file.path for file in scene.client.list_artifacts(parent.info.run_id)] == [layout.SPEC]
