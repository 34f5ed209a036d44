"""An MLflow server on PostgreSQL that asks for a login: `python -m cluster.mlflow_server --artifacts FOLDER_OR_URI`.

Which database it is, libpq's own variables say (`PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`): no secret
stands in a file or on a command line. The login is `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, which
MLflow's clients read too.
"""

import argparse
import ipaddress
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from salcore.errors import UserError

DATABASE = "postgresql://"
"""Everything else about it libpq takes from the environment. `mlflow_auth.ini` says the same."""
LOGIN = Path(__file__).with_name("mlflow_auth.ini")
HERE = ("localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*")
"""Hosts by which the server is reached on its own machine, through port forwarding too."""
SHORTEST = 12
"""MLflow refuses shorter passwords."""
WORKERS = 2


def server(argv: Sequence[str] | None = None) -> NoReturn:
    """Become the server that the command line asks for, or leave with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.mlflow_server",
        description="Start an MLflow server on the PostgreSQL that PGHOST, PGUSER, PGPASSWORD and PGDATABASE name.",
    )
    parser.add_argument("--artifacts", required=True, metavar="PLACE", help="where files go: a folder or s3://bucket")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=5000)
    names = "names, separated by commas, by which other machines reach the server: mlflow.example.org,10.0.0.7:5000"
    parser.add_argument("--allowed-hosts", default="", metavar="HOSTS", help=names)
    parser.add_argument("--without-login", action="store_true", help="let everybody in who can reach the port")
    given = parser.parse_args(argv)
    hosts = tuple(host.strip() for host in given.allowed_hosts.split(",") if host.strip())
    try:
        check_hosts(given.host, hosts)
        environment = dict(os.environ) | login(os.environ, wanted=not given.without_login)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    line = command(given.artifacts, given.host, given.port, hosts, login=not given.without_login)
    os.execve(line[0], line, environment)


def command(artifacts: str, host: str, port: int, hosts: Sequence[str], *, login: bool) -> list[str]:
    """The command line of MLflow's own server; clients send files to it, and it alone writes to `artifacts`."""
    names = sorted({name for each in hosts for name in (each, each if ":" in each else f"{each}:{port}")})
    options = {
        "--backend-store-uri": DATABASE,
        "--artifacts-destination": artifacts,
        "--host": host,
        "--port": str(port),
        "--workers": str(WORKERS),
        "--allowed-hosts": ",".join([*HERE, *names]),
    }
    if names:  # its own pages, under these names
        options["--cors-allowed-origins"] = ",".join(f"{way}://{name}" for name in names for way in ("http", "https"))
    if login:
        options["--app-name"] = "basic-auth"
    return [sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option)]


def login(given: Mapping[str, str], *, wanted: bool) -> dict[str, str]:
    """What the server needs in its environment. Raises UserError if it should ask for a login and none is given.

    >>> login({}, wanted=False)
    {'MLFLOW_DISABLE_TELEMETRY': 'true', 'MLFLOW_SERVER_ENABLE_JOB_EXECUTION': 'false'}
    """
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if not wanted:
        return quiet
    name, password = (given.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
    if not name:
        raise UserError("MLFLOW_TRACKING_USERNAME", "a name in the environment: export MLFLOW_TRACKING_USERNAME=admin")
    if len(password) < SHORTEST:
        how = "export MLFLOW_TRACKING_PASSWORD=$(openssl rand -hex 16)"
        raise UserError("MLFLOW_TRACKING_PASSWORD", f"{SHORTEST} characters or more in the environment: {how}")
    return quiet | {
        "MLFLOW_AUTH_CONFIG_PATH": str(LOGIN),
        "MLFLOW_AUTH_ADMIN_USERNAME": name,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": given.get("MLFLOW_FLASK_SERVER_SECRET_KEY") or secrets.token_hex(32),
    }


def check_hosts(host: str, hosts: Sequence[str]) -> None:
    """Refuse what would answer 403 to all other machines, or answer to any name. Raises UserError."""
    if "*" in hosts:
        raise UserError("--allowed-hosts", "the names by which workers reach the server, not every name", "*")
    if not hosts and not is_loopback(host):
        expected = f"the names by which other machines reach {host}, as MLflow refuses requests to any other name"
        raise UserError("--allowed-hosts", expected, "")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "node-7")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    server()
