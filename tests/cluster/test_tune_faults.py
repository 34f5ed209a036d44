"""A search whose driver, or everything, is killed in the middle ends with the trials of one that nothing disturbed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.tracking import client
from tests.cluster.killing import Start, kill, log, starting, wait

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),  # MLflow's use of SQLAlchemy
]

TRIALS = 5
SPEC = f"""
name: killed
data: {{name: digits, train_samples: 1000, eval_samples: 60}}
model: {{name: small_cnn, width: 4, norm: batch, dropout: 0.3}}
ensemble: {{members: 2}}
training: {{epochs: 25, batch_size: 64}}
cluster: {{slots: 2}}
attribution: {{batch_size: 32, methods: [gradient]}}
search: {{algorithm: optuna, trials: {TRIALS - 1}, ahead: 1, objectives: [accuracy, faithfulness]}}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Start]:
    with starting(tmp_path_factory.mktemp("killed"), "tune", SPEC) as run:
        yield run


def records(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(folder.glob("trials/*/trial.json"))}


def weights(folder: Path) -> dict[str, tuple[int, bytes]]:
    found = sorted(folder.glob("trials/*/members/*/weights.safetensors"))
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.fixture(scope="module")
def undisturbed(start) -> Path:
    folder, process = start("undisturbed")
    assert process.wait(300) == 0, log(folder)
    return folder


def test_a_killed_search_goes_on_to_the_same_trials(start, undisturbed):
    """The driver alone at first; then the driver with all processes of its cluster; then it comes to its end."""
    folder, process = start("killed")
    wait(folder, process, lambda: len(records(folder)) >= 1 and any(folder.glob("trials/*/members/*/checkpoint.pt")))
    kill(process, everything=False)
    first = records(folder)
    assert 1 <= len(first) < TRIALS
    _, process = start("killed")
    wait(folder, process, lambda: len(records(folder)) > len(first))
    kill(process, everything=True)
    second, trained = records(folder), weights(folder)
    assert len(second) < TRIALS, "it was killed in the middle"
    _, process = start("killed")
    assert process.wait(300) == 0, log(folder)

    assert records(folder) == records(undisturbed)
    assert len(records(folder)) == TRIALS
    assert first.items() <= records(folder).items()
    found = weights(folder)
    assert trained.items() <= found.items(), "no member was trained twice"
    assert [content for _, content in found.values()] == [content for _, content in weights(undisturbed).values()]
    assert (folder / "search.json").read_text() == (undisturbed / "search.json").read_text()


def test_mlflow_has_every_trial_once_whatever_was_killed(start, undisturbed):
    mlflow = client(f"sqlite:///{undisturbed.parent / 'runs' / 'mlflow.db'}")
    experiment = mlflow.get_experiment_by_name("killed").experiment_id
    runs = mlflow.search_runs([experiment])
    of = {run.data.tags["salcore.directory"]: run for run in runs}
    assert len(of) == len(runs) == 2 * (1 + TRIALS)
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        for key in run.data.metrics:
            assert len(mlflow.get_metric_history(run.info.run_id, key)) == 1
