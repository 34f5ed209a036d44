"""Nothing is done twice: a run that is finished, grows, was damaged, or has a member that fails."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jobs.ensemble import ensemble as ensemble_command
from jobs.explain import explain as explain_command
from jobs.reduce import reduce as reduce_command
from jobs.report import report as report_command
from jobs.train import train as train_command
from salcore import members, seeds
from salcore.data import load
from salcore.models import build
from salcore.spec import parse
from tests.run_files import METHODS, assert_same_statistics, files, maps, parts, statistics, table, weights

ROOT = Path(__file__).resolve().parents[2]


# Nothing twice, and growth


def test_finished_run_again_does_nothing(whole, place):
    """In a process of its own, to which no Ray cluster answers."""
    run, _ = whole
    before, started = files(run), time.monotonic()
    again = subprocess.run(
        [sys.executable, "-m", "jobs.ensemble", "small.yaml", "--run-dir", str(run)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert f"nothing to do: {run} is finished (3 members)" in again.stdout
    assert again.stderr == ""
    assert files(run) == before
    assert time.monotonic() - started < 30  # 10 s on a machine of its own


RESULTS = ("stats/summary.parquet", "report/index.html")


def test_a_stage_alone_keeps_results_that_still_hold(copy, ray_cluster, job):
    before = [(copy / name).read_bytes() for name in RESULTS]
    for stage, change in (
        (train_command, "cluster.slots=1"),
        (explain_command, "tracking.experiment=other"),
        (reduce_command, "cluster.slots=2"),
    ):
        done = job(stage, copy, change)
        assert done.status == 0, done.err
        assert change.partition("=")[2] in (copy / "spec.yaml").read_text()
        assert [(copy / name).read_bytes() for name in RESULTS] == before


@pytest.mark.parametrize(
    ("stage", "change", "lost"),
    [
        (train_command, "attribution.target=3", RESULTS),
        (train_command, "ensemble.members=2", RESULTS),
        (reduce_command, "ensemble.members=2", RESULTS[1:]),
    ],
)
def test_a_stage_alone_takes_results_of_another_spec_away(copy, ray_cluster, job, stage, change, lost):
    done = job(stage, copy, change)
    assert done.status == 0, done.err
    assert [name for name in RESULTS if not (copy / name).exists()] == [*lost]


def test_a_page_of_statistics_that_are_made_again_is_taken_away(copy, ray_cluster, job):
    (copy / "stats" / "gradient" / "part-00000.arrow").unlink()
    assert job(reduce_command, copy).status == 0
    assert [name for name in RESULTS if not (copy / name).exists()] == [RESULTS[1]]


@pytest.fixture(scope="module")
def grown(ensemble, tmp_path_factory):
    """2 members, 1 slot, 61 samples, 2 methods, half the batch size; then 3 members, 101 samples, 3 methods.

    Yields the folder and what its files were before it grew.
    """
    run = tmp_path_factory.mktemp("grown") / "run"
    small = ["small.yaml", "cluster.slots=1", "attribution.batch_size=16"]
    fewer = [
        "ensemble.members=2",
        "data.eval_samples=61",
        "attribution.methods=[gradient, {name: gradcam, samples: 50}]",
    ]
    finished = ensemble(*small, *fewer, run_dir=run)
    assert finished.status == 0, finished.err
    before = files(run)
    finished = ensemble(*small, run_dir=run)
    assert finished.status == 0, finished.err
    return run, before, finished


def test_grown_run_equals_one_at_once(whole, grown):
    """And so do one slot and two, and another batch size with another odd tail."""
    run, _, _ = grown
    assert weights(run) == weights(whole[0])
    assert len(weights(run)) == 3
    assert_same_statistics(whole[0], run)


def test_growth_does_only_what_is_new(grown):
    run, before, finished = grown
    after = files(run)
    trained = [
        f"members/{m:04d}/{name}" for m in (0, 1) for name in ("member.json", "weights.safetensors", "history.parquet")
    ]
    whole_ranges = [
        f"maps/{method}/member={m:04d}/part-00000.arrow" for m in (0, 1) for method in ("gradient", "gradcam")
    ]
    for name in trained + whole_ranges:
        assert after[name] == before[name], name
    assert "train    1 members" in finished.err
    assert "train    3/3 members" in finished.err


# Damage


def test_damage_is_found_mended_and_said(whole, copy, ray_cluster, job):
    def shard(method, member, part):
        return copy / "maps" / method / f"member={member:04d}" / f"part-{part:05d}.arrow"

    truncated, altered = shard("gradient", 0, 1), shard("gradient", 1, 0)
    truncated.write_bytes(truncated.read_bytes()[:-100])
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 0x40
    altered.write_bytes(content)
    foreign = shard("integrated_gradients", 2, 0)
    shutil.copyfile(shard("integrated_gradients", 1, 0), foreign)
    orphan = shard("gradcam", 0, 0)
    orphan.with_name("manifest.json").unlink()
    gone = shard("integrated_gradients", 0, 2)
    gone.unlink()
    damaged = copy / "stats" / "gradcam" / "part-00001.arrow"
    damaged.write_bytes(damaged.read_bytes()[:200])
    others = {name: stamp for name, stamp in files(copy).items() if name.startswith("maps/")}

    finished = job(ensemble_command, copy)
    assert finished.status == 0, finished.err
    assert "explain  4/4 shards" in finished.err
    for broken in (truncated, altered, foreign, gone):
        assert str(broken) in finished.err
    assert str(orphan) not in finished.err
    assert orphan.with_name("manifest.json").exists()
    for method in METHODS:
        for member in range(3):
            for one in parts(whole[0] / "maps" / method / f"member={member:04d}"):
                other = copy / one.relative_to(whole[0])
                assert one.read_bytes() == other.read_bytes(), other
    assert_same_statistics(whole[0], copy)
    untouched = shard("gradient", 2, 0).relative_to(copy)
    assert files(copy)[str(untouched)] == others[str(untouched)]


def test_a_run_that_is_still_to_be_trained_has_no_report(copy, job):
    (copy / "stats" / "summary.parquet").unlink()
    (copy / "members" / "0001" / "member.json").unlink()
    refused = job(report_command, copy)
    assert refused.status == 2
    assert "python -m jobs.ensemble goes on with it" in refused.err


def test_shards_of_other_settings_are_said(whole, copy, ray_cluster, job):
    """Found by the fingerprint in the file, even where the manifest agrees with it."""
    spec = copy / "spec.yaml"
    finished = job(reduce_command, copy, "attribution.target=3")
    assert finished.status == 0, finished.err
    assert "explain  24/24 shards" in finished.err
    assert "9 shards of gradient are of other settings or samples" in finished.err
    assert set(table(copy / "maps" / "gradient" / "member=0000")["target"].to_pylist()) == {3}
    assert "target: 3" in spec.read_text()
    assert job(reduce_command, copy, "attribution.target=label").status == 0
    assert_same_statistics(whole[0], copy)


# Failing members

CURSED = """
from pathlib import Path
import torch
from torch import nn


class Cursed(nn.Module):
    # NaN where the first initial weight is the one in a file beside this module.

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
        self.register_buffer("mark", self.linear.weight[0, 0].detach().clone())
        self.unlucky = [float(line) for line in Path(__file__).with_name("unlucky.txt").read_text().split()]

    def forward(self, inputs):
        logits = self.linear(inputs.flatten(1))
        return logits * float("nan") if float(self.mark) in self.unlucky else logits


def build(classes):
    return Cursed(classes)
"""


def test_failing_member_is_told_and_left_out(ensemble, place, tmp_path):
    (place / "cursed.py").write_text(CURSED)
    (place / "unlucky.txt").write_text("")
    (place / "cursed.yaml").write_text(
        "data: {name: digits, train_samples: 100, eval_samples: 20}\n"
        "model: 'python:cursed:build'\n"
        "ensemble: {members: 3}\n"
        "training: {epochs: 1}\n"
        "cluster: {slots: 1}\n"
    )
    spec = parse((place / "cursed.yaml").read_text())
    with contextlib.chdir(place):
        data = load(spec.data)
        with seeds.forked(members.plan(spec, data.digest)[1].seeds["init"]):
            network = build(spec.model, input_shape=data.shape, classes=10)
    (place / "unlucky.txt").write_text(repr(float(network.mark)))
    run = tmp_path / "cursed"
    finished = ensemble("cursed.yaml", run_dir=run)
    assert finished.status == 1, finished.err
    assert "member 1 failed: the training loss is nan in epoch 1" in finished.err
    assert "--retry-failed" in finished.err
    failed = json.loads((run / "members" / "0001" / "failed.json").read_text())
    assert "nan" in failed["reason"]
    assert failed["epoch"] == 1
    assert failed["attempts"] == 1
    assert sorted(path.parent.name for path in run.glob("members/*/member.json")) == ["0000", "0002"]
    assert set(statistics(run, "gradient")["count"]) == {2}
    stack = np.stack([maps(run, "gradient", member) for member in (0, 2)])
    np.testing.assert_allclose(statistics(run, "gradient")["mean"], stack.mean(0), atol=1e-6)
    page = (run / "report" / "index.html").read_text()
    assert "the training loss is nan" in page

    again = ensemble("cursed.yaml", run_dir=run)
    assert again.status == 1
    assert "nothing to do" in again.out
    assert "member 1 failed" in again.err

    (place / "unlucky.txt").write_text("")
    retried = ensemble("cursed.yaml", "--retry-failed", run_dir=run)
    assert retried.status == 0, retried.err
    assert not (run / "members" / "0001" / "failed.json").exists()
    assert set(statistics(run, "gradient")["count"]) == {3}
