"""Trials whose GPU fails: their process takes no more work, and after so many attempts they are given up."""

import json
import re

import pytest

from jobs.tune import tune_

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

NETWORK = """
from pathlib import Path

import torch
from torch import nn

LEFT = Path(__file__).with_name("left")


class Failing(nn.Module):
    # Brings its GPU to fail as often as stands in a file beside this module.

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)

    def forward(self, inputs):
        left = int(LEFT.read_text())
        if self.training and len(inputs) > 2 and left:  # the command tries two samples
            LEFT.write_text(str(left - 1))
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\\nSearch for it.")
        return self.linear(inputs.flatten(1))


def build(classes):
    return Failing(classes)
"""
SPEC = """
name: failing
data: {name: digits, train_samples: 100, eval_samples: 20}
model: 'python:failing:build'
ensemble: {members: 2}
training: {epochs: 1}
cluster: {slots: 1, attempts: 2}
attribution: {methods: [gradient]}
search: {mask_fraction: [0.5], weight: [1.0], accuracy_drop_at_most: null}
"""


def test_a_trial_whose_gpu_fails_goes_on_in_another_process_or_is_given_up(ray_cluster, job, place, tmp_path):
    """Standard training fails at both of its attempts, and the other trial at its first."""
    (place / "failing.py").write_text(NETWORK)
    (place / "failing.yaml").write_text(SPEC)
    (place / "left").write_text("3")
    finished = job(tune_, "failing.yaml", "--run-dir", tmp_path / "run")
    folders = [tmp_path / "run" / "trials" / name for name in ("standard", "k0.5-lambda1")]
    given_up, done = (json.loads((folder / "trial.json").read_text()) for folder in folders)

    reason = "its process died 2 times (CUDA error: an illegal memory access was encountered)"
    assert (given_up["state"], given_up["reason"]) == ("failed", reason)
    assert f"standard failed: {reason}\n" in finished.err
    assert finished.status == 1
    assert (done["state"], len(done["members"])) == ("finished", 2)
    logs = [(folder / "logs" / "trial.log").read_text() for folder in folders]
    processes = [process for log in logs for process in re.findall(r"process (\d+)", log)]
    assert len({*processes}) == len(processes) == 4, "none took more work after its GPU had failed"
