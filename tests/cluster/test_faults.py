"""Workers, actors and drivers killed in the middle of a run, in processes and clusters of their own.

Every test ends with the bytes of a run that nothing disturbed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from jobs.tracking import client

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),  # MLflow's use of SQLAlchemy
]

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, MEMBERS = 80, 4
SPEC = f"""
name: faults
data: {{name: digits, train_samples: 1000, eval_samples: 96}}
model: {{name: small_cnn, width: 4, norm: batch, dropout: 0.3}}
ensemble: {{members: {MEMBERS}}}
training: {{epochs: {EPOCHS}, batch_size: 64}}
cluster: {{slots: 2}}
attribution: {{batch_size: 16, shard_samples: 16, methods: [{{name: smoothgrad, num_samples: 200}}]}}
"""


@dataclass
class Driver:
    """`python -m jobs.ensemble` in a process of its own, with a cluster of its own."""

    run: Path
    process: subprocess.Popen
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    @property
    def err(self) -> str:
        return Path(f"{self.run}.err").read_text()

    def wait(self, what: str, met: Callable[[], bool], seconds: float = 300) -> None:
        """Until something holds; fails if the command ends before."""
        over = time.monotonic() + seconds
        while not met():
            assert self.process.poll() is None, f"ended before {what}: {self.err}"
            assert time.monotonic() < over, f"no {what} in {seconds} s: {self.err}"
            self.processes()
            time.sleep(0.05)

    def end(self, seconds: float = 400) -> int:
        """Exit status of the command."""
        self.processes()
        return self.process.wait(seconds)

    def processes(self, name: str = "") -> dict[int, psutil.Process]:
        """Living processes of this run's cluster whose title holds `name`."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self.seen.setdefault(process.pid, process)
        return {pid: process for pid, process in self.seen.items() if name in title(process)}

    def members(self, file: str) -> set[int]:
        return {int(path.parent.name) for path in self.run.glob(f"members/*/{file}")}


def title(process: psutil.Process) -> str:
    """What Ray calls a process; empty for one that is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return " ".join(process.cmdline()[:1]) or "-"
    return ""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "faults.yaml").write_text(SPEC)
    return folder


@contextlib.contextmanager
def drivers(home: Path) -> Iterator[Callable[[str], Driver]]:
    """A function that starts the command on a run directory; what it left behind is ended."""
    started = []

    def start(name: str) -> Driver:
        folder = home / name
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with Path(f"{folder}.out").open("w") as out, Path(f"{folder}.err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.ensemble", "faults.yaml", "--run-dir", name],
                cwd=home,
                env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        started.append(Driver(folder, process))
        return started[-1]

    try:
        yield start
    finally:
        for driver in started:
            left = driver.processes()
            driver.process.kill()
            driver.process.wait()
            for process in left.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def start(home) -> Iterator[Callable[[str], Driver]]:
    with drivers(home) as start:
        yield start


@pytest.fixture(scope="module")
def undisturbed(home) -> Path:
    """A run that nothing disturbs: what all others have to equal."""
    with drivers(home) as start:
        driver = start("undisturbed")
        assert driver.end() == 0, driver.err
    return driver.run


def results(run: Path) -> dict[str, bytes]:
    """The bytes of weights and statistics."""
    found = [*run.glob("members/*/weights.safetensors"), *run.glob("stats/*/*.arrow")]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(found)}


def assert_equal_results(one: Path, other: Path) -> None:
    expected, got = results(one), results(other)
    assert len(expected) == MEMBERS + 6
    assert list(expected) == list(got)
    assert [name for name in expected if expected[name] != got[name]] == []


def test_killed_slot_and_killed_actor(start, undisturbed):
    driver = start("killed")
    driver.wait("two members in training", lambda: {0, 1} <= driver.members("checkpoint.pt"))
    slots = driver.processes("RayTrainWorker")
    assert len(slots) == 2
    dead, other = slots
    slots[dead].kill()
    driver.wait("news of it", lambda: "a slot died; its member goes to the next free one" in driver.err)

    def all_trained() -> bool:
        trained = len(driver.members("member.json"))
        assert trained == MEMBERS or title(slots[other]), "the other slot was restarted"
        return trained == MEMBERS

    driver.wait("all members trained", all_trained)
    for member in range(MEMBERS):
        history = pq.read_table(driver.run / "members" / f"{member:04d}" / "history.parquet")
        assert history["epoch"].to_pylist() == list(range(1, EPOCHS + 1))

    driver.wait("a shard", lambda: any(driver.run.glob("maps/*/*/*.arrow")))
    actors = {pid: process for name in ("_Actor", "MapWorker") for pid, process in driver.processes(name).items()}
    assert actors
    next(iter(actors.values())).kill()
    made = len(list(driver.run.glob("maps/*/*/*.arrow")))
    assert made < 6 * MEMBERS, "it was killed in the middle"
    assert driver.end() == 0, driver.err
    assert_equal_results(undisturbed, driver.run)


def mlflow_runs(home: Path, run: Path):
    """The parent and its children by member."""
    ids = json.loads((run / "mlflow.json").read_text())
    mlflow = client(f"sqlite:///{home / 'runs' / 'mlflow.db'}")
    parent = mlflow.get_run(ids["parent_run_id"])
    of_parent = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = mlflow.search_runs([parent.info.experiment_id], of_parent)
    return mlflow, parent, {int(child.info.run_name.removeprefix("member-")): child for child in children}


def stamps(run: Path, members: set[int]) -> dict[str, int]:
    """Times of the files of trained members."""
    names = ("member.json", "weights.safetensors", "history.parquet")
    paths = [run / "members" / f"{member:04d}" / name for member in sorted(members) for name in names]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def test_interrupted_then_killed_driver(start, home, undisturbed):
    """SIGTERM, then the same command and SIGKILL, then the same command again."""
    driver = start("driver")

    def in_the_middle() -> bool:
        return bool(driver.members("member.json")) and bool(driver.members("checkpoint.pt"))

    driver.wait("a trained member and one in training", in_the_middle)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.end(60) == 130, driver.err
    told = [line for line in driver.err.splitlines() if "Go on with" in line]
    assert told == [
        "interrupted; what is finished is kept. Go on with: python -m jobs.ensemble faults.yaml --run-dir driver"
    ]
    assert "Traceback" not in driver.err
    trained = driver.members("member.json")
    assert 0 < len(trained) < MEMBERS
    assert not (driver.run / "run.lock").exists()
    _, parent, children = mlflow_runs(home, driver.run)
    assert parent.info.status == "KILLED"
    for member, child in children.items():
        assert child.info.status == ("FINISHED" if member in trained else "KILLED")
    assert_all_gone(driver)
    before = stamps(driver.run, trained)

    driver = start("driver")
    driver.wait("another trained member", lambda: driver.members("member.json") > trained)
    driver.processes()
    driver.process.kill()
    driver.process.wait()
    assert_all_gone(driver)
    assert (driver.run / "run.lock").exists()
    assert stamps(driver.run, trained) == before
    trained = driver.members("member.json")
    before = stamps(driver.run, trained)

    driver = start("driver")
    assert driver.end() == 0, driver.err
    assert stamps(driver.run, trained) == before
    assert_equal_results(undisturbed, driver.run)
    mlflow, parent, children = mlflow_runs(home, driver.run)
    assert parent.info.status == "FINISHED"
    assert sorted(children) == list(range(MEMBERS))
    for child in children.values():
        assert child.info.status == "FINISHED"
        for metric in ("train/loss", "eval/loss", "eval/accuracy"):
            steps = [point.step for point in mlflow.get_metric_history(child.info.run_id, metric)]
            assert sorted(steps) == list(range(1, EPOCHS + 1))
    for name, value in parent.data.metrics.items():
        points = mlflow.get_metric_history(parent.info.run_id, name)
        assert [point.value for point in points] == [value]


def assert_all_gone(driver: Driver, seconds: float = 30) -> None:
    """No process of a driver's cluster outlives it, but for Ray's agents, which notice later and touch no run."""
    over = time.monotonic() + seconds
    while left := [name for process in driver.seen.values() if (name := title(process)) and "Agent" not in name]:
        assert time.monotonic() < over, left
        time.sleep(0.2)
