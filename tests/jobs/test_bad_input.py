"""The user's mistakes: exit status 2 and one line on the standard error that names the key, before any work."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from jobs import searches
from jobs.command import read
from jobs.compare import compare
from jobs.ensemble import ensemble
from jobs.explain import explain
from jobs.parameters import parameters
from jobs.reduce import reduce
from jobs.report import report
from jobs.status import status
from jobs.train import train
from jobs.tune import tune_

SPEC = """
data: {name: digits, train_samples: 60, eval_samples: 20}
model: {name: small_cnn, width: 4}
ensemble: {members: 2}
training: {epochs: 1}
attribution: {methods: [gradient]}
"""


@pytest.fixture(autouse=True)
def no_ray(request, monkeypatch):
    """Whatever is refused is refused before Ray is asked; one test says otherwise."""
    if "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr("ray.init", lambda *args, **kwargs: pytest.fail("Ray was started"))


@pytest.fixture
def spec(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    return file


@pytest.fixture
def refuse(job, tmp_path):
    """A function that runs a command, sees that it is refused in one line that starts with the key, and gives it."""

    def run(key, command, *arguments, run_dir=tmp_path / "run"):
        finished = job(command, *arguments, "--run-dir", run_dir)
        assert finished.status == 2, finished
        assert finished.out == ""
        assert finished.err.count("\n") == 1, finished.err
        assert finished.err.startswith(f"error: {key}: expected "), finished.err
        return finished.err

    return run


@pytest.mark.parametrize(
    ("override", "key", "told"),
    [
        ("training.epoch=3", "training.epoch", "epochs"),
        ("trainig.epochs=3", "trainig", "training"),
        ("model.witdh=3", "model.witdh", "width"),
        ("training.epochs=three", "training.epochs", "'three'"),
        ("training.epochs=1.5", "training.epochs", "1.5"),
        ("model.width=wide", "model.width", "'wide'"),
        ("data.name=digit", "data.name", "digits"),
        ("data=cifar", "data.name", "cifar10"),
        ("model.name=small_cn", "model.name", "small_cnn"),
        ("model=resnet17", "model.name", "resnet1"),
        ("model=python:nowhere_to_be_found:build", "model.name", "nowhere_to_be_found"),
        ("attribution.methods=[gradients]", "attribution.methods", "gradient"),
        ("attribution.methods=[{name: gradient, steps: 3}]", "attribution.methods", "steps"),
        ("attribution.methods=[{name: gradcam, layer: layer9}]", "attribution.methods", "layer9"),
        ("attribution.methods=[gradient, gradient]", "attribution.methods", "as"),
        ("attribution.target=10", "attribution.target", "10"),
        ("ensemble.members=0", "ensemble.members", "0"),
        ("training.guidance.mask_fraction=1.5", "training.guidance.mask_fraction", "1.5"),
        ("training.guidance.mask_fraction=-0.1", "training.guidance.mask_fraction", "-0.1"),
        ("data.eval_samples=100000", "data.eval_samples", "100000"),
        ("data.train_samples=100000", "data.train_samples", "100000"),
        ("ensemble.weights=[nowhere.pt]", "ensemble.weights.0", "nowhere.pt"),
        ("model.weights=nowhere.pt", "model.weights", "nowhere.pt"),
        ("data=folder:~nobody-of-that-name/images", "~nobody-of-that-name/images", "home folder of a user"),
        ("data.root=~nobody-of-that-name", "~nobody-of-that-name", "home folder of a user"),
        ("data=python:os.path:join", "data.name", "a function that takes no arguments"),
        ("cluster.slots=0", "cluster.slots", "at least 1"),
        ("tracking.uri=nowhere", "tracking.uri", "nowhere"),
        ("training.epochs", "training.epochs", "key.sub=value"),
    ],
)
def test_value(refuse, spec, override, key, told):
    line = refuse(key, ensemble, spec, override)
    assert told in line
    assert "/run" not in line or "--run-dir" in line


def test_spec_that_is_not_there(refuse):
    assert "digits" in refuse("SPEC", ensemble, "nowhere")


def test_nothing_is_left_of_a_refused_run(refuse, spec, tmp_path):
    refuse("training.epoch", ensemble, spec, "training.epoch=3")
    refuse("data.name", ensemble, spec, "data.name=digit")
    assert not (tmp_path / "run").exists()


# Run directories


def test_directory_whose_members_would_differ(refuse, spec, tmp_path, job):
    run = tmp_path / "run"
    planned_by(spec, run)
    before = (run / "spec.yaml").read_bytes()
    assert "training.learning_rate" in refuse("--run-dir", ensemble, spec, "training.learning_rate=0.5")
    assert "model.width" in refuse("--run-dir", ensemble, run, "model.width=8")
    assert "ensemble.root_seed" in refuse("--run-dir", ensemble, run, "ensemble.root_seed=8")
    assert (run / "spec.yaml").read_bytes() == before
    growing = job(ensemble, spec, "ensemble.members=3", "data.eval_samples=30", "--plan", "--run-dir", run)
    assert growing.status == 0, "a run may grow"


def planned_by(spec, run):
    """What a run that began has in its directory."""
    from jobs.prepare import prepare, resolved

    plan = prepare(read("ensemble", "", [str(spec), "--run-dir", str(run)]))
    plan.store.write("spec.yaml", resolved(plan).encode())


@pytest.mark.parametrize("command", [ensemble, train, explain, reduce, parameters, report])
def test_directory_of_a_search(refuse, spec, tmp_path, job, command):
    run = tmp_path / "run"
    found = searches.checked(read("tune", "", [str(spec), "search.mask_fraction=[0.3]", "--run-dir", str(run)]))
    found.plan.store.write("spec.yaml", searches.text_of(found).encode())
    found.plan.store.write("report/index.html", b"the search's")
    before = (run / "spec.yaml").read_bytes()
    for source in (run, spec):
        assert f"python -m jobs.ensemble {run / 'chosen.yaml'}" in refuse("--run-dir", command, source)
    assert (run / "spec.yaml").read_bytes() == before
    assert (run / "report" / "index.html").read_bytes() == b"the search's"
    assert job(tune_, run, "--plan").status == 0


def test_second_driver(refuse, spec, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        lock = {
            "host": platform.node(),
            "pid": other.pid,
            "started": "2026-01-01T00:00:00+00:00",
            "process_started": psutil.Process(other.pid).create_time(),
        }
        (run / "run.lock").write_text(json.dumps(lock))
        line = refuse("--run-dir", ensemble, spec)
        assert f"process {other.pid} on {platform.node()}" in line
        assert json.loads((run / "run.lock").read_text()) == lock
    finally:
        other.kill()
        other.wait()


def test_unwritable_directory(refuse, spec, tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert str(tmp_path / "file") in refuse("--run-dir", ensemble, spec, run_dir=tmp_path / "file" / "run")
    if os.geteuid():  # root writes everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        assert str(tmp_path / "closed") in refuse("--run-dir", ensemble, spec, run_dir=tmp_path / "closed" / "run")
    refuse("--run-dir", ensemble, spec, run_dir="/proc/nothing/run")
    refuse("--run-dir", ensemble, spec, run_dir="nowhere://bucket/run")


def test_relative_directory_inside_a_ray_job(refuse, spec, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "absolute" in refuse("--run-dir", ensemble, spec, run_dir="runs/mine")


def test_relative_page_inside_a_ray_job(job, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for page in ([], ["--page", "mine.html"]):
        finished = job(compare, "/one", "/two", *page)
        assert finished.status == 2
        assert finished.err.startswith("error: --page: expected an absolute "), finished.err


# Data


def test_labels_out_of_range(refuse, spec, tmp_path):
    images = np.zeros((20, 8, 8), np.uint8)
    np.savez(tmp_path / "bad.npz", images=images, labels=np.arange(20) % 3 - 1)
    assert "-1" in refuse("data.name", ensemble, spec, f"data=npz:{tmp_path / 'bad.npz'}")
    np.savez(tmp_path / "high.npz", images=images, labels=np.arange(20) % 3, classes=np.array(["a", "b"]))
    assert "got 2" in refuse("data.name", ensemble, spec, f"data=npz:{tmp_path / 'high.npz'}")


def picture(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).save(path)


def test_folder_without_images(refuse, spec, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refuse("data.name", ensemble, spec, f"data=folder:{tmp_path / 'empty'}")
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "note.txt").write_text("not an image")
    refuse("data.name", ensemble, spec, f"data=folder:{tmp_path / 'texts'}")
    refuse("data.name", ensemble, spec, f"data=folder:{tmp_path / 'nowhere'}")


def test_corrupt_image_is_named_before_training(refuse, spec, tmp_path):
    folder = tmp_path / "pictures"
    for number in range(12):
        picture(folder / "ab"[number % 2] / f"{number:02d}.png")
    whole = (folder / "b" / "07.png").read_bytes()
    (folder / "b" / "07.png").write_bytes(whole[: len(whole) // 2])
    line = refuse("data.name", ensemble, spec, f"data={{name: 'folder:{folder}', eval_samples: 2}}")
    assert str(folder / "b" / "07.png") in line
    assert not (tmp_path / "run").exists()


def test_pictures_of_different_sizes_without_image_size(refuse, spec, tmp_path):
    picture(tmp_path / "pictures" / "a" / "1.png")
    picture(tmp_path / "pictures" / "b" / "2.png", (9, 8))
    refuse("data.image_size", ensemble, spec, f"data=folder:{tmp_path / 'pictures'}")


# Own pictures through a finished ensemble, and the other commands


def test_own_pictures_of_an_unknown_class(refuse, whole, tmp_path):
    picture(tmp_path / "pictures" / "cat" / "1.png")
    picture(tmp_path / "pictures" / "dog" / "1.png")
    new = tmp_path / "new"
    assert "cat" in refuse("data.name", explain, whole[0], f"data=folder:{tmp_path / 'pictures'}", run_dir=new)
    assert refuse("--run-dir", explain, whole[0], f"data=folder:{tmp_path / 'pictures'}", run_dir=whole[0])


def test_commands_on_what_is_no_run(job, tmp_path):
    finished = job(status, tmp_path)
    assert (finished.status, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith("error: RUN: ")


# What only the cluster knows


@pytest.mark.parametrize(
    ("override", "key"),
    [("cluster.gpus_per_slot=64.0", "cluster.gpus_per_slot"), ("training.threads=4096", "training.threads")],
)
def test_more_than_the_cluster_has(ray_cluster, job, spec, tmp_path, override, key):
    finished = job(ensemble, spec, override, "--run-dir", tmp_path / "run")
    assert finished.status == 2
    assert finished.err.splitlines()[-1].startswith(f"error: {key}: expected "), finished.err
    assert len(finished.err.splitlines()) == 1, finished.err
    assert not list((tmp_path / "run").glob("members/*/*"))


def test_no_traceback_from_a_process(spec, tmp_path):
    """The real thing, once: `python -m jobs.ensemble` with an unknown key."""
    root = Path(__file__).resolve().parents[2]
    finished = subprocess.run(
        [sys.executable, "-m", "jobs.ensemble", str(spec), "training.epoch=3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: training.epoch: expected a known key")
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_directory_of_an_unknown_user(job, spec):
    finished = job(ensemble, spec, "--run-dir", "~nobody-of-that-name/run")
    assert (finished.status, finished.out, finished.err.count("\n")) == (2, "", 1)
    assert finished.err.startswith("error: ~nobody-of-that-name/run: expected a path whose ~ stands for the home ")


def test_weights_to_start_from_that_are_another_networks(refuse, spec, tmp_path):
    file = tmp_path / "other.pt"
    torch.save(torch.nn.Linear(3, 2).state_dict(), file)
    assert "missing, first" in refuse("model.weights", ensemble, spec, f"model.weights={file}")


@pytest.mark.parametrize("content", [b"", b"root:x:0:0\n", b"training: {epochs: 3}\n", b"\x80\x02]q\x00."])
def test_files_that_are_no_weights(refuse, spec, tmp_path, content):
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    for key, value in (("model.weights", file), ("ensemble.weights", f"[{file}]"), ("ensemble.start", f"[{file}]")):
        told = refuse(key if key.startswith("model") else f"{key}.0", ensemble, spec, f"{key}={value}")
        assert "a state dict" in told


def test_too_little_memory_is_told_in_one_line(job, spec, monkeypatch, tmp_path):
    def large(*_):
        raise MemoryError("Unable to allocate 700. GiB for an array")

    monkeypatch.setattr("jobs.prepare.load", large)
    finished = job(ensemble, spec, "--run-dir", tmp_path / "run")
    assert (finished.status, finished.out) == (1, "")
    assert finished.err == (
        "error: not enough memory (Unable to allocate 700. GiB for an array): ask for fewer or smaller samples\n"
    )
