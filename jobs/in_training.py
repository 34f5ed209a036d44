"""Which members of a run are in training, where, how far they are, and when all are trained: from storage alone."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence

from jobs.pace import each, left
from jobs.progress import clock
from jobs.slot_logs import Slot, slots
from salcore.errors import Damaged
from salcore.layout import member_file
from salcore.member_files import CHECKPOINT, FAILED
from salcore.runs import Run
from salcore.storage import FileInfo


def lines(run: Run, since: float | None, now: float) -> Iterator[str]:
    """What there is to say of a run's members. `since` is when its driver began, None without one (seconds since 1970).

    One listing names what is finished; logs are read of slots alone, and histories of what is in training.
    """
    files = run.store.files("members")
    logs = list(slots(run.store, since or 0.0))
    held = _held(run, files, logs)
    epochs = {member: _epochs(run, member, files) for member in held}
    told = [f"{len(run.members)}/{run.planned} members trained"]
    if since is not None and held:
        told += [f"{len(held)} in training"]
    if run.failures:
        told += [f"{len(run.failures)} failed"]
    if since is not None and held:
        told += _speed(run, held, epochs, now)
    yield f"train    {', '.join(told)}"
    for member, slot in sorted(held.items()):
        yield f"         member {member} {_where(run, slot, epochs[member], over=since is None)}"
    found = (re.fullmatch(rf"members/(\d+)/{re.escape(CHECKPOINT)}", name) for name in files)
    for member in (int(match.group(1)) for match in found if match):
        if member not in held:
            yield f"         member {member} has a checkpoint"
    yield from (f"         member {member} failed: {reason}" for member, reason in run.failures.items())


def _held(run: Run, files: Mapping[str, FileInfo], logs: Sequence[Slot]) -> dict[int, Slot]:
    """The members that were begun and are not over, each with the slot that took it last."""
    found = {slot.member: slot for slot in sorted(logs, key=lambda slot: slot.heard) if slot.member is not None}
    trained = set(run.members)
    return {
        member: slot
        for member, slot in found.items()
        if member < run.planned and member not in trained and not _given_up(files, slot)
    }


def _given_up(files: Mapping[str, FileInfo], slot: Slot) -> bool:
    """Whether a slot's member failed after the slot was last heard of."""
    failed = files.get(member_file(slot.member, FAILED)) if slot.member is not None else None
    return failed is not None and failed.mtime_ns / 1e9 > slot.heard


def _epochs(run: Run, member: int, files: Mapping[str, FileInfo]) -> int | None:
    """Epochs that a member goes on after; None if its history cannot be read."""
    if member_file(member, CHECKPOINT) not in files:
        return 0
    try:
        return run.history(member).num_rows
    except (Damaged, FileNotFoundError):
        return None


def _where(run: Run, slot: Slot, epochs: int | None, *, over: bool) -> str:
    """Where a member is in training, or was, and how far."""
    place = f"slot {slot.number}, {slot.process}"
    if over:
        heard = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(slot.heard))
        return f"was in training after {_of(run, epochs)} epochs, in {place}; last heard of at {heard}"
    return f"in training, {_of(run, epochs)} epochs done, in {place}"


def _of(run: Run, epochs: int | None) -> str:
    return f"{'?' if epochs is None else epochs}/{_total(run)}"


def _total(run: Run) -> int:
    """Epochs of one member: one where it is only tried, as its weights are given or nothing is to be trained."""
    return 1 if run.spec.ensemble.weights else max(run.spec.training.epochs, 1)


def _speed(run: Run, held: Mapping[int, Slot], epochs: Mapping[int, int | None], now: float) -> Iterator[str]:
    """Members an hour by the slots that train, and the time left; nothing before the first epoch was seen."""
    paces = {
        member: each(slot.seconds, slot.epochs, now - slot.heard)
        for member, slot in held.items()
        if slot.epochs and slot.seconds
    }
    if not paces:
        return
    usual = sum(paces.values()) / len(paces)
    total = _total(run)
    yield f"{3600 * sum(1 / (total * paces.get(member, usual)) for member in held):.3g} members/h"
    ends = [
        max(0.0, (total - (epochs[member] or 0)) * paces.get(member, usual) - (now - slot.heard))
        for member, slot in held.items()
    ]
    waiting = run.planned - len({*run.members, *run.failures, *held})
    most = "at most " if run.spec.ensemble.until is not None else ""
    yield f"{most}{clock(left(ends, total * usual, waiting))} left"
