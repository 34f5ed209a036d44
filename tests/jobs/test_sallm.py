"""`jobs.sallm` on the shared cluster: from the command to table, page and MLflow, and on after an interruption."""

import json

import pytest
import yaml
from pyarrow import parquet

import salcore
from jobs.ensemble import ensemble
from jobs.sallm import sallm
from jobs.status import status
from jobs.tracking import client
from jobs.tune import tune_
from tests.salcore.sallm.conftest import SPEC, write_corpus

pytestmark = pytest.mark.timeout(1200)
"""Three stages of a run each: slots start anew in two of them."""

FEW = ("sallm={variants: [sallm]}", "training.epochs=2", "ensemble.members=2")


@pytest.fixture(scope="module")
def run(ray_cluster, job, place, tmp_path_factory):
    corpus = tmp_path_factory.mktemp("corpus") / "films"
    write_corpus(corpus)
    (place / "tiny.yaml").write_text(SPEC.format(corpus=corpus))

    def do(*arguments, spec="tiny.yaml"):
        return job(sallm, spec, *arguments)

    return do


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sallm") / "run"
    done = run(*FEW, "--run-dir", folder)
    assert done.status == 0, done.err
    return folder, done


def test_every_variant_is_a_run_with_a_table_and_a_page_above_them(finished):
    folder, done = finished
    for name in ("vanilla", "explanations", "sallm"):
        assert len(salcore.open(folder / name).members) == 2
        assert (folder / name / "tokenizer.json").is_file()
    rows = {row["what"]: row for row in parquet.read_table(folder / "sallm.parquet").to_pylist()}
    assert rows["vanilla: test accuracy, %"]["paper"] is None, "these are not the poster's texts"
    assert "sallm: attention finds it more often than that of vanilla" in rows
    page = (folder / "report" / "index.html").read_text()
    assert "The variants" in page
    assert "stage 3 of 3: sallm" in done.out
    assert str(folder / "report" / "index.html") in done.out


def test_mlflow_has_teacher_explanations_and_students_as_linked_runs(finished, place):
    folder, _ = finished
    server = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    names = ("vanilla", "explanations", "sallm")
    ids = {name: json.loads((folder / name / "mlflow.json").read_text()) for name in names}
    assert len({each["experiment_id"] for each in ids.values()}) == 1
    tags = {name: server.get_run(each["parent_run_id"]).data.tags for name, each in ids.items()}
    assert tags["explanations"]["salcore.teacher"] == ids["vanilla"]["parent_run_id"]
    assert tags["sallm"]["salcore.explanations"] == ids["explanations"]["parent_run_id"]
    assert "salcore.teacher" not in tags["sallm"]


def test_the_same_command_does_nothing_again(finished, run):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("weights.safetensors")}
    again = run(*FEW, "--run-dir", folder)
    assert again.status == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("weights.safetensors")} == before
    assert "nothing to do" in again.out


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["training.objective=guided"], "training.objective"),
        (["training.epochs=0"], "training.epochs"),
        (["ensemble.weights=[a, b]"], "ensemble.weights"),
        (["data.labelled=0.5"], "data.labelled"),
        (["data.eval_split=all"], "data.eval_split"),
        (["training.attention.method=lime"], "training.attention.method"),
        (["attribution.methods=[{name: input_x_gradient, samples: 10}]"], "attribution.methods"),
        (["data.tokenizer=wordpiece", "model=transformers:nobody/nothing"], "data.tokenizer"),
        (["model=bilstm", "data.tokenizer=null"], "model.name"),
        (["ensemble.until=0.1", "ensemble.members=9"], "ensemble.until"),
        (["training.attention.explanations=/x"], "training.attention.explanations"),
        (["sallm.variants=[sallm, sallm]"], "sallm.variants"),
        (["sallm.rounds=1"], "sallm.rounds"),
        (["training.attention.layers=[2]"], "training.attention.layers"),
        (["training.attention.heads=[0, 9]"], "training.attention.heads"),
        (["model.name=transformers:fnet"], "model.name"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(run, tmp_path, overrides, key):
    refused = run(*overrides, "--run-dir", tmp_path / "run")
    assert refused.status == 2, refused.out + refused.err
    assert refused.err.startswith(f"error: {key}"), refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "run" / "vanilla").exists()


def test_a_plan_names_the_stages_and_does_nothing(run, tmp_path):
    told = run("--plan", "--run-dir", tmp_path / "run")
    assert told.status == 0, told.err
    assert "6 stages" in told.out or "5 stages" in told.out
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_run_is_left_alone(run, finished, job, tmp_path):
    folder, _ = finished
    before = (folder / "vanilla" / "spec.yaml").read_bytes()
    refused = run(*FEW, "--run-dir", folder / "vanilla")
    assert refused.status == 2
    assert refused.err.startswith("error: --run-dir: expected a new folder, or that of SalLM")
    assert (folder / "vanilla" / "spec.yaml").read_bytes() == before
    refused = job(ensemble, str(folder))
    assert refused.status == 2
    assert "jobs.sallm made" in refused.err


def test_other_networks_under_the_same_place_are_refused_before_any_work(run, finished):
    folder, _ = finished
    before = (folder / "spec.yaml").read_bytes()
    refused = run(*FEW, "training.attention.weight=2.0", "--run-dir", folder)
    assert refused.status == 2
    assert "differ in training.attention" in refused.err
    assert (folder / "spec.yaml").read_bytes() == before


def test_mlflow_has_the_results_in_a_run_of_their_own(finished, place):
    folder, _ = finished
    server = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    run = server.get_run(json.loads((folder / "mlflow.json").read_text())["parent_run_id"])
    assert "vanilla/test accuracy, percent".replace(",", "") in run.data.metrics
    assert run.info.status == "FINISHED"


def test_status_tells_of_every_run(finished, job):
    folder, _ = finished
    told = job(status, folder).out
    assert "stage 1  vanilla: 2/2 members trained, reported" in told
    assert "stage 3  sallm: 2/2 members trained, reported" in told
    assert str(folder / "report" / "index.html") in told


def test_weight_top_and_layers_are_searched(finished, run, job, tmp_path):
    folder, _ = finished
    taught = ("training.objective=attention", f"training.attention.explanations={folder / 'explanations'}")
    asked = "search={mask_fraction: [0.2], weight: [1.0], layers: [last, [0]], faithfulness: comprehensiveness}"
    found = job(tune_, "tiny.yaml", *FEW[1:], *taught, asked, "--run-dir", tmp_path / "search")
    assert found.status == 0, found.err
    rows = parquet.read_table(tmp_path / "search" / "search.parquet").to_pylist()
    assert [row["trial"] for row in rows] == ["standard", "k0.2-lambda1-layers_last", "k0.2-lambda1-layers_0"]
    assert [row["layers"] for row in rows] == [None, "last", "0"]
    assert len({row["faithfulness"] for row in rows}) == 3, "each is another network"
    spec = yaml.safe_load((tmp_path / "search" / "trials" / rows[2]["trial"] / "spec.yaml").read_text())
    assert spec["training"]["attention"]["layers"] == [0]
    refused = job(tune_, "tiny.yaml", *FEW[1:], *taught, "search.layers=[last, [7]]", "--run-dir", tmp_path / "other")
    assert refused.status == 2
    assert "layers" in refused.err
