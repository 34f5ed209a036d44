"""One driver per run directory: `run.lock` says who it is."""

import os
import platform
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import psutil
from pydantic import BaseModel, ConfigDict, Field

from salcore.errors import Damaged, UserError
from salcore.layout import LOCK
from salcore.storage import TEMPORARY, Store

BEAT_S = 15.0
STALE_S = 90.0
"""A lock of another machine that was not renewed for so long belongs to a driver that died."""
REMOVING = f"{LOCK}.removing"
"""Present while one driver removes the lock of another that died."""


class Holder(BaseModel):
    """What `run.lock` says of the driver that has a run.

    `process_started` is in seconds since 1970 and `booted` when its machine was started: both move when the machine's
    clock is set, and their difference does not. A lock without `booted` is of an earlier version.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int = Field(ge=0)
    started: str
    process_started: float
    booted: float | None = None

    @classmethod
    def here(cls) -> "Holder":
        """The process that asks."""
        return cls(
            host=platform.node(),
            pid=os.getpid(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            process_started=psutil.Process().create_time(),
            booted=psutil.boot_time(),
        )

    def runs_here(self) -> bool:
        """Whether this machine still runs that very process, and no other under its number."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # killed, and its parent has not asked yet
                return False
            moved = 0.0 if self.booted is None else psutil.boot_time() - self.booted
            return abs(process.create_time() - moved - self.process_started) < 1.0
        except (psutil.NoSuchProcess, OverflowError):
            return False


def read_holder(store: Store) -> Holder | None:
    """Who has a run; None if nobody has. Raises Damaged for a lock that does not tell."""
    try:
        return store.read_as(LOCK, Holder)
    except FileNotFoundError:
        return None


def sweep(store: Store, *, spare: Sequence[str] = (LOCK,)) -> None:
    """Delete what killed processes left half-written; object stores have nothing like it. The run must be one's own.

    Spared are files that are being written: another driver may just look at the lock.
    """
    for folder, _, names in os.walk(store.local) if store.local else ():
        for name in names:
            if name.startswith(TEMPORARY) and not name.endswith(tuple(f"-{each}" for each in spare)):
                Path(folder, name).unlink(missing_ok=True)


class Lock:
    """Holds a run directory while the block runs. Raises UserError that names the other driver if there is one.

    A lock whose process is gone (same machine), or that was not renewed for a while (another machine), is taken over,
    and what that driver left half-written is deleted.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="run.lock")
        self._mine = Holder.here()

    def __enter__(self) -> "Lock":
        try:
            if not self._create():
                holder = self._holder()
                if holder and self._alive(holder):
                    raise UserError(
                        "--run-dir",
                        f"a run that no other driver works on; process {holder.pid} on {holder.host} has had "
                        f"{self._store} since {holder.started}",
                    )
                if not (self._remove(holder) and self._create()):
                    raise UserError("--run-dir", f"a run of no other driver; one just took {self._store}")
                sweep(self._store)
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

    def _holder(self) -> Holder | None:
        """Who holds the lock; None if nobody does, or the file cannot be understood."""
        try:
            return read_holder(self._store)
        except Damaged:
            return None

    def _remove(self, holder: Holder | None) -> bool:
        """Remove the lock of a driver that died, one driver at a time: a second one would remove the lock of the first.

        Returns whether that was so.
        """
        if (self._age(REMOVING) or 0.0) > STALE_S:  # whoever began to died at it
            self._store.delete(REMOVING)
        if not self._store.create(REMOVING, self._content()):
            return False
        try:
            if (same := self._holder() == holder) and self._store.exists(LOCK):
                self._store.delete(LOCK)
            return same
        finally:
            self._store.delete(REMOVING)

    def _create(self) -> bool:
        return self._store.create(LOCK, self._content())

    def _content(self) -> bytes:
        return self._mine.model_dump_json().encode()

    def _alive(self, holder: Holder) -> bool:
        if holder.host == self._mine.host:
            return holder.runs_here()
        age = self._age(LOCK)
        return age is not None and abs(age) < STALE_S  # one from the future is of a clock that was wrong

    def _age(self, name: str) -> float | None:
        """Seconds since a file was written, by the clock of the store: those of two machines may differ."""
        if (written := self._store.info(name)) is None:
            return None
        probe = f"{LOCK}.{uuid.uuid4().hex}"
        self._store.write(probe, b"")
        now = self._store.info(probe)
        self._store.delete(probe)
        return None if now is None else (now.mtime_ns - written.mtime_ns) / 1e9

    def _beat(self) -> None:
        """Renew the lock's time, for drivers of other machines that look at it."""
        while not self._stop.wait(BEAT_S):
            with suppress(OSError):  # a full disk now may have room at the next beat
                if self._holder() == self._mine:
                    self._store.write(LOCK, self._content())
