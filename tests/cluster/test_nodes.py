"""Nodes that join in the middle of a run are used, and a node that leaves takes no member with it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.killing import ROOT
from tests.cluster.nodes import cluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

SPEC = """
name: nodes
data: {name: digits, train_samples: 1000, eval_samples: 32}
model: {name: small_cnn, width: 4, norm: batch, dropout: 0.3}
ensemble: {members: 5}
training: {epochs: 150, batch_size: 64}
attribution: {batch_size: 16, shard_samples: 16, methods: [{name: smoothgrad, num_samples: 100}]}
"""


def main(folder: Path) -> None:
    """One node at first; another joins, then the first one dies."""
    (folder / "nodes.yaml").write_text(SPEC)
    with cluster(1) as made, (folder / "driver.log").open("w") as log:
        (first,) = made.worker_nodes
        command = [sys.executable, "-m", "jobs.ensemble", "nodes.yaml", "--run-dir", "run"]
        environment = {**os.environ, "RAY_ADDRESS": made.address}
        driver = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            logs = folder / "run" / "logs"
            wait(driver, lambda: (logs / "train-slot-0.log").exists())
            assert not (logs / "train-slot-1.log").exists()
            made.add_node(num_cpus=1)
            wait(driver, lambda: (logs / "train-slot-1.log").exists())
            trained = len([*folder.glob("run/members/*/member.json")])
            assert trained < 4, "it joined in the middle"
            made.remove_node(first, allow_graceful=False)
            print(f"{trained} trained when the first node died", flush=True)
            status = driver.wait(600)
        finally:
            driver.kill()
            driver.wait()
    assert status == 0, (folder / "driver.log").read_text()
    assert len([*folder.glob("run/members/*/member.json")]) == 5
    assert "a slot died; its member goes to the next free one" in (folder / "driver.log").read_text()
    assert (folder / "run" / "report" / "index.html").is_file()


def wait(driver: subprocess.Popen, met: Callable[[], bool], seconds: float = 300) -> None:
    over = time.monotonic() + seconds
    while not met():
        assert driver.poll() is None, "the run was over before"
        assert time.monotonic() < over
        time.sleep(0.1)


def test_nodes_come_and_go(tmp_path):
    command = [sys.executable, "-m", "tests.cluster.test_nodes", str(tmp_path)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(command, cwd=ROOT, env=kept, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    log = tmp_path / "driver.log"
    assert done.returncode == 0, done.stderr[-3000:] + (log.read_text()[-3000:] if log.exists() else "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
