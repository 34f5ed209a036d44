"""`ray job submit` against a head of its own, with token authentication, as from a second terminal."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.cluster.killing import ROOT, kill
from tests.salcore.sallm.conftest import SPEC as LANGUAGE
from tests.salcore.sallm.conftest import write_corpus

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

SMALL = ("data.train_samples=400", "data.eval_samples=32", "model.width=4", "ensemble.members=3", "training.epochs=40",
         "cluster.slots=2", "attribution={methods: [gradient], batch_size: 32, shard_samples: 16}")  # fmt: skip

TINY = ("data.train_samples=200", "data.eval_samples=32", "model.width=4", "ensemble.members=2", "training.epochs=2",
        "attribution={methods: [gradient], batch_size: 32, shard_samples: 32}")  # fmt: skip
TUNE = ("digits", *TINY, "search={mask_fraction: [0.5], weight: [1.0], accuracy_drop_at_most: null}")
PARAMETERS = ("digits", *TINY, "cluster.slots=1", "parameters={experiments: [pruning], pruned: [1], mistakes: 8}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in free]


@dataclass(frozen=True)
class Head:
    """A head node, and what a second terminal knows of it."""

    process: subprocess.Popen
    environment: dict[str, str]

    def submit(self, *command: str | Path, token: str | None = None, wait: bool = True) -> subprocess.CompletedProcess:
        """`ray job submit` of the repository; waits for the job's end."""
        own = self.environment if token is None else {**self.environment, "RAY_AUTH_TOKEN": token}
        arguments = ["job", "submit", "--working-dir", str(ROOT), *([] if wait else ["--no-wait"]), "--"]
        return subprocess.run(
            [ray_command(), *arguments, *map(str, command)],
            cwd=ROOT, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1000,
        )  # fmt: skip


def ray_command() -> str:
    return str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    """A head with a folder of its own: by the usual one Ray would have jobs join whichever cluster was started last."""
    port, dashboard, client = free_ports(3)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_", "PYTHONPATH"))}
    environment = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray takes 127.0.0.1 for the address in the network
        "RAY_AUTH_TOKEN": "a-token-of-this-test-alone-0123456789",
    }
    log = tmp_path_factory.mktemp("head") / "head.log"
    command = [
        *(ray_command(), "start", "--head", "--block", "--num-cpus", "2", "--node-ip-address", "127.0.0.1"),
        *("--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
        *("--ray-client-server-port", str(client), "--dashboard-agent-listen-port", "0"),
    ]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as own:  # short, as sockets need it
        with log.open("w") as told:
            process = subprocess.Popen(
                [*command, "--temp-dir", own], env=environment, stdin=subprocess.DEVNULL, stdout=told, stderr=told
            )
        try:
            address = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
            wait("the head", lambda: answers(dashboard), process, log)
            yield Head(process, {**environment, **address})
        finally:
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            kill(process, everything=True)
            psutil.wait_procs(below, timeout=10)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait(what: str, met: Callable[[], bool], process: subprocess.Popen, log: Path, seconds: float = 240) -> None:
    over = time.monotonic() + seconds
    while not met():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < over, f"no {what}: {log.read_text()}"
        time.sleep(0.2)


def drivers(head: Head) -> list[psutil.Process]:
    """Processes of the commands that jobs run."""
    found = psutil.Process(head.process.pid).children(recursive=True)
    return [each for each in found if re.search(r"python\S* -m jobs\.", " ".join(each.cmdline()))]


def stamps(run: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in run.glob("members/*/member.json")}


def test_a_stranger_s_token_is_refused(head):
    done = head.submit("python", "-m", "jobs.ensemble", "digits", token="another-token-0123456789")
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("program", ["ensemble", "tune", "parameters", "sallm"])
def test_a_run_directory_that_would_vanish_with_the_job_is_refused(head, program):
    done = head.submit("python", "-m", f"jobs.{program}", "digits", *SMALL)
    assert done.returncode != 0
    assert "error: --run-dir: expected an absolute path or a URI inside a Ray job" in done.stdout + done.stderr


def test_a_job_that_died_is_submitted_again_and_goes_on(head, tmp_path):
    run = tmp_path / "run"
    command = ("python", "-m", "jobs.ensemble", "digits", *SMALL, "--run-dir", run)
    begun = head.submit(*command, wait=False)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    wait("trained member", lambda: bool(stamps(run)), head.process, Path(os.devnull))
    for driver in drivers(head):
        driver.send_signal(signal.SIGKILL)
    before = stamps(run)
    again = head.submit(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    after = stamps(run)
    assert len(after) == 3
    assert {name: after[name] for name in before} == before, "what was trained stays"
    assert (run / "report" / "index.html").is_file()
    assert (run.parent / "mlflow.db").is_file(), "beside the run, as a job's own folder is a temporary copy"


def test_a_search_whose_job_died_goes_on_when_it_is_submitted_again(head, tmp_path):
    run = tmp_path / "search"
    command = ("python", "-m", "jobs.tune", *TUNE, "--run-dir", run)
    begun = head.submit(*command, wait=False)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    first = run / "trials" / "standard" / "trial.json"
    wait("trial", first.is_file, head.process, Path(os.devnull))
    for driver in drivers(head):
        driver.send_signal(signal.SIGKILL)
    before = first.stat().st_mtime_ns
    again = head.submit(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert first.stat().st_mtime_ns == before, "what was tried stays"
    assert {path.name for path in (run / "trials").iterdir()} == {"standard", "k0.5-lambda1"}
    assert (run / "chosen.yaml").is_file()
    assert (tmp_path / "mlflow.db").is_file()


def test_parameter_saliency_is_submitted_as_an_ensemble_is(head, tmp_path):
    done = head.submit("python", "-m", "jobs.parameters", *PARAMETERS, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "report" / "parameters.html").is_file()


def test_sallm_is_submitted_as_an_ensemble_is(head, tmp_path):
    write_corpus(tmp_path / "films")
    (tmp_path / "tiny.yaml").write_text(LANGUAGE.format(corpus=tmp_path / "films"))
    few = ("sallm={variants: [sallm]}", "training.epochs=1", "ensemble.members=2", "cluster.slots=1")
    done = head.submit("python", "-m", "jobs.sallm", tmp_path / "tiny.yaml", *few, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "sallm.parquet").is_file()


def test_the_environment_for_bare_nodes_is_one_that_ray_takes():
    from ray.runtime_env import RuntimeEnv

    values = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text())
    assert RuntimeEnv(**values).has_pip()
    assert (ROOT / "constraints.txt").is_file()
