"""A user's own network, images and weights, all outside this repository; single stages, and what comes after a run."""

import contextlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import ipc
from safetensors.torch import save_file
from torch import nn

import salcore
from jobs.compare import compare
from jobs.ensemble import ensemble as ensemble_command
from jobs.explain import explain
from jobs.reduce import reduce
from jobs.report import report
from jobs.status import status
from jobs.train import train
from tests.run_files import files

CLASSES = ("bar", "cross")

NETWORK = """
import torch
from torch import nn

from mylayers import Swish


class MyNet(nn.Module):
    def __init__(self, classes, hidden=8):
        super().__init__()
        self.first = nn.Conv2d(3, hidden, 3, padding=1)
        self.norm = nn.BatchNorm2d(hidden)
        self.act = Swish()
        self.last = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.last(self.act(self.norm(self.first(x))).mean((2, 3)))


def build(classes, hidden=8):
    return MyNet(classes, hidden)
"""

NEIGHBOUR = """
import torch
from torch import nn


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)
"""

SPEC = """
name: own
data: {name: "folder:pictures", image_size: 12, eval_samples: 9}
model: {name: "python:mynet:build", hidden: 4}
ensemble: {members: 2}
training: {epochs: 2, batch_size: 8}
cluster: {slots: 2}
attribution: {batch_size: 8, shard_samples: 6, methods: [gradient, {name: gradcam, layer: first}]}
"""


class SameNet(nn.Module):
    """The user's network again, in plain torch: what trained the five files."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(self.first(x))
        return self.last((x * torch.sigmoid(x)).mean((2, 3)))


def picture(path, kind, rng):
    """A small colour picture of any size with a bar or a cross."""
    height, width = rng.integers(10, 24, 2)
    pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    pixels[height // 2] = 255
    if kind == "cross":
        pixels[:, width // 2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def mine(place):
    """Everything of the user's, in the folder where they stand."""
    rng = np.random.default_rng(0)
    (place / "mynet.py").write_text(NETWORK)
    (place / "mylayers.py").write_text(NEIGHBOUR)
    (place / "own.yaml").write_text(SPEC)
    for kind in CLASSES:
        for number in range(24):
            picture(place / "pictures" / kind / f"{number:02d}.png", kind, rng)
    for number in range(5):
        torch.manual_seed(number)
        state = SameNet().state_dict()
        if number < 3:
            save_file(state, place / f"seed{number}.safetensors")
        else:
            wrapped = {f"module.{key}": value for key, value in state.items()}
            torch.save({"epoch": 7, "state_dict": wrapped}, place / f"seed{number}.pt")
    return place


def stats(run, method):
    return [ipc.open_file(path).read_all() for path in sorted((run / "stats" / method).glob("*.arrow"))]


def results(run):
    """The bytes of weights, maps and statistics."""
    found = [*run.glob("members/*/weights.safetensors"), *run.glob("maps/*/*/*.arrow"), *run.glob("stats/*/*.arrow")]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(found)}


@pytest.fixture(scope="module")
def trained(mine, ensemble, tmp_path_factory):
    """The user's network trained on the user's pictures."""
    run = tmp_path_factory.mktemp("own") / "run"
    finished = ensemble("own.yaml", run_dir=run)
    assert finished.status == 0, finished.err
    return run


def test_own_network_and_pictures(trained):
    run = salcore.open(trained)
    assert run.members == (0, 1)
    assert run.mean("gradient").shape == (9, 3, 12, 12)
    assert run.mean("gradcam").shape == (9, 1, 12, 12)
    record = run.record(0)
    assert record["classes"] == list(CLASSES)
    assert record["shape"] == [3, 12, 12]


def test_stages_one_by_one_equal_the_whole(mine, trained, ray_cluster, job, tmp_path):
    run = tmp_path / "staged"
    first = job(train, "own.yaml", "--run-dir", run)
    assert first.status == 0, first.err
    assert len(list(run.glob("members/*/member.json"))) == 2
    assert not (run / "maps").exists()
    early = job(report, run)  # it still sends MLflow what that has missed
    assert early.status == 0, early.err
    assert "no statistics yet" in early.out
    assert not (run / "report" / "index.html").exists()
    assert job(explain, run).status == 0
    assert len(list(run.glob("maps/*/*/*.arrow"))) == 8
    assert not (run / "stats").exists()
    before = files(run)
    assert "nothing to do" in job(explain, run).out
    assert files(run) == before
    third = job(reduce, run)
    assert third.status == 0
    assert re.search(r"^gradcam +\d", third.out, re.MULTILINE)
    assert (run / "stats" / "summary.parquet").exists()
    assert not (run / "report" / "index.html").exists()
    last = job(report, run)
    assert last.status == 0, last.err
    assert (run / "report" / "index.html").stat().st_size > 10_000
    assert results(run) == results(trained)
    again = job(ensemble_command, run)
    assert again.status == 0
    assert "nothing to do" in again.out


def test_own_five_weight_files(mine, ensemble, tmp_path):
    names = [f"seed{number}.{'safetensors' if number < 3 else 'pt'}" for number in range(5)]
    run = tmp_path / "five"
    finished = ensemble("own.yaml", f"ensemble={{weights: [{', '.join(names)}]}}", run_dir=run)
    assert finished.status == 0, finished.err
    opened = salcore.open(run)
    assert opened.members == (0, 1, 2, 3, 4)
    with contextlib.chdir(mine):
        data = opened.data()
    numbers = opened.column("gradient", "sample")
    scale = torch.from_numpy(data.std).float()[:, None, None]
    pixels = torch.from_numpy(data.evaluation.values[numbers] / 255.0).float()
    inputs = ((pixels - torch.from_numpy(data.mean)[:, None, None]) / scale).requires_grad_()
    labels = torch.from_numpy(data.evaluation.labels[numbers])
    for member in range(5):
        torch.manual_seed(member)
        network = SameNet().eval()
        logits = network(inputs)
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), inputs)
        stored = opened.maps("gradient", range(len(numbers)))[member]
        np.testing.assert_allclose(stored, gradient.numpy(), rtol=1e-4, atol=1e-6)
        assert opened.record(member)["weights_from"] == str(mine / names[member])


# A user's own pictures through a finished ensemble


def pictures_of_digits(folder, names):
    """Colour pictures of several sizes; `names` are their paths without ending."""
    rng = np.random.default_rng(1)
    for name in names:
        picture(folder / f"{name}.png", "cross", rng)


def test_own_pictures_with_labels(whole, ray_cluster, job, tmp_path):
    run, _ = whole
    pictures_of_digits(tmp_path / "labelled", ["3/a", "3/b", "7/a", "7/b", "7/c"])
    new, before = tmp_path / "new", results(run)
    finished = job(explain, run, f"data=folder:{tmp_path / 'labelled'}", "--run-dir", new)
    assert finished.status == 0, finished.err
    assert "train " not in finished.err
    for name in ("gradient", "integrated_gradients", "gradcam"):
        (part,) = stats(new, name)
        assert part["label"].to_pylist() == [3, 3, 7, 7, 7]
        assert part["target"].to_pylist() == [3, 3, 7, 7, 7]
        assert part["count"].to_pylist() == [3] * 5
    assert (new / "report" / "index.html").exists()
    assert results(run) == before
    for path in run.glob("members/*/weights.safetensors"):
        assert (new / path.relative_to(run)).read_bytes() == path.read_bytes()
    stamp = (new / "stats" / "gradient" / "part-00000.arrow").stat().st_mtime_ns
    again = job(explain, run, f"data=folder:{tmp_path / 'labelled'}", "--run-dir", new)
    assert again.status == 0, again.err
    assert (new / "stats" / "gradient" / "part-00000.arrow").stat().st_mtime_ns == stamp
    opened = salcore.open(new)
    assert opened.mean("gradient").shape == (5, 1, 8, 8)
    assert len(opened.data().evaluation) == 5


def test_own_pictures_without_labels(whole, ray_cluster, job, tmp_path):
    pictures_of_digits(tmp_path / "flat", ["one", "two", "three"])
    new = tmp_path / "new"
    finished = job(explain, whole[0], f"data=folder:{tmp_path / 'flat'}", "--run-dir", new)
    assert finished.status == 0, finished.err
    (part,) = stats(new, "gradient")
    assert part["label"].to_pylist() == [-1, -1, -1]
    assert part["target"].to_pylist() == majority(new)
    assert (new / "report" / "index.html").exists()
    assert "nan" not in finished.out
    assert job(status, new).status == 0


def majority(run):
    """The members' most frequent prediction, the smallest of equals, from the shards alone."""
    votes = []
    for member in sorted(run.glob("maps/gradient/member=*")):
        shards = [ipc.open_file(shard).read_all() for shard in sorted(member.glob("part-*.arrow"))]
        votes.append(np.concatenate([shard["prediction"].to_numpy() for shard in shards]))
    return [int(np.bincount(column).argmax()) for column in np.stack(votes).T]


def test_target_of_the_majority(copy, ray_cluster, job):
    finished = job(reduce, copy, "attribution.target=ensemble")
    assert finished.status == 0, finished.err
    targets = [target for part in stats(copy, "gradient") for target in part["target"].to_pylist()]
    assert targets == majority(copy)
    labels = [label for part in stats(copy, "gradient") for label in part["label"].to_pylist()]
    assert targets != labels


# After the run


def test_compare(whole, copy, ray_cluster, job, tmp_path):
    assert job(reduce, copy, "ensemble.members=2").status == 0
    page = tmp_path / "pages" / "compare.html"
    finished = job(compare, whole[0], copy, "--page", page)
    assert finished.status == 0, finished.err
    assert "gradient" in finished.out
    assert str(page) in finished.out
    assert "gradient" in page.read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page.read_text())
    stored = job(compare, whole[0], copy, "--page", (tmp_path / "stored" / "compare.html").as_uri())
    assert stored.status == 0, stored.err
    assert (tmp_path / "stored" / "compare.html").read_text() == page.read_text()
    refused = job(compare, whole[0])
    assert refused.status == 2
    assert refused.err.count("\n") == 1


def test_status(whole, job):
    run, _ = whole
    finished = job(status, run)
    assert finished.status == 0
    assert "train    3/3 members trained" in finished.out
    assert "explain  gradient: 9/9 shards, reduced" in finished.out
    assert "explain  gradcam: 6/6 shards, reduced" in finished.out
    assert "driver   none" in finished.out
    assert job(status, run / "members").status == 2


def test_open_in_a_notebook(whole):
    run = salcore.open(str(whole[0]))
    assert run.members == (0, 1, 2)
    assert run.methods == ("gradient", "integrated_gradients", "gradcam")
    assert run.mean("gradient").shape == run.variance("gradient").shape == (101, 1, 8, 8)
    assert run.mean("gradcam").shape == (50, 1, 8, 8)
    maps = run.maps("gradient", range(101))
    np.testing.assert_allclose(run.mean("gradient"), maps.mean(0), atol=1e-6 * np.abs(maps).max())
    np.testing.assert_allclose(run.variance("gradient"), maps.var(0, ddof=1), atol=1e-5 * maps.var(0).max())
    number = int(run.column("gradient", "sample")[60])
    sample = run.sample(number)
    assert sample.sample == number
    assert set(sample.mean) == {"gradient", "integrated_gradients"}, "gradcam explains the first 50"
    np.testing.assert_array_equal(sample.mean["gradient"], run.mean("gradient")[60])
    assert sample.snr["gradient"] == run.snr("gradient")[60]
    with pytest.raises(ValueError, match=r"`number`: .* the 101 explained samples, got -1"):
        run.sample(-1)
    labels, logits = run.logits()
    assert logits.shape == (3, 101, 10)
    data = run.data()
    np.testing.assert_array_equal(labels, data.evaluation.labels[data.evaluation.index])
    assert run.history(1)["epoch"].to_pylist() == [1, 2]
    assert run.summary["method"].to_pylist() == list(run.methods)
    assert "3 members" in repr(run)
    assert json.dumps(run.record(2)["metrics"])
