"""A user's network whose gradient is not a number for some members and samples, from the command to the page."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import salcore
from jobs.compare import compare
from jobs.reduce import reduce as reduce_command
from jobs.status import status
from jobs.tracking import client
from tests.run_files import files, maps, statistics, table

NETWORK = """
import torch
from torch import nn


class Rooted(nn.Module):
    '''Its logits hold the root of a squared difference of two pixels, whose slope is 0 / 0 where they are equal.'''

    def __init__(self, classes, everywhere):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Linear(5, classes)
        first, second = torch.randperm(64)[:2]
        self.register_buffer("first", first.clone())
        self.register_buffer("second", (first if everywhere else second).clone())

    def forward(self, x):
        pixels = x.flatten(1)
        root = (pixels[:, self.first] - pixels[:, self.second]).square().sqrt()
        features = self.conv(x).relu().mean((2, 3))
        return self.last(torch.cat([features, root[:, None]], dim=1))


def build(classes, everywhere=False):
    return Rooted(classes, everywhere)
"""

SPEC = """
name: rooted
data: {name: digits, train_samples: 100, eval_samples: 50}
model: {name: "python:rooted:build"}
ensemble: {members: 5}
training: {epochs: 1, batch_size: 32}
cluster: {slots: 2}
attribution: {batch_size: 16, shard_samples: 20, methods: [gradient, {name: gradcam, layer: conv}]}
"""


@pytest.fixture(scope="module")
def rooted(place, ensemble, tmp_path_factory):
    """A finished run of it, and what it printed."""
    (place / "rooted.py").write_text(NETWORK)
    (place / "rooted.yaml").write_text(SPEC)
    folder = tmp_path_factory.mktemp("rooted") / "run"
    finished = ensemble("rooted.yaml", run_dir=folder)
    assert finished.status == 0, finished.err
    return folder, finished


@pytest.fixture(scope="module")
def finite(rooted):
    """Which maps are finite, `(M, N)`, and the samples' numbers, read with pyarrow alone."""
    found = np.stack([np.isfinite(maps(rooted[0], "gradient", member)).all((1, 2, 3)) for member in range(5)])
    assert 0 < (~found).sum() < found.size / 2, "the network makes some such maps, not most"
    assert (found.sum(0) < 5).sum() > 5
    return found, table(rooted[0] / "maps/gradient/member=0000")["sample"].to_numpy()


def test_members_and_samples_are_named(rooted, finite):
    run, finished = rooted
    told = re.findall(r"^member (\d): gradient of samples? (.*) is not finite; left out", finished.err, re.MULTILINE)
    log = re.findall(r"member (\d): gradient of samples (.*) is not finite", (run / "logs/explain.log").read_text())
    good, sample = finite
    logged = {(int(member), int(number)) for member, numbers in log for number in numbers.split(", ")}
    assert logged == {(member, sample[place]) for member, place in np.argwhere(~good)}
    assert 0 < len(told) <= 5 < len(log)
    for member, numbers in told:
        named = {(int(member), int(number)) for number in re.findall(r"\d+", numbers.partition(" more")[0])[:5]}
        assert named <= logged
    assert f"{len(log) - len(told)} more shards hold maps that are not finite" in finished.err
    assert "gradcam of sample" not in finished.err


def test_statistics_are_over_the_finite_maps(rooted, finite):
    got, (good, _) = statistics(rooted[0], "gradient"), finite
    np.testing.assert_array_equal(got["count"], good.sum(0))
    stack = np.stack([maps(rooted[0], "gradient", member) for member in range(5)])
    for place in range(50):
        chosen = stack[good[:, place], place]
        np.testing.assert_allclose(got["mean"][place], chosen.mean(0), rtol=1e-5, atol=1e-7)
        if len(chosen) > 1:
            snr = np.sqrt((chosen.mean(0) ** 2).sum() / chosen.var(0, ddof=1).sum())
            assert got["snr"][place] == pytest.approx(snr, rel=1e-5)
    assert (statistics(rooted[0], "gradcam")["count"] == 5).all()


def test_they_are_counted_wherever_numbers_are_told(rooted, finite, place, job):
    run, finished = rooted
    count = int((~finite[0]).sum())
    summary = {row["method"]: row for row in pq.read_table(run / "stats/summary.parquet").to_pylist()}
    assert summary["gradient"]["non_finite"] == count
    assert summary["gradcam"]["non_finite"] == 0
    assert np.isfinite([summary["gradient"][name] for name in ("snr", "snr_low", "snr_debiased_high")]).all()
    told = rf"gradient: {count} of 250 maps are not finite \(members? .*; samples .* more\)"
    assert re.search(told + ": they are left out$", finished.out, re.MULTILINE)
    assert re.search(told, (run / "report/index.html").read_text())
    lines = job(status, run).out.splitlines()
    assert f"explain  gradient: 15/15 shards, reduced; {count} maps not finite, left out" in lines
    assert "explain  gradcam: 15/15 shards, reduced" in lines
    ids = json.loads((run / "mlflow.json").read_text())
    metrics = client(f"sqlite:///{place / 'runs' / 'mlflow.db'}").get_run(ids["parent_run_id"]).data.metrics
    assert metrics["non_finite/gradient"] == count
    assert "non_finite/gradcam" not in metrics


def test_a_run_opens_and_compares(rooted, finite, job):
    run = salcore.open(rooted[0])
    stored = run.maps("gradient", range(50))
    np.testing.assert_array_equal(np.isfinite(stored).all((2, 3, 4)), finite[0])
    assert run.mean("gradient").shape == (50, 1, 8, 8)
    members, chosen = run.finite_maps("gradient", int(np.argmin(finite[0].sum(0))))
    assert len(members) == len(chosen) == finite[0].sum(0).min()
    assert job(compare, rooted[0], rooted[0]).status == 0


def test_the_same_command_again_does_nothing(rooted, ensemble):
    before = files(rooted[0])
    again = ensemble("rooted.yaml", run_dir=rooted[0])
    assert again.status == 0
    assert "nothing to do" in again.out
    assert re.search(r"gradient: \d+ of 250 maps are not finite", again.out)
    assert files(rooted[0]) == before


def test_half_the_precision_has_the_same_maps(rooted, finite, ray_cluster, job, tmp_path):
    copy = shutil.copytree(rooted[0], tmp_path / "copy")
    finished = job(reduce_command, copy, "attribution.dtype=float16")
    assert finished.status == 0, finished.err
    np.testing.assert_array_equal(statistics(copy, "gradient")["count"], finite[0].sum(0))


def test_a_run_without_any_finite_map_ends_well(rooted, ensemble, tmp_path):
    run = tmp_path / "nothing"
    changes = ("model.everywhere=true", "ensemble.members=2", "training.epochs=0", "attribution.methods=[gradient]")
    finished = ensemble("rooted.yaml", *changes, run_dir=run)
    assert finished.status == 0, finished.err
    assert "gradient: 100 of 100 maps are not finite (members 0 and 1; samples" in finished.out
    assert "100 of 100 maps" in (run / "report/index.html").read_text()
    assert not (run / "report/maps.png").exists()
    assert (statistics(run, "gradient")["count"] == 0).all()
