"""A run whose MLflow server is down from its beginning to its end; then the server comes, and is told all of it."""

import contextlib
import os
import signal
import time

import pytest

from jobs.report import report
from jobs.tracking import Tracker, client
from tests.cluster import mlflow_servers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

SPEC = """
name: down
data: {name: digits, train_samples: 100, eval_samples: 20}
model: {name: small_cnn, width: 4}
ensemble: {members: 2}
training: {epochs: 3}
attribution: {methods: [gradient]}
"""


@contextlib.contextmanager
def serving(port, folder):
    """A real server on a port of this machine."""
    server = mlflow_servers.start(port, folder)
    try:
        over = time.monotonic() + 240
        while not mlflow_servers.answers(port):
            assert server.poll() is None
            assert time.monotonic() < over
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def impatient(monkeypatch):
    """The run's end does not wait a minute for the server."""
    finish = Tracker.finish
    monkeypatch.setattr(Tracker, "finish", lambda self, status, **rest: finish(self, status, **{**rest, "wait_s": 3}))


def test_nothing_is_lost_and_all_is_sent_when_the_server_is_up(ensemble, job, place, tmp_path, impatient, monkeypatch):
    (place / "down.yaml").write_text(SPEC)
    port = mlflow_servers.free_port()
    uri, run = f"http://127.0.0.1:{port}", tmp_path / "run"
    finished = ensemble("down.yaml", f"tracking.uri={uri}", run_dir=run)
    assert finished.status == 0, finished.err
    assert f"MLflow did not take everything: python -m jobs.report {run} sends the rest\n" in finished.err
    assert finished.err.count(f"MLflow at {uri} takes nothing now") == 1
    assert (run / "report" / "index.html").is_file()

    monkeypatch.undo()
    with serving(port, tmp_path):
        for _ in range(2):  # the second time there is nothing left to send
            sent = job(report, run)
            assert sent.status == 0, sent.err + sent.out
        mlflow = client(uri)
        experiment = mlflow.get_experiment_by_name("down")
        runs = mlflow.search_runs([experiment.experiment_id])
        (parent,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
        children = [each for each in runs if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert sorted(child.info.run_name for child in children) == ["member-0000", "member-0001"]
        assert len(runs) == 3
        assert {each.info.status for each in runs} == {"FINISHED"}
        assert {"snr/gradient", "ensemble/accuracy"} <= parent.data.metrics.keys()
        for each, steps in [(parent, [2]), *((child, [1, 2, 3]) for child in children)]:
            assert {"train/loss", "eval/loss", "eval/accuracy"} <= each.data.metrics.keys() or each is parent
            for metric in each.data.metrics:
                points = mlflow.get_metric_history(each.info.run_id, metric)
                assert sorted(point.step for point in points) == steps, metric
        kept = {file.path for file in mlflow.list_artifacts(parent.info.run_id)}
        assert {"report", "spec.yaml"} <= kept
