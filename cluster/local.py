"""A Ray head, PostgreSQL and an MLflow server on this machine, as a cluster has them: `python -m cluster.local`.

All three listen on this machine alone unless `--host` says otherwise. Ray asks for a token and MLflow for a login, both
from the environment; PostgreSQL, from the system's packages, has no port and lets in nobody but the user who started
it. Ctrl-C, or `--stop` from elsewhere, ends exactly the processes that this one has started.
"""

import argparse
import base64
import contextlib
import errno
import http.client
import os
import platform
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

from cluster import mlflow_server, postgres
from cluster.services import Died, Services, stop
from salcore.errors import UserError

ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Read by Ray: without it Ray takes 127.0.0.1 for the machine's address in the network, and listens there."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says."""

    home: Path
    host: str
    ray_port: int
    dashboard_port: int
    mlflow_port: int
    login: bool

    @property
    def dashboard(self) -> str:
        """Where Ray takes jobs."""
        return f"http://{self.host}:{self.dashboard_port}"

    @property
    def mlflow(self) -> str:
        """The tracking server's URI."""
        return f"http://{self.host}:{self.mlflow_port}"


def local(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.local",
        description="Start a Ray head, PostgreSQL and an MLflow server on this machine, until Ctrl-C or --stop.",
    )
    parser.add_argument("--home", type=Path, default=Path("runs/local"), help="database, artifacts and logs")
    parser.add_argument("--host", default="127.0.0.1", help="this machine's address, if others shall reach it")
    parser.add_argument("--ray-port", type=int, default=6379)
    parser.add_argument("--dashboard-port", type=int, default=8265, help="where Ray takes jobs")
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--without-login", action="store_true", help="let everybody in who can reach the ports")
    parser.add_argument("--stop", action="store_true", help="end what was started with this --home")
    given = vars(parser.parse_args(argv))
    home, stopping, open_to_all = given.pop("home").absolute(), given.pop("stop"), given.pop("without_login")
    if stopping:
        print("stopped" if stop(home) else f"nothing of {home} runs")
        return 0
    try:
        return _run(Asked(home=home, login=not open_to_all, **given))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(asked: Asked) -> int:
    login = mlflow_server.login(os.environ, wanted=asked.login)
    if asked.login:
        _check_token()
    _check_addresses(asked)
    (asked.home / "artifacts").mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        with Services(asked.home) as services, _rays_own_logs(services.short / "ray", asked.home / "logs" / "ray"):
            _start(asked, services, login)
            print(_told(asked), flush=True)
            services.watch()
    except Died as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; database, artifacts and logs are kept", flush=True)
    return 0


def _start(asked: Asked, services: Services, login: Mapping[str, str]) -> None:
    """Start the three; Ray and MLflow, which take long, at the same time."""
    print("starting PostgreSQL, Ray and MLflow: half a minute or more", flush=True)
    database = postgres.start(services, asked.home / "postgres")
    services.start("ray", ray_command(asked, services.short / "ray"), ray_environment(asked))
    names = () if mlflow_server.is_loopback(asked.host) else (asked.host, platform.node())
    artifacts = str(asked.home / "artifacts")
    command = mlflow_server.command(artifacts, asked.host, asked.mlflow_port, names, login=asked.login)
    services.start("mlflow", command, {**os.environ, **login, **database})
    services.wait("mlflow", partial(_answers, asked.host, asked.mlflow_port))
    if asked.login:
        check_login(asked)
    services.wait("ray", partial(_answers, asked.host, asked.dashboard_port))


@contextlib.contextmanager
def _rays_own_logs(folder: Path, kept: Path) -> Iterator[None]:
    """Keep what Ray's processes wrote, and no longer what those of the start before did."""
    shutil.rmtree(kept, ignore_errors=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, shutil.Error):  # logs must not hold up the end
            shutil.copytree(folder / "session_latest" / "logs", kept)


def ray_command(asked: Asked, folder: Path) -> list[str]:
    """The command line of the head. Ports that nobody has to know are free ones."""
    with socket.create_server((asked.host, 0)) as server:
        client_port = server.getsockname()[1]  # Ray wants to be told; it is served, and nothing here uses it
    options = {
        "--node-ip-address": asked.host,
        "--port": str(asked.ray_port),
        "--dashboard-host": asked.host,
        "--dashboard-port": str(asked.dashboard_port),
        "--ray-client-server-port": str(client_port),
        "--dashboard-agent-listen-port": "0",
        "--min-worker-port": "0",
        "--max-worker-port": "0",
        "--temp-dir": str(folder),
    }
    flags = ["--head", "--block", "--disable-usage-stats"]
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", *flags]
    return [*head, *(part for option in options.items() for part in option)]


def ray_environment(asked: Asked) -> dict[str, str]:
    """What Ray, and so every job, has in its environment: also the login of MLflow, and this Python first."""
    kept = {key: value for key, value in os.environ.items() if key not in {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"}}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return kept | {"RAY_AUTH_MODE": _mode(asked), "PATH": path} | _where(asked)


def _check_token() -> None:
    """Ray reads the token by itself, from these places; without one it would start and let everybody in."""
    default = Path("~/.ray/auth_token").expanduser()
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.is_file()):
        how = "export RAY_AUTH_TOKEN=$(openssl rand -hex 32)"
        raise UserError("RAY_AUTH_TOKEN", f"a token in the environment, or in {default}: {how}")


def _check_addresses(asked: Asked) -> None:
    if asked.host in {"", "0.0.0.0", "::"}:
        raise UserError("--host", "the one address by which others reach this machine", asked.host)
    for name in ("ray_port", "dashboard_port", "mlflow_port"):
        port = getattr(asked, name)
        try:
            socket.create_server((asked.host, port)).close()
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno != errno.EADDRINUSE:
                raise UserError(
                    "--host", f"an address of this machine ({os.strerror(error.errno or 0)})", asked.host
                ) from None
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                option, f"a free port: something listens there; {option} NUMBER takes another", port
            ) from None


def _answers(host: str, port: int) -> bool:
    """Whether a server of HTTP answers, be it that it wants to know who asks."""
    return 0 < _status(host, port, "/health") < 500


def check_login(asked: Asked) -> None:
    """MLflow keeps the login of its database's first start, whatever the environment says later."""
    login = ":".join(os.environ[f"MLFLOW_TRACKING_{part}"] for part in ("USERNAME", "PASSWORD"))
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    if _status(asked.host, asked.mlflow_port, "/api/2.0/mlflow/users/current", headers) == HTTPStatus.UNAUTHORIZED:
        expected = f"those that {asked.home / 'postgres'} was first started with; another --home takes others"
        raise UserError("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD", expected)


def _status(host: str, port: int, path: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of an answer; 0 if there is none."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _told(asked: Asked) -> str:
    """What one has to know to use it, from a second terminal."""
    same = ", with the same secrets" if asked.login else ""
    asks, asks_ray = ("MLFLOW_TRACKING_USERNAME and _PASSWORD", "RAY_AUTH_TOKEN") if asked.login else ("nothing",) * 2
    return f"""\
Ray, PostgreSQL and MLflow run. In another terminal{same}:

  {_exports(RAY_AUTH_MODE=_mode(asked), RAY_API_SERVER_ADDRESS=asked.dashboard)}
  ray job submit --working-dir . -- python -m jobs.ensemble digits --run-dir "$PWD/runs/digits" \\
      tracking.uri={asked.mlflow}

or without a job:

  {_exports(RAY_AUTH_MODE=_mode(asked), RAY_ADDRESS=f"{asked.host}:{asked.ray_port}", **_where(asked))}
  python -m jobs.ensemble digits tracking.uri={asked.mlflow}

MLflow: {asked.mlflow} (asks for {asks})
Ray:    {asked.dashboard} (asks for {asks_ray})
Logs:   {asked.home / "logs"}
Ctrl-C ends all three; so does python -m cluster.local --stop --home {asked.home}"""


def _mode(asked: Asked) -> str:
    return "token" if asked.login else "disabled"


def _where(asked: Asked) -> dict[str, str]:
    return ON_LOOPBACK if mlflow_server.is_loopback(asked.host) else {}


def _exports(**variables: str) -> str:
    return " ".join(["export", *(f"{key}={value}" for key, value in variables.items())])


if __name__ == "__main__":
    sys.exit(local())
