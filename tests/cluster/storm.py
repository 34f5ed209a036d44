"""A storm: a seeded sequence of SIGKILLs on everything that a run consists of, and what must stand at its end.

`python -m tests.cluster.storm --kills 50 --members 12` (`make soak`), some twenty minutes on 2 cores.

Slots, explain actors, reduce tasks, nodes (their raylets), the MLflow server and the driver are killed while an
ensemble is trained, explained and reduced on a cluster of a head and two nodes. A driver that died is started again
with the same command, a server and a node again as a supervisor would. In the end the run has to be byte for byte that
of one that nothing disturbed, without files that nobody finished, and MLflow has to know each member once.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.cluster import mlflow_servers
from tests.cluster.killing import ROOT
from tests.cluster.nodes import cluster, raylet

TITLES = {
    "slot": ("ray::RayTrainWorker",),
    "explain actor": ("ray::_Actor", "ray::MapWorker"),
    "reduce task": ("ray::reduce ",),
}
"""How the titles of Ray's processes begin."""
WEIGHTS = {"slot": 8, "explain actor": 8, "reduce task": 30, "node": 2, "mlflow server": 1, "driver": 1}
"""How often each is taken, where it is there, once all kinds that are there were taken once."""
KEPT = {"explain actor": 0.3, "reduce task": 0.1}
"""Parts of all kills that are kept until such a process is seen: a storm would spend itself on training."""
NODES = 2
PAUSE_S = 1.0, 6.0
"""Seconds from one kill to the next, counted from when the run has made a file again."""
AT_ONCE = 0.3
"""How often they count from the kill itself, so that the next one comes in the middle of the recovery."""
PATIENCE_S = 30.0
"""It is not waited longer for that."""
LIMIT_S = 5400

SPEC = """
name: storm
data: {{name: digits, train_samples: 1000, eval_samples: 192}}
model: {{name: small_cnn, width: 4, norm: batch, dropout: 0.3}}
ensemble: {{members: {members}}}
training: {{epochs: {epochs}, batch_size: 64}}
cluster: {{slots: 2, attempts: 1000}}
tracking: {{uri: {uri}}}
attribution:
  {{batch_size: 16, shard_samples: 8, methods: [gradient, {{name: smoothgrad, num_samples: {draws}}}]}}
"""

BY_TASKS = """
from cluster import reduce
from jobs import command
from jobs.ensemble import ensemble

reduce.START_S = 0.0
command.main(ensemble)
"""
"""`jobs.ensemble`, but that every range is reduced by a task: such small ones the driver would reduce itself."""


@dataclass(kw_only=True)
class Storm:
    """A run under fire in `folder`; `kills` counts what was killed."""

    folder: Path
    seed: int
    members: int
    epochs: int
    draws: int
    kills: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    driver: subprocess.Popen | None = None
    server: subprocess.Popen | None = None
    last: float = 0.0
    moved: float | None = None
    pause: float = 0.0

    def rage(self, count: int) -> None:
        """Kill so often, and see the run to its end. Raises AssertionError if it is done before, or never."""
        self.count, self.drawn, over = count, random.Random(self.seed), time.monotonic() + LIMIT_S
        with cluster(NODES) as made, contextlib.ExitStack() as stack:
            self.cluster = made
            stack.callback(self._end)
            self.port = mlflow_servers.free_port()
            self.uri = f"http://127.0.0.1:{self.port}"
            (self.folder / "storm.yaml").write_text(self.spec(self.uri))
            self._pause()
            while self.driver is None or self.driver.poll() != 0:
                assert time.monotonic() < over, f"not done after {LIMIT_S} s; {dict(self.kills)}; {self.told()}"
                self._keep_up()
                if self.kills.total() < count and (self._only_kept() or self._is_time()):
                    self._kill()
                time.sleep(0.01 if self._only_kept() else 0.1)
            assert self.kills.total() >= count, f"over after {dict(self.kills)}: more epochs make a longer run"
            self._send_the_rest()
            self.check_mlflow()

    def spec(self, uri: str) -> str:
        """The text of the run's spec."""
        return SPEC.format(members=self.members, epochs=self.epochs, draws=self.draws, uri=uri)

    def told(self) -> str:
        """The end of what the driver printed."""
        return (self.folder / "driver.log").read_text()[-2000:]

    def check_mlflow(self) -> None:
        """One parent and one child per member, each metric once per step, all of them finished."""
        from jobs.tracking import client

        mlflow = client(self.uri)
        (experiment,) = [each for each in mlflow.search_experiments() if each.name == "storm"]
        runs = mlflow.search_runs([experiment.experiment_id])
        children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        assert len(runs) == len(children) + 1
        assert sorted(run.info.run_name for run in children) == [f"member-{each:04d}" for each in range(self.members)]
        assert {run.info.status for run in runs} == {"FINISHED"}
        for run in runs:
            steps = range(1, self.epochs + 1) if run in children else [self.members]
            assert {"train/loss", "eval/accuracy"} <= run.data.metrics.keys() or run not in children
            for metric in run.data.metrics:
                points = mlflow.get_metric_history(run.info.run_id, metric)
                assert sorted(point.step for point in points) == list(steps), (run.info.run_name, metric)

    def _keep_up(self) -> None:
        """Start again what is not there: server, nodes, driver."""
        if self.server is None or self.server.poll() is not None:
            self.starts["mlflow server"] += 1
            self.server = mlflow_servers.start(self.port, self.folder)
        for node in [*self.cluster.worker_nodes]:
            if raylet(node).poll() is not None:
                self.cluster.remove_node(node, allow_graceful=False)
        if len(self.cluster.worker_nodes) < NODES:
            with contextlib.suppress(Exception):  # Ray gives up on a node that is slow to start, with just that
                self.cluster.add_node(num_cpus=1)
                self.starts["node"] += 1
        status = None if self.driver is None else self.driver.poll()
        assert status in (None, 0, -signal.SIGKILL), f"the driver ended by itself ({status}): {self.told()}"
        if self.driver is None or status:
            self.driver = self._start("driver", sys.executable, "-c", BY_TASKS, "storm.yaml", "--run-dir", "run")

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        self.starts[name] += 1
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "RAY_ADDRESS": self.cluster.address},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _pause(self) -> None:
        """Draw when the next kill is due. Reducing is soon over."""
        self.last, self.pause = time.time(), self.drawn.uniform(*PAUSE_S)
        self.moved = self.last if self.drawn.random() < AT_ONCE else None
        if "reduce task" in self.seen:
            self.moved = self.pause = 0.0

    def _is_time(self) -> bool:
        now = time.time()
        if self.moved is None and (_newest(self.folder / "run") > self.last or now > self.last + PATIENCE_S):
            self.moved = now
        return self.moved is not None and now > self.moved + self.pause

    def _only_kept(self) -> bool:
        """Whether what is left is kept for processes that were not seen yet: they may be over within a second."""
        kept = sum(round(part * self.count) for kind, part in KEPT.items() if kind not in self.seen)
        return self.kills.total() + kept >= self.count

    def _kill(self) -> None:
        there = self._victims()
        self.seen |= {kind for kind in there if there[kind]}
        if self._only_kept() or not any(there[kind] for kind in TITLES):
            return  # a storm that never lets anything begin would show nothing
        kinds = [kind for kind in WEIGHTS if there[kind]]
        kinds = [kind for kind in kinds if not self.kills[kind]] or kinds
        (kind,) = self.drawn.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        pid = self.drawn.choice(there[kind]).pid
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if kind in ("driver", "mlflow server") else os.kill)(pid, signal.SIGKILL)
            self.kills[kind] += 1
            print(f"{time.strftime('%H:%M:%S')} kill {self.kills.total()}: {kind}", flush=True)
        self._pause()

    def _victims(self) -> Mapping[str, list[psutil.Process]]:
        """What is alive, by what it is. A server counts once it answers."""
        below = psutil.Process().children(recursive=True)
        found = {kind: [each for each in below if _title(each).startswith(titles)] for kind, titles in TITLES.items()}
        own = {
            "node": [raylet(node) for node in self.cluster.worker_nodes],
            "driver": [self.driver],
            "mlflow server": [self.server if mlflow_servers.answers(self.port) else None],
        }
        for kind, processes in own.items():
            found[kind] = [psutil.Process(each.pid) for each in processes if each is not None and each.poll() is None]
        return {kind: sorted(processes, key=lambda each: each.pid) for kind, processes in found.items()}

    def _send_the_rest(self) -> None:
        """Do what a driver asks for that ended while the server was away."""
        while not mlflow_servers.answers(self.port):
            self._keep_up()
            time.sleep(0.5)
        if "MLflow did not take everything" in self.told():
            command = [sys.executable, "-m", "jobs.report", "run"]
            assert self._start("report", *command).wait() == 0, (self.folder / "report.log").read_text()

    def _end(self) -> None:
        for process in (self.driver, self.server):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def undisturbed(folder: Path, storm: Storm) -> None:
    """The same run, left alone, on a cluster of its own."""
    folder.mkdir()
    (folder / "storm.yaml").write_text(storm.spec("null"))
    subprocess.run(
        [sys.executable, "-m", "jobs.ensemble", "storm.yaml", "--run-dir", "run"],
        cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def assert_equal_runs(one: Path, other: Path) -> None:
    """Both have the same weights, maps and statistics, and no file that nobody finished."""
    expected, found = _results(one), _results(other)
    assert expected
    assert list(found) == list(expected)
    assert [name for name in expected if expected[name] != found[name]] == []
    left = [str(path) for path in other.rglob("*") if path.name.startswith(".tmp-") or "checkpoint" in path.name]
    assert left == []
    assert not (other / ".train").exists()
    assert not (other / "run.lock").exists()


def _results(run: Path) -> dict[str, bytes]:
    kinds = "members/*/weights.safetensors", "maps/*/*/*.arrow", "stats/*/*.arrow"
    return {str(path.relative_to(run)): path.read_bytes() for kind in kinds for path in sorted(run.glob(kind))}


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _newest(run: Path) -> float:
    """When a member, a map or a statistic was last written, in seconds since 1970."""
    newest = 0.0
    for kind in ("members/*/*", "maps/*/*/*", "stats/*/*"):
        for path in run.glob(kind):
            with contextlib.suppress(FileNotFoundError):  # a temporary file, or a checkpoint
                newest = max(newest, path.stat().st_mtime)
    return newest


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()[:1])
    return ""


def main() -> None:
    """The long storm."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs (default: 50)")
    parser.add_argument("--members", type=int, default=12, help="members of the ensemble (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="which process is killed when (default: 0)")
    parser.add_argument("--epochs", type=int, default=120, help="epochs of a member (default: 120)")
    parser.add_argument("--draws", type=int, default=300, help="draws of SmoothGrad (default: 300)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        place = Path(name) / "storm"
        place.mkdir()
        storm = Storm(folder=place, seed=asked.seed, members=asked.members, epochs=asked.epochs, draws=asked.draws)
        began = time.monotonic()
        undisturbed(Path(name) / "calm", storm)
        calm = time.monotonic() - began
        storm.rage(asked.kills)
        assert_equal_runs(Path(name) / "calm" / "run", place / "run")
    took = time.monotonic() - began - calm
    print(f"{storm.kills.total()} kills {dict(storm.kills)}, started {dict(storm.starts)}: the same bytes; "
          f"{took:.0f} s, undisturbed {calm:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
