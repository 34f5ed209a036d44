"""Processes that are started together, watched, and ended together: these and no others."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from salcore.errors import UserError

RECORD = "running.json"
PATIENCE_S = 180.0
LAST_LINES = 15


class Died(RuntimeError):
    """A service ended by itself, or was never ready."""


class Services:
    """Starts services whose logs lie in `home`; ends them, the last one first, when the block does.

    `home/running.json` tells `stop` which processes these are. `short` is a folder of theirs whose path is short enough
    for sockets. Raises UserError if services of this home run already.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._started: dict[str, tuple[subprocess.Popen, int]] = {}

    def __enter__(self) -> Self:
        record = _read(self._home)
        if record and _living(record["starter"]):
            raise UserError("--home", f"one of which nothing runs; --stop --home {self._home} ends it", str(self._home))
        stop(self._home)  # what a starter that was killed has left
        (self._home / "logs").mkdir(parents=True, exist_ok=True)
        self.short = Path(tempfile.mkdtemp(prefix="salcore-"))
        self.short.chmod(0o711)
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed():
            for process, number in reversed(self._started.values()):
                _end(psutil.Process(process.pid) if process.poll() is None else None, number)
                process.wait()
            (self._home / RECORD).unlink(missing_ok=True)
            shutil.rmtree(self.short, ignore_errors=True)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        end: int = signal.SIGTERM,
        **more: Any,
    ) -> None:
        """Start a process that `end` will end; Ctrl-C in the terminal does not reach it. `more` goes to Popen."""
        with self.log(name).open("w") as log:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **more,
            )
        self._started[name] = process, end
        self._write()

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self._home / "logs" / f"{name}.log"

    def wait(self, name: str, met: Callable[[], bool]) -> None:
        """Wait until a service is ready. Raises Died."""
        over = time.monotonic() + PATIENCE_S
        while not met():
            self._check()
            if time.monotonic() > over:
                raise Died(f"{name} is not ready after {PATIENCE_S:.0f} s; {self._last_lines(name)}")
            time.sleep(0.2)

    def watch(self) -> None:
        """Return never: by Died if a service ends, or by KeyboardInterrupt."""
        while True:
            self._check()
            time.sleep(0.5)

    def _check(self) -> None:
        for name, (process, _) in self._started.items():
            if process.poll() is not None:
                raise Died(f"{name} ended with status {process.returncode}; {self._last_lines(name)}")

    def _last_lines(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n  ".join([f"its log {self.log(name)} ends with", *lines])

    def _write(self) -> None:
        services = [[*_identity(process.pid), number] for process, number in self._started.values()]
        record = {"starter": _identity(os.getpid()), "services": services, "short": str(self.short)}
        (self._home / RECORD).write_text(json.dumps(record))


def stop(home: Path) -> bool:
    """End what `home/running.json` names, whether or not its starter is alive; returns whether anything was."""
    record = _read(home)
    if record is None:
        return False
    starter = _living(record["starter"])
    if starter:
        starter.terminate()
        psutil.wait_procs([starter], timeout=PATIENCE_S)
    left = [(process, number) for *identity, number in record["services"] if (process := _living(identity))]
    for process, number in reversed(left):
        _end(process, number)
    shutil.rmtree(record["short"], ignore_errors=True)
    (home / RECORD).unlink(missing_ok=True)
    return bool(starter or left)


def _end(process: psutil.Process | None, number: int) -> None:
    """End a process and all below it: by its own signal, then by SIGTERM, then by SIGKILL."""
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [process, *process.children(recursive=True)]
        process.send_signal(number)
        psutil.wait_procs([process], timeout=8)
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        _, tree = psutil.wait_procs(tree, timeout=8)
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def _identity(pid: int) -> list[float]:
    """What tells a process from a later one of the same number."""
    try:
        return [pid, psutil.Process(pid).create_time()]
    except psutil.NoSuchProcess:
        return [pid, 0.0]


def _living(identity: Sequence[float]) -> psutil.Process | None:
    try:
        process = psutil.Process(int(identity[0]))
        same = abs(process.create_time() - identity[1]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        return process if same else None
    except psutil.NoSuchProcess:
        return None


def _read(home: Path) -> dict[str, Any] | None:
    try:
        return json.loads((home / RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def _undisturbed() -> Any:
    """Ctrl-C and SIGTERM do nothing while the block runs: a second one must leave no process behind."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
