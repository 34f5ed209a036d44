"""Real MLflow servers on ports of this machine, for tests that take them down."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from cluster.mlflow_server import login


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def start(port: int, folder: Path) -> subprocess.Popen:
    """A server that keeps everything in `folder`. It leads a process group: its helpers would go on listening."""
    with (folder / "mlflow server.log").open("a") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(folder / "files")),
            ],
            env={**os.environ, **login({}, wanted=False)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def answers(port: int) -> bool:
    """Whether somebody listens at a port: a server takes half a minute to come up."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
