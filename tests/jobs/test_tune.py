"""`jobs.tune` on the shared cluster: what a search leaves, that it grows, and what MLflow has of it."""

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import salcore
from cluster.start import Room
from jobs import searches, tune
from jobs.command import read
from jobs.ensemble import ensemble
from jobs.progress import Progress
from jobs.status import status
from jobs.tracking import client
from jobs.tune import tune_
from tests.run_files import files

SEARCH = """
name: search
data: {name: digits, train_samples: 200, eval_samples: 40}
model: {name: small_cnn, width: 4}
ensemble: {members: 2}
training: {epochs: 2, batch_size: 32}
cluster: {slots: 2}
attribution: {batch_size: 32, methods: [gradient]}
search: {mask_fraction: [0.3, 0.6], weight: [1.0], accuracy_drop_at_most: null}
"""


@pytest.fixture(scope="module")
def search(ray_cluster, job, place) -> Callable:
    (place / "search.yaml").write_text(SEARCH)

    def run(run_dir: Path, *arguments: str):
        return job(tune_, "search.yaml", *arguments, "--run-dir", run_dir)

    return run


def rows(folder: Path) -> dict[str, dict]:
    return {row["trial"]: row for row in pq.read_table(folder / "search.parquet").to_pylist()}


def mlflow_runs(place: Path, folder: Path):
    """The parent and its children by name."""
    parent = json.loads((folder / "mlflow.json").read_text())["parent_run_id"]
    mlflow = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    found = mlflow.get_run(parent)
    below = mlflow.search_runs([found.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return mlflow, found, {run.info.run_name: run for run in below}


def metric_rows(place: Path, run) -> int:
    with sqlite3.connect(place / "runs" / "mlflow.db") as database:
        return database.execute("select count(*) from metrics where run_uuid = ?", [run.info.run_id]).fetchone()[0]


@pytest.fixture(scope="module")
def found(search, job, place, tmp_path_factory):
    """A search that is finished, run again, then grown by a value whose trial fails, then run again."""
    folder = tmp_path_factory.mktemp("search") / "run"
    first = search(folder)
    assert first.status == 0, first.err
    before = files(folder)
    again = search(folder)
    assert files(folder) == before
    grown = search(folder, "search.weight=[1.0, 1e40]", "search.mask_fraction=[0.6]")
    return folder, first, again, grown


def test_every_trial_is_a_run_that_other_commands_take(found, job):
    folder, first, *_ = found
    names = ["standard", "k0.3-lambda1", "k0.6-lambda1"]
    assert [line.split()[0] for line in first.out.splitlines() if line.startswith(("k", "standard"))] == names
    for name in names:
        run = salcore.open(folder / "trials" / name)
        assert (run.members, run.methods) == ((0, 1), ("gradient",))
        told = job(status, folder / "trials" / name)
        assert "2/2 members trained" in told.out
        assert "gradient: 2/2 shards, reduced" in told.out
    shown = re.sub(r"\d", "", first.out + first.err)
    assert "Configuration for experiment" not in shown, "Tune prints nothing"


def test_a_finished_search_says_so_and_changes_nothing(found):
    _, first, again, _ = found
    assert again.status == 0
    assert "nothing to do" in again.out
    assert [line for line in first.out.splitlines() if "lambda" in line][-2:] == [
        line for line in again.out.splitlines() if "lambda" in line
    ]


def test_it_grows_and_a_trial_that_fails_leaves_the_others_alone(found):
    folder, _, _, grown = found
    assert grown.status == 1
    assert "k0.6-lambda1e40 failed: member 0" in grown.err
    found_rows = rows(folder)
    assert list(found_rows) == ["standard", "k0.6-lambda1", "k0.6-lambda1e40"]
    assert found_rows["k0.6-lambda1e40"]["state"] == "failed"
    assert "2 are over" in grown.out


def test_workers_stay_from_one_trial_to_the_next(found):
    """Of the three that one search did; the fourth, which fails, was added by another."""
    names = ("standard", "k0.3-lambda1", "k0.6-lambda1")
    logs = [(found[0] / "trials" / name / "logs" / "trial.log").read_text() for name in names]
    assert len({re.search(r"process (\d+)", log).group(1) for log in logs}) <= 2


def test_the_chosen_setting_is_a_spec_that_an_ensemble_takes(found, job):
    folder = found[0]
    chosen = next(row for row in rows(folder).values() if row["chosen"])
    spec = yaml.safe_load((folder / "chosen.yaml").read_text())
    assert spec["name"] == f"search-{chosen['trial']}"
    told = job(ensemble, folder / "chosen.yaml", "--plan", "--run-dir", folder / "trials" / chosen["trial"])
    assert told.status == 0, told.err
    assert "0 to train" in told.out, "its members are those of the trial"


def test_mlflow_has_one_run_for_each_trial_below_that_of_the_search(found, place):
    folder = found[0]
    mlflow, parent, children = mlflow_runs(place, folder)
    assert {*children} == {"standard", "k0.3-lambda1", "k0.6-lambda1", "k0.6-lambda1e40"}
    assert parent.info.status == "FAILED"
    states = {name: run.info.status for name, run in children.items()}
    assert states.pop("k0.6-lambda1e40") == "FAILED"
    assert {*states.values()} == {"FINISHED"}
    child = children["k0.6-lambda1"]
    assert (child.data.params["k"], child.data.params["lambda"]) == ("0.6", "1")
    row = rows(folder)["k0.6-lambda1"]
    for name in ("accuracy", "snr_debiased", "faithfulness"):
        assert child.data.metrics[name] == pytest.approx(row[name])
    assert {child.data.tags["salcore.chosen"], child.data.tags["salcore.front"]} <= {"true", "false"}
    tables = {artifact.path for artifact in mlflow.list_artifacts(child.info.run_id)}
    assert tables == {"members.csv"}
    artifacts = {each.path for each in mlflow.list_artifacts(parent.info.run_id)}
    assert {"search.parquet", "chosen.yaml", "spec.yaml", "report"} <= artifacts
    assert "member 0" in children["k0.6-lambda1e40"].data.tags["salcore.reason"]


def test_mlflow_has_nothing_twice(found, place):
    _, _, children = mlflow_runs(place, found[0])
    trained = children["standard"], children["k0.6-lambda1"]
    assert [metric_rows(place, run) for run in trained] == [len(run.data.metrics) for run in trained]


def test_what_failed_is_tried_again_on_request(found, search):
    folder = found[0]
    arguments = ("search.weight=[1.0, 1e40]", "search.mask_fraction=[0.6]")
    assert "nothing to do" in search(folder, *arguments).out
    again = search(folder, *arguments, "--retry-failed")
    assert again.status == 1
    assert "2 are over" in again.out


@pytest.mark.parametrize(
    ("arguments", "key", "told"),
    [
        (("search.weight=[-1]",), "search.weight", "0 or more"),
        (("search.mask_fraction=[1.5]",), "search.mask_fraction", "from 0 to 1"),
        (("search.weight=[]",), "search.weight", "a list"),
        (("search.weight=[1, 1]",), "search.weight", "different"),
        (("search.weight={low: 1, high: 2}",), "search.weight", "a grid"),
        (("search.algorithm=random",), "search.mask_fraction", "low <= high"),
        (("search={algorithm: optuna, weight: {low: 0, high: 2}}",), "search.weight", "above 0"),
        (("search={algorithm: optuna, weight: {low: 3, high: 2}}",), "search.weight", "low <= high"),
        (("search.objectives=[accuracy, faithfulness]", "search.asha=true"), "search.asha", "several objectives"),
        (("search.objectives=[speed]",), "search.objectives.0", "accuracy"),
        (("search.objectives=[accuracy, accuracy]",), "search.objectives", "once"),
        (("search.faithfulness=aup",), "search.faithfulness", "informative"),
        (("search.faithfulness=comprehensiveness",), "search.faithfulness", "texts"),
        (("search.method=gradcam",), "search.method", "gradient"),
        (("training.epochs=0",), "training.epochs", "1 or more"),
        (("ensemble.until=0.1", "ensemble.members=9"), "ensemble.until", "null"),
        (("attribution.keep_maps=false",), "attribution.keep_maps", "true"),
        (("search.wieght=[1]",), "search.wieght", "weight"),
        (("training.guidance.fill=previous_word",), "training.guidance.fill", "uniform"),
    ],
)
def test_mistakes_are_told_in_one_line(job, place, tmp_path, arguments, key, told):
    (place / "search.yaml").write_text(SEARCH)
    finished = job(tune_, "search.yaml", *arguments, "--run-dir", tmp_path / "run")
    assert finished.status == 2, finished
    assert finished.err.startswith(f"error: {key}: expected "), finished.err
    assert finished.err.count("\n") == 1
    assert told in finished.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("training.epochs=3",), "training.epochs"),
        (("search={algorithm: random}",), "search.algorithm"),
        (("model.width=8",), "model.width"),
    ],
)
def test_a_directory_of_another_search_is_refused_and_it_says_in_what(found, search, arguments, told):
    refused = search(found[0], *arguments)
    assert refused.status == 2
    assert refused.err.startswith("error: --run-dir: expected a new folder")
    assert told in refused.err


def test_a_directory_of_an_ensemble_is_refused(search, found):
    folder = found[0] / "trials" / "k0.3-lambda1"
    refused = search(folder)
    assert refused.status == 2
    assert refused.err.startswith("error: --run-dir: expected a new folder")


def test_a_plan_tells_of_the_trials_and_does_nothing(job, place, tmp_path):
    told = job(tune_, "search.yaml", "--plan", "--run-dir", tmp_path / "run")
    assert told.status == 0, told.err
    assert "grid: 3 trials, standard training among them; 0 are over" in told.out
    assert "accuracy_drop of gradient (lower is better)" in told.out
    assert not list(tmp_path.iterdir())


def test_a_plan_has_nothing_proposed(job, place, tmp_path):
    (place / "search.yaml").write_text(SEARCH)
    told = job(tune_, "search.yaml", "search={algorithm: optuna, trials: 2}", "--plan", "--run-dir", tmp_path / "run")
    assert told.status == 0, told.err
    assert "optuna: 3 trials" in told.out
    assert not list(tmp_path.iterdir())


@pytest.fixture
def checked(tmp_path, monkeypatch) -> Callable[..., searches.Search]:
    """A function from overrides to a checked search, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yaml").write_text(SEARCH)
    return lambda *overrides: searches.checked(read("tune", "", ["search.yaml", *overrides, "--run-dir", "run"]))


def test_on_a_head_that_holds_no_work_trials_ask_for_nodes(checked, monkeypatch):
    rooms = []
    monkeypatch.setattr(tune.start, "start", lambda: None)
    monkeypatch.setattr(tune.start, "nodes", lambda: [{"memory": 1e9}])
    monkeypatch.setattr(tune.start, "grows", lambda: True)
    monkeypatch.setattr(tune.Source, "of", lambda data, spec: None)
    monkeypatch.setattr(tune.tune, "search", lambda schedule, source, room, *rest, **names: rooms.append(room) or [])
    tune._try_all(checked("cluster.gpus_per_slot=1", "cluster.slots=2"), Progress())
    assert rooms == [Room(slots=2, cpus=1, gpus=1.0)]


def test_what_was_begun_is_known_without_a_proposal(checked, tmp_path):
    found = checked("search={algorithm: optuna, trials: 2}")
    assert found.begun() == []
    assert not (tmp_path / "run").exists()
    found.begin(found.schedule.trial(0))
    assert [trial.name for trial in found.begun()] == ["standard"]
