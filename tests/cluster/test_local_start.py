"""`python -m cluster.local`: what it starts is asked from outside, and is gone afterwards."""

import base64
import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster import local, postgres
from cluster.services import RECORD, Died, Services, stop
from jobs.tracking import client
from salcore.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(600)"]
WITH_A_CHILD = [sys.executable, "-c", f"import subprocess, sys; sys.exit(subprocess.run({SLEEP}).returncode)"]
LOGIN = {"MLFLOW_TRACKING_USERNAME": "someone", "MLFLOW_TRACKING_PASSWORD": "only-for-this-test"}
TOKEN = "a-token-for-this-test-alone"
SMALL = ("data.train_samples=100", "data.eval_samples=16", "model.width=4", "ensemble.members=2", "training.epochs=1",
         "cluster.slots=1", "attribution={methods: [gradient]}")  # fmt: skip


# Services: no Ray, no MLflow


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def until(met, seconds=20):
    over = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < over
        time.sleep(0.05)


def started(home):
    return [int(pid) for pid, _, _ in json.loads((home / RECORD).read_text())["services"]]


def test_services_end_with_all_below_them_and_leave_nothing_but_logs(tmp_path):
    with Services(tmp_path) as services:
        services.start("one", SLEEP, os.environ)
        services.start("two", WITH_A_CHILD, os.environ)
        services.wait("two", lambda: "awake" in services.log("two").read_text())
        first, second = started(tmp_path)
        (below,) = psutil.Process(second).children()
        short = services.short
        assert short.is_dir()
    assert not any(map(alive, (first, second, below.pid)))
    assert not short.exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["logs", "one.log", "two.log"]


def test_a_service_that_ends_by_itself_is_told_with_the_end_of_its_log(tmp_path):
    with pytest.raises(Died) as error, Services(tmp_path) as services:  # noqa: PT012 - what it raises ends the services
        services.start("steady", SLEEP, os.environ)
        services.start("weak", [sys.executable, "-c", "print('no room'); raise SystemExit(3)"], os.environ)
        (steady, _) = started(tmp_path)
        services.watch()
    assert "weak ended with status 3" in str(error.value)
    assert str(error.value).endswith("no room")
    assert not alive(steady)


def test_what_a_killed_starter_left_is_ended_by_stop(tmp_path):
    code = f"""
import os, pathlib, time
from cluster.services import Services
with Services(pathlib.Path({str(tmp_path)!r})) as services:
    services.start("orphan", {SLEEP}, os.environ)
    time.sleep(600)
"""
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    until(lambda: (tmp_path / RECORD).exists() and started(tmp_path))
    (orphan,) = started(tmp_path)
    with pytest.raises(UserError, match="--stop --home"), Services(tmp_path):
        pytest.fail("two starters in one home")
    assert alive(orphan)
    starter.kill()
    starter.wait()
    assert alive(orphan)
    assert stop(tmp_path)
    assert not alive(orphan)
    assert not stop(tmp_path)


def test_stop_leaves_another_process_of_the_same_number_alone(tmp_path):
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as stranger:
        other = [stranger.pid, psutil.Process(stranger.pid).create_time() - 100]
        record = {"starter": other, "services": [[*other, signal.SIGKILL]], "short": str(tmp_path / "short")}
        (tmp_path / RECORD).write_text(json.dumps(record))
        assert not stop(tmp_path)
        assert stranger.poll() is None
        stranger.kill()


# The command's mistakes


def told(capsys, *arguments):
    assert local.local([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray would look for a token
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    for name, value in {**LOGIN, "RAY_AUTH_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)


def test_without_a_login_or_a_token_nothing_starts(capsys, tmp_path, secrets, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert "export RAY_AUTH_TOKEN=$(openssl rand -hex 32)" in told(capsys, "--home", tmp_path / "home")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    assert "export MLFLOW_TRACKING_PASSWORD=$(openssl rand -hex 16)" in told(capsys, "--home", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_addresses_that_cannot_be_had_are_told_with_the_option_that_helps(capsys, tmp_path, secrets):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "--mlflow-port NUMBER" in told(capsys, "--home", tmp_path, *ports(), "--mlflow-port", port)
    assert "--host: expected the one address" in told(capsys, "--home", tmp_path, *ports(), "--host", "0.0.0.0")
    assert "--host: expected an address of this" in told(capsys, "--home", tmp_path, *ports(), "--host", "203.0.113.9")


def test_a_database_that_is_not_installed_is_told_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "PACKAGED", tmp_path)
    with pytest.raises(UserError, match="apt-get install postgresql"):
        postgres.find()


@pytest.mark.parametrize(("status", "right"), [(401, False), (200, True)])
def test_another_password_than_that_of_the_first_start_is_told(status, right, secrets, tmp_path):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Authorization"] == basic(LOGIN["MLFLOW_TRACKING_PASSWORD"])["Authorization"]
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = local.Asked(home=tmp_path, host="127.0.0.1", ray_port=1, dashboard_port=2,
                            mlflow_port=server.server_port, login=True)  # fmt: skip
        with contextlib.nullcontext() if right else pytest.raises(UserError, match="was first started with"):
            local.check_login(asked)
        server.shutdown()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
def test_root_is_told_which_folder_keeps_the_databases_user_out(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(UserError, match=r"chmod o\+x"):
        postgres.account(closed / "home" / "postgres")


def test_only_an_explicit_switch_lets_everybody_in():
    asked = {"home": Path("/home"), "host": "10.0.0.7", "ray_port": 1, "dashboard_port": 2, "mlflow_port": 3}
    assert local.ray_environment(local.Asked(**asked, login=True))["RAY_AUTH_MODE"] == "token"
    assert local.ray_environment(local.Asked(**asked, login=False))["RAY_AUTH_MODE"] == "disabled"
    for mode in ("disabled", "token"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", mode)
            assert local.ray_environment(local.Asked(**asked, login=True))["RAY_AUTH_MODE"] == "token"


# All of it


def ports():
    """Three free ports, as options."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]
    return [f"--{name}-port={port}" for name, port in zip(("ray", "dashboard", "mlflow"), free, strict=True)]


@dataclass(frozen=True)
class Local:
    """A start in a process of its own, and what a second terminal knows of it."""

    home: Path
    process: subprocess.Popen
    environment: dict[str, str]

    @property
    def out(self):
        return (self.home / "out").read_text()

    def status(self, url, **headers):
        connection = http.client.HTTPConnection(url.removeprefix("http://").partition("/")[0], timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/" + url.removeprefix("http://").partition("/")[2], headers=headers)
            return connection.getresponse().status


@pytest.fixture
def running() -> Iterator[Local]:
    try:
        postgres.find()
    except UserError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
    home = Path(tempfile.mkdtemp(prefix="salcore-test-"))  # pytest's own folders keep the database's user out
    home.chmod(0o711)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "PG"))}
    environment = {**kept, **LOGIN, "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (home / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.local", "--home", str(home), *ports()],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore Ctrl-C
        )  # fmt: skip
    try:
        yield Local(home, process, environment)
    finally:
        stop(home)
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's use of SQLAlchemy
def test_a_job_on_the_local_cluster_is_in_mlflow_with_its_files_and_nothing_is_left_at_the_end(running, monkeypatch):
    def ready():
        assert running.process.poll() is None, running.out
        return "Ctrl-C ends all three" in running.out

    until(ready, seconds=300)
    mlflow, ray = (re.search(rf"^{name}: +(\S+)", running.out, re.MULTILINE)[1] for name in ("MLflow", "Ray"))
    processes = [each for pid in started(running.home) for each in with_all_below(psutil.Process(pid))]
    check_who_gets_in(running, mlflow, ray)
    check_that_only_this_machine_reaches(processes)

    exports = re.search(r"export (RAY_AUTH_MODE=.*RAY_API_SERVER_ADDRESS.*)", running.out)[1]
    second = {**running.environment, **dict(pair.split("=", 1) for pair in exports.split())}
    run = running.home / "run"
    job = ["python", "-m", "jobs.ensemble", "digits", "--run-dir", str(run), f"tracking.uri={mlflow}", *SMALL]
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", ".", "--", *job]
    done = subprocess.run(submit, cwd=ROOT, env=second, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    check_mlflow_has(running, mlflow, json.loads((run / "mlflow.json").read_text())["parent_run_id"])

    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(180) == 0
    psutil.wait_procs(processes, timeout=10)
    assert [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    of_home = [each.info for each in psutil.process_iter(["cmdline"]) if str(running.home) in str(each.info["cmdline"])]
    assert of_home == []
    assert TOKEN not in running.out
    assert LOGIN["MLFLOW_TRACKING_PASSWORD"] not in running.out


def with_all_below(process):
    return [process, *process.children(recursive=True)]


def basic(password):
    """The header by which one logs in at MLflow."""
    login = f"{LOGIN['MLFLOW_TRACKING_USERNAME']}:{password}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def check_who_gets_in(running, mlflow, ray):
    """MLflow asks for the login, Ray for the token; requests for other hosts are refused."""
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    good, bad = (basic(password) for password in (LOGIN["MLFLOW_TRACKING_PASSWORD"], "something-else"))
    assert [running.status(search, **headers) for headers in ({}, bad, good)] == [401, 401, 200]
    assert running.status(search, **good, Host="rebound.example.org") == 403
    jobs = f"{ray}/api/jobs/"
    tokens = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN}"})
    assert [running.status(jobs, **headers) for headers in tokens] == [401, 403, 200]


def check_that_only_this_machine_reaches(processes):
    """Every port that is listened on is one of the loopback interface; PostgreSQL has none."""
    own = {process.pid: process.name() for process in processes}
    listening = [each for each in psutil.net_connections("inet") if each.status == "LISTEN" and each.pid in own]
    assert len(listening) > 3
    assert {each.laddr.ip.removeprefix("::ffff:") for each in listening} == {"127.0.0.1"}
    assert not any("postgres" in own[each.pid] for each in listening)


def check_mlflow_has(running, uri, parent):
    """The run and its members are finished, and the files lie where the server keeps them."""
    server = client(uri)
    run = server.get_run(parent)
    members = server.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    assert [each.info.status for each in (run, *members)] == ["FINISHED"] * 3
    assert all("train/loss" in each.data.metrics for each in members)
    assert "spec.yaml" in {each.path for each in server.list_artifacts(parent)}
    assert list((running.home / "artifacts").rglob(f"{parent}/artifacts/report/index.html"))
