"""Members that kill their process, bring their GPU to fail, or want more memory than there is.

They are given up with the reason, and the rest finish.
"""

import json
import shutil

import pytest
from safetensors.numpy import load_file

from jobs.tracking import client

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

NETWORK = """
import json
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

def fail_as_a_gpu():
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\\nSearch for it.")


CURSES = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "numpy": lambda: np.zeros(2**50),
    "torch": lambda: torch.zeros(2**50),
    "gpu": fail_as_a_gpu,
}


class Cursed(nn.Module):
    # Which network is cursed, and how, stands in a file beside this module, by the first initial weight.

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
        self.register_buffer("mark", self.linear.weight[0, 0].detach().clone())
        self.curses = json.loads(Path(__file__).with_name("doomed.json").read_text())

    def forward(self, inputs):
        if self.training and len(inputs) > 2:  # the command tries two samples
            warnings.warn("this network\\nmay be cursed", stacklevel=2)
        if (curse := self.curses.get(repr(float(self.mark)))) is not None:
            CURSES[curse]()
        return self.linear(inputs.flatten(1))


def build(classes):
    return Cursed(classes)
"""
SPEC = """
name: doomed
data: {name: digits, train_samples: 100, eval_samples: 20}
model: 'python:doomed:build'
ensemble: {members: 6}
training: {epochs: 2}
cluster: {slots: 2, attempts: 2}
attribution: {methods: [gradient]}
"""
CURSES = {1: "crash", 2: "numpy", 4: "torch", 5: "gpu"}
DEADLY = {"crash", "gpu"}
"""After them a process takes no more work."""
REASONS = {
    1: "its slot died 2 times while training it (out of memory?)",
    2: "MemoryError: Unable to allocate 8.00 PiB",
    4: "can't allocate memory: you tried to allocate 4503599627370496 bytes",
    5: "its slot died 2 times while training it (CUDA error: an illegal memory access was encountered)",
}


@pytest.fixture(scope="module")
def undisturbed(ensemble, place, tmp_path_factory):
    """The run before anything is cursed; its weights say whose network is whose."""
    (place / "doomed.py").write_text(NETWORK)
    (place / "doomed.json").write_text("{}")
    (place / "doomed.yaml").write_text(SPEC)
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = ensemble("doomed.yaml", run_dir=run)
    assert finished.status == 0, finished.err
    return run


@pytest.fixture(scope="module")
def cursed(undisturbed, ensemble, place):
    """(run, how it ended) of the same with four members cursed."""
    weights = [load_file(undisturbed / "members" / f"{index:04d}" / "weights.safetensors") for index in range(6)]
    marks = {repr(float(weights[index]["mark"])): curse for index, curse in CURSES.items()}
    (place / "doomed.json").write_text(json.dumps(marks))
    run = undisturbed.parent / "cursed"
    finished = ensemble("doomed.yaml", run_dir=run)
    (place / "doomed.json").write_text("{}")
    return run, finished


def results(run):
    """The bytes of weights, maps and statistics."""
    kinds = "members/*/weights.safetensors", "maps/*/*/*.arrow", "stats/*/*.arrow"
    return {str(path.relative_to(run)): path.read_bytes() for kind in kinds for path in sorted(run.glob(kind))}


def test_it_is_told_why_and_the_rest_are_finished(cursed, undisturbed):
    run, finished = cursed
    assert finished.status == 1, finished.err
    page = (run / "report" / "index.html").read_text()
    for index, reason in REASONS.items():
        failed = json.loads((run / "members" / f"{index:04d}" / "failed.json").read_text())
        assert reason in failed["reason"]
        assert failed["attempts"] == (2 if CURSES[index] in DEADLY else 1)
        assert f"member {index} failed: {failed['reason']}\n" in finished.err
        assert "emory" in failed["reason"]
        assert failed["reason"][:40].replace("'", "&#x27;") in page
    assert "--retry-failed" in finished.err
    assert sorted(path.parent.name for path in run.glob("members/*/member.json")) == ["0000", "0003"]
    assert sorted(path.name for path in run.glob("maps/gradient/member=*")) == ["member=0000", "member=0003"]
    expected, found = results(undisturbed), results(run)
    kept = [name for name in found if name.startswith(("members/", "maps/"))]
    assert [name for name in kept if found[name] != expected[name]] == []
    assert [str(path) for path in run.rglob(".tmp-*")] == []


def test_what_a_worker_warns_of_stands_in_the_logs(undisturbed):
    lines = [line for log in undisturbed.glob("logs/train-slot-*.log") for line in log.read_text().splitlines()]
    assert {line.partition(" ")[2] for line in lines if "cursed" in line} == {"UserWarning: this network may be cursed"}


def test_mlflow_has_them_as_failed(cursed, place):
    run, _ = cursed
    ids = json.loads((run / "mlflow.json").read_text())
    mlflow = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    children = {int(index): mlflow.get_run(run_id) for index, run_id in ids["member_run_ids"].items()}
    statuses = {index: child.info.status for index, child in children.items()}
    assert statuses == {index: "FAILED" if index in CURSES else "FINISHED" for index in range(6)}
    for index, reason in REASONS.items():
        assert reason in children[index].data.tags["salcore.reason"]


def test_when_the_cause_is_gone_they_are_trained_as_if_nothing_had_been(cursed, undisturbed, ensemble, tmp_path):
    run = shutil.copytree(cursed[0], tmp_path / "run")
    finished = ensemble("doomed.yaml", "--retry-failed", run_dir=run)
    assert finished.status == 0, finished.err
    assert [str(path) for path in run.glob("members/*/failed.json")] == []
    assert results(run) == results(undisturbed)
    assert "its slot died" not in (run / "report" / "index.html").read_text()
