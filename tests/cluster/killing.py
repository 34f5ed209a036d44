"""Commands in processes and clusters of their own, and how they are killed in the middle."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

Start = Callable[[str], tuple[Path, subprocess.Popen]]
"""Starts a command on a folder; gives the folder and the process."""


@contextlib.contextmanager
def starting(home: Path, program: str, spec: str) -> Iterator[Start]:
    """A function that starts `jobs.<program>` on the spec, in `home`; what is alive at the end is killed."""
    (home / "killed.yaml").write_text(spec)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    started = []

    def run(name: str) -> tuple[Path, subprocess.Popen]:
        with Path(f"{home / name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"jobs.{program}", "killed.yaml", "--run-dir", name],
                cwd=home,
                env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return home / name, process

    try:
        yield run
    finally:
        for process in started:
            kill(process, everything=True)


def kill(process: subprocess.Popen, *, everything: bool) -> None:
    """SIGKILL a driver, with all processes below it if `everything`."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True) if everything else []
        process.send_signal(signal.SIGKILL)
        for each in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def log(folder: Path) -> str:
    """What a command has printed."""
    return Path(f"{folder}.log").read_text()


def wait(folder: Path, process: subprocess.Popen, met: Callable[[], bool], seconds: float = 200) -> None:
    """Wait until something is so, while the process lives."""
    over = time.monotonic() + seconds
    while not met():
        assert process.poll() is None, log(folder)
        assert time.monotonic() < over, log(folder)
        time.sleep(0.05)
