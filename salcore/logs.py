"""Logs in the run directory: one per slot and stage, plain lines with the time in front."""

import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

from salcore.storage import Store

FLUSH_S = 10.0


class Log:
    """Appends lines to `logs/<name>.log`.

    A local file has each line at once. An object store knows no appending: there the whole log of this process is put
    anew every ten seconds and at `close`.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> Log(store, "explain").write("member 3: gradient, part 0")
    >>> store.read("logs/explain.log").decode().rstrip().endswith("member 3: gradient, part 0")
    True
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, f"logs/{name}.log"
        self._local = Path(store.path(self._name)) if store.local else None
        self._lines: list[str] = []
        self._put = time.monotonic()
        if self._local:
            self._local.parent.mkdir(parents=True, exist_ok=True)

    def write(self, line: str) -> None:
        """Append a line."""
        stamped = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {line}\n"
        if self._local:
            with self._local.open("a") as stream:
                stream.write(stamped)
            return
        self._lines.append(stamped)
        if time.monotonic() - self._put > FLUSH_S:
            self.close()

    def close(self) -> None:
        """Put what an object store has not got yet."""
        if self._lines:
            self._store.write(self._name, "".join(self._lines).encode())
            self._put = time.monotonic()

    def hear_warnings(self) -> None:
        """Write what this thread warns of here from now on: of a worker nobody sees it on a screen."""
        _HEARING.log = self
        warnings.showwarning = _write_down


_HEARING = threading.local()


def _write_down(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    log: Log | None = getattr(_HEARING, "log", None)
    if log is not None:
        log.write(f"{category.__name__}: {' '.join(str(message).split())}")
