"""One driver per run directory: `run.lock` says who it is."""

import json
import os
import platform
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType

import psutil

from salcore.errors import UserError
from salcore.layout import LOCK
from salcore.storage import Store

BEAT_S = 15.0
STALE_S = 90.0
"""A lock of another machine that was not renewed for so long belongs to a driver that died."""


class Lock:
    """Holds a run directory while the block runs. Raises UserError that names the other driver if there is one.

    A lock whose process is gone (same machine), or that was not renewed for a while (another machine), is taken over.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="run.lock")
        self._mine = {
            "host": platform.node(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "process_started": psutil.Process().create_time(),
        }

    def __enter__(self) -> "Lock":
        try:
            if not self._create():
                holder = self._holder()
                if holder and self._alive(holder):
                    raise UserError(
                        "--run-dir",
                        f"a run that no other driver works on; process {holder['pid']} on {holder['host']} has had "
                        f"{self._store} since {holder['started']}",
                    )
                self._store.delete(LOCK)
                if not self._create():
                    raise UserError("--run-dir", f"a run of no other driver; one just took {self._store}")
        except OSError as error:
            expected = f"a folder that can be written ({error.strerror or error})"
            raise UserError("--run-dir", expected, str(self._store)) from None
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beating.join(BEAT_S)  # a renewal that is under way would put the file back
        if self._holder() == self._mine:  # another machine may have taken over while this one slept
            self._store.delete(LOCK)

    def _holder(self) -> dict | None:
        """Who holds the lock; None if nobody does, or the file cannot be read."""
        try:
            return self._store.read_json(LOCK)
        except (FileNotFoundError, ValueError):
            return None

    def _create(self) -> bool:
        return self._store.create(LOCK, self._content())

    def _content(self) -> bytes:
        return json.dumps(self._mine).encode()

    def _alive(self, holder: dict) -> bool:
        if holder["host"] == self._mine["host"]:
            try:
                process = psutil.Process(holder["pid"])
                ended = process.status() == psutil.STATUS_ZOMBIE  # killed, and its parent has not asked yet
                return not ended and abs(process.create_time() - holder["process_started"]) < 1.0
            except psutil.NoSuchProcess:
                return False
        info = self._store.info(LOCK)
        return info is not None and time.time() - info.mtime_ns / 1e9 < STALE_S

    def _beat(self) -> None:
        """Renew the lock's time, for drivers of other machines that look at it."""
        while not self._stop.wait(BEAT_S):
            with suppress(OSError):  # a full disk now may have room at the next beat
                if self._holder() == self._mine:
                    self._store.write(LOCK, self._content())
