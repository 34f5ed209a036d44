"""Which slot trains which member: decided here, by pure functions of what is told, and served by one actor.

A slot pulls a member, trains it, reports, and pulls the next until nothing is left anywhere. When a slot dies, the
actor hears of it at once (a call that is pending on a dead actor fails), and its member goes to the next free slot,
long before the dead slot is back.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.actor import ActorHandle

from salcore.members import Member, Outcome


@dataclass(frozen=True, kw_only=True)
class Work:
    """One member to train: of which run (its place in the list of runs), how often a slot died of it, and of what."""

    run: int
    member: Member
    crashes: int = 0
    cause: str = "out of memory?"


@dataclass(kw_only=True)
class Ledger:
    """Who holds what. Knows no Ray: `take`, `done` and `lost` are told what happened.

    A member whose slot died `attempts` times is given up and stands in `given_up`. Slots that are one `process` die
    together, of whichever member: all of them are suspected once, and none is given up for that alone. From then on one
    suspect at a time is held in a process, and is what that dies of.
    """

    waiting: deque[Work]
    process: dict[int, Any] = field(default_factory=dict)
    attempts: int = 3
    held: dict[int, Work] = field(default_factory=dict)
    outcomes: list[tuple[int, Outcome]] = field(default_factory=list)
    given_up: list[Work] = field(default_factory=list)
    crashes: int = 0

    def take(self, slot: int) -> Work | None:
        """The next member for a slot; None if none is waiting now."""
        if slot in self.held:
            self.lost(slot)  # it came back from a death that nobody reported
        suspected = any(self.held[other].crashes for other in self._beside(slot))
        found = next((work for work in self.waiting if not (suspected and work.crashes)), None)
        if found is not None:
            self.waiting.remove(found)
            self.held[slot] = found
        return found

    def done(self, slot: int, run: int, outcome: Outcome) -> None:
        """A slot finished a member of a run. A report of a member that it no longer holds changes nothing."""
        work = self.held.get(slot)
        if work is not None and (work.run, work.member.index) == (run, outcome.index):
            del self.held[slot]
            self.outcomes.append((run, outcome))

    def lost(self, slot: int, cause: str | None = None) -> None:
        """A slot died, and all of its process: their members go to the front of the line, or are given up."""
        if slot not in self.held:
            return
        self.crashes += 1
        lost = [self.held.pop(each) for each in reversed(self._beside(slot))]
        suspected = any(work.crashes for work in lost)
        for work in lost:
            if work.crashes or not suspected:
                work = replace(work, crashes=work.crashes + 1, cause=cause or work.cause)
            if work.crashes >= self.attempts and (suspected or len(lost) == 1):
                self.given_up.append(work)
            else:
                self.waiting.appendleft(work)

    def _beside(self, slot: int) -> list[int]:
        """The slots of its process that hold a member, itself among them."""
        process = self.process.get(slot, slot)
        return [each for each in self.held if self.process.get(each, each) == process]

    @property
    def finished(self) -> bool:
        """Whether no member is waiting or held: a slot may leave. (While one is held it may yet come back.)"""
        return not self.waiting and not self.held


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the driver may know of the queue at a moment."""

    members: int
    waiting: int
    training: tuple[tuple[int, int], ...]
    done: int
    given_up: tuple[Work, ...]
    crashes: int
    slots: int
    epochs: int
    broken: str | None
    finished: bool


@ray.remote(num_cpus=0)
class Queue:
    """The ledger as an actor that lives where the driver lives."""

    def __init__(self, work: Sequence[Work], attempts: int) -> None:
        self._ledger = Ledger(waiting=deque(work), attempts=attempts)
        self._members = len(work)
        self._incarnation: dict[int, int] = {}
        self._most_starts = attempts * (len(work) + 1)
        self._watchers: set[asyncio.Task] = set()
        self._epochs = 0
        self._broken: str | None = None
        self._closed = False
        self._over = asyncio.Event()

    async def register(self, slot: int, handle: ActorHandle) -> None:
        """A slot's process has started: whatever its predecessor held is free, and it is watched from now on."""
        self._ledger.lost(slot)
        self._ledger.process[slot] = handle
        self._incarnation[slot] = self._incarnation.get(slot, 0) + 1
        if self._incarnation[slot] > self._most_starts:
            self._broken = f"slot {slot} died {self._most_starts} times, more often than its members explain"
        task = asyncio.create_task(self._watch(slot, self._incarnation[slot], handle))
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def take(self, slot: int) -> Work | str | None:
        """A member, or None to ask again soon, or "leave"."""
        if self._closed or self._broken or self._ledger.finished:
            self._over.set()
            return "leave"
        return self._ledger.take(slot)

    async def epoch(self) -> None:
        """An epoch of some member is done (for the progress line)."""
        self._epochs += 1

    async def done(self, slot: int, run: int, outcome: Outcome) -> None:
        """A slot finished a member of a run."""
        self._ledger.done(slot, run, outcome)

    async def lost(self, slot: int, cause: str) -> None:
        """The process of a slot is about to end, and says of what."""
        self._ledger.lost(slot, cause)

    async def broken(self, reason: str) -> None:
        """A slot met something that no retry mends, such as a full disk: all leave."""
        self._broken = reason

    async def close(self) -> None:
        """Let the slots leave after the epoch they are in."""
        self._closed = True

    async def over(self) -> None:
        """Answers once no slot has anything to do any more."""
        await self._over.wait()

    async def status(self) -> Status:
        """What is known now."""
        ledger = self._ledger
        return Status(
            members=self._members,
            waiting=len(ledger.waiting),
            training=tuple((work.run, work.member.index) for work in ledger.held.values()),
            done=len(ledger.outcomes),
            given_up=tuple(ledger.given_up),
            crashes=ledger.crashes,
            slots=len(self._watchers),
            epochs=self._epochs,
            broken=self._broken,
            finished=ledger.finished,
        )

    async def _watch(self, slot: int, incarnation: int, handle: Any) -> None:
        """Ask the slot's actor whether it is there, again and again; the answer fails the moment it dies."""
        while self._incarnation[slot] == incarnation:
            try:
                await handle.__ray_ready__.remote()
            except ray.exceptions.RayError as error:
                if self._incarnation[slot] == incarnation:
                    self._ledger.lost(slot, _cause(error))
                return
            await asyncio.sleep(1.0)


def _cause(error: ray.exceptions.RayError) -> str | None:
    """What a slot died of, where Ray says so: its memory monitor's kills are no RayActorError."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "Ray killed it as its node ran out of memory"
    return None
