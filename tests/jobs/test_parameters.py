"""`jobs.parameters` on the shared cluster: what it leaves, that it goes on, and what it refuses."""

import json
import re

import pytest
import yaml

import salcore
from jobs.ensemble import ensemble
from jobs.explain import explain
from jobs.parameters import parameters
from jobs.report import report
from jobs.status import status
from jobs.tracking import client
from jobs.tune import tune_
from salcore.blame.results import Blame
from salcore.errors import UserError
from tests.run_files import files

SPEC = """
name: blamed
data: {name: digits, train_samples: 300, validation_fraction: 0.4, eval_samples: 60}
model: {name: small_cnn, width: 4}
ensemble: {members: 2}
training: {epochs: 2, batch_size: 32}
cluster: {slots: 2}
attribution: {batch_size: 32, shard_samples: 50, methods: [gradient]}
parameters: {pruned: [1, 2, 4], tuned: [1, 2], neighbours: 3, mistakes: 60, boosted: 3}
"""


@pytest.fixture(scope="module")
def run(ray_cluster, job, place):
    (place / "blamed.yaml").write_text(SPEC)
    (place / "no_filters.py").write_text(
        "from torch import nn\n"
        "def build(*, input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )

    def do(folder, *arguments, command=parameters, spec="blamed.yaml"):
        return job(command, spec, *arguments, "--run-dir", folder)

    return do


@pytest.fixture(scope="module")
def blamed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blamed") / "run"
    finished = run(folder)
    assert finished.status == 0, finished.err
    return folder, finished


def test_a_run_has_profiles_tables_maps_and_both_pages(blamed):
    folder, finished = blamed
    blame = Blame(salcore.open(folder))
    for member in blame.members:
        assert len(blame.profiles("validation", member)) == 120
        assert len(blame.profiles("evaluation", member)) == 60
        assert blame.statistics(member).count == 120
        for what in ("filters", "layers", "neighbours", "pruning", "finetuning", "masking"):
            assert blame.table(what, member).num_rows
    assert blame.run.methods == ("gradient", "input_space_saliency")
    assert blame.run.snr("input_space_saliency").shape == (60,)
    assert "mistakes up to 60 of each member" in finished.out
    assert "filters  " + str(folder / "report" / "parameters.html") in finished.out
    page = (folder / "report" / "parameters.html").read_text()
    assert page.count("<svg") >= 3 + 6 + 3 + 1
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    for question in ("mistakes make filters salient", "neighbours mistaken alike", "the same to blame in every member"):
        assert question in page


def test_status_tells_what_there_is_of_filters(blamed, job):
    told = job(status, blamed[0]).out
    assert "profile  validation: 6 shards of 2/2 members" in told
    assert "blame    pruning: " in told


def test_mlflow_has_the_numbers_and_the_page(blamed, place):
    folder, _ = blamed
    parent = json.loads((folder / "mlflow.json").read_text())["parent_run_id"]
    mlflow = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    found = mlflow.get_run(parent).data.metrics
    assert {"blame/wrong_less_right", "blame/pruning/incorrect/most", "blame/neighbours/same_pair"} <= found.keys()
    assert "snr/input_space_saliency" in found
    assert "report/parameters.html" in {item.path for item in mlflow.list_artifacts(parent, "report")}


def test_a_finished_run_changes_nothing_and_says_so(blamed, run):
    folder, _ = blamed
    before = files(folder)
    again = run(folder)
    assert again.status == 0
    assert "nothing to do" in again.out
    assert files(folder) == before


def test_what_is_lost_is_made_again_and_nothing_else(blamed, run, job):
    folder, _ = blamed
    lost = [
        folder / "profiles" / "validation" / "member=0001" / "part-00001.arrow",
        folder / "blame" / "pruning" / "member=0000" / "part-00000.parquet",
    ]
    content = [each.read_bytes() for each in lost]
    before = {name: state for name, state in files(folder).items() if name.startswith(("profiles", "blame", "maps"))}
    for each in lost:
        each.unlink()
    assert run(folder).status == 0
    assert [each.read_bytes() for each in lost] == content
    after = files(folder)
    made = {str(each.relative_to(folder)) for each in lost}
    changed = {name for name, state in before.items() if after[name] != state}
    assert made <= changed <= made | {"profiles/validation/member=0001/manifest.json"}
    assert job(report, folder).status == 0


def test_a_finished_ensemble_takes_it_and_only_grows(run, tmp_path):
    folder = tmp_path / "run"
    assert run(folder, "parameters=null", command=ensemble).status == 0
    assert not (folder / "profiles").exists()
    before = {name: state for name, state in files(folder).items() if name.startswith(("members", "maps"))}
    grown = run(folder, "parameters.experiments=[neighbours]", "parameters.pruned=[1]", "parameters.tuned=[1]")
    assert grown.status == 0, grown.err
    after = files(folder)
    assert all(after[name] == state for name, state in before.items())
    assert (folder / "report" / "parameters.html").exists()
    assert yaml.safe_load((folder / "spec.yaml").read_text())["parameters"]["experiments"] == ["neighbours"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model=python:no_filters:build"], "model.name: expected a network whose filters can be read"),
        (["parameters.pruned=[1, 999]"], "parameters.pruned: expected at most the 8 filters of small_cnn, got 999"),
        (["parameters.tuned=[9]"], "parameters.tuned: expected at most the 8 filters of small_cnn, got 9"),
        (["parameters.boosted=8"], "parameters.boosted: expected fewer than the 8 filters of small_cnn, got 8"),
        (["parameters.independent=validation"], "parameters.independent: expected another split"),
        (["data.validation_fraction=0"], "parameters.held_out: expected a split that holds samples"),
        (["parameters.held_out=train"], "parameters.held_out: expected 'validation' or 'evaluation', got 'train'"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_any_work(run, tmp_path, overrides, told):
    finished = run(tmp_path / "run", *overrides)
    assert finished.status == 2
    assert told in finished.err
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "run" / "members").exists()


def test_numbers_of_filters_that_are_not_given_fit_the_network(job, place, ray_cluster, tmp_path):
    finished = job(parameters, "digits", "--plan", "--run-dir", tmp_path / "run")
    assert finished.status == 0, finished.err
    assert "filters  32 of 2 layers" in finished.out


def test_a_method_that_needs_profiles_needs_the_section(run, tmp_path):
    finished = run(tmp_path / "run", "parameters=null", "attribution.methods=[input_space_saliency]", command=ensemble)
    assert (finished.status, finished.err.count("\n")) == (2, 1)
    assert "parameters: expected a section" in finished.err


def test_members_without_a_mistake_are_told(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import numpy as np

    from jobs import blaming

    right = {0: np.zeros(3, bool), 1: np.zeros(3, bool)}
    monkeypatch.setattr(blaming, "Profiles", lambda store, split, member: SimpleNamespace(wrong=right[member]))
    said = []
    session = SimpleNamespace(
        plan=SimpleNamespace(
            spec=SimpleNamespace(parameters=SimpleNamespace(held_out="validation")),
            store=None,
            trained=lambda: [SimpleNamespace(index=0), SimpleNamespace(index=1)],
        ),
        progress=SimpleNamespace(say=said.append),
    )
    with pytest.raises(UserError, match=r"parameters\.held_out: expected a split of which a member misclassifies"):
        blaming.require_mistakes(session)
    right[1] = np.array([False, True, False])
    blaming.require_mistakes(session)
    assert said == ["members 0 make no mistake on the validation samples: left out"]


def test_a_run_s_own_images_and_a_search_have_no_held_out_split(blamed, run, job, tmp_path):
    folder, _ = blamed
    (tmp_path / "images").mkdir()
    from PIL import Image

    for number in range(3):
        Image.new("L", (8, 8), 40 * number).save(tmp_path / "images" / f"{number}.png")
    refused = job(explain, folder, f"data=folder:{tmp_path / 'images'}", "--run-dir", tmp_path / "own")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "attribution.methods: expected methods that need no held-out samples" in refused.err
    taken = job(
        explain, folder, f"data=folder:{tmp_path / 'images'}", "attribution.methods=[gradient]", "--run-dir",
        tmp_path / "own",
    )  # fmt: skip
    assert taken.status == 0, taken.err
    assert not (tmp_path / "own" / "profiles").exists()
    searched = job(tune_, "blamed.yaml", "--run-dir", tmp_path / "search")
    assert searched.status == 2
    assert "parameters: expected null" in searched.err
