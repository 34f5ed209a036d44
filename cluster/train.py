"""Training ensembles in slots.

A slot is a trainer of one worker whose training function pulls members from one queue until it is empty: a member per
trainer would cost 10 to 20 seconds each, and many ranks of one trainer would all restart when one dies. Slots that
share a GPU are lanes of one such worker. One pool of slots may serve several runs.
"""

import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import naming
from cluster.errors import Broken, first_line, unusable
from cluster.queue import Queue, Status, Work
from cluster.source import Source
from cluster.start import Room, fitting, nodes
from salcore.data import Data
from salcore.device import of_slot, pin
from salcore.lanes import side_by_side
from salcore.logs import Log
from salcore.member_files import fail, train_member
from salcore.members import Member
from salcore.storage import Store
from salcore.training import Epoch


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run wants trained: where its files go, its data and the members that are missing."""

    store: Store
    data: Source
    members: Sequence[Member]


POLL_S = 1.0
"""The driver asks the queue this often: it shares its cores with the slots."""
LOOK_S = 5.0
"""It looks this often whether nodes have joined."""
LEAVE_S = 30.0
"""At the end slots get so long to leave."""
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1"}
"""Train runs a slot in a thread, whose memory glibc would give back after each step: up to 13 % of its time."""


def train(runs: Sequence[Run], room: Room, *, name: str, attempts: int, scratch: str) -> Iterator[Status]:
    """Train all missing members of all runs in one pool of slots; yields what is known every `POLL_S` seconds.

    `name` must be unique to what is trained: Ray Train resumes a name it has seen. `scratch` is a folder for Train's
    own state. A member whose slot died `attempts` times is given up: its `failed.json` says so. Where the room may get
    larger, slots are added as nodes join. Raises Broken.
    """
    work = [Work(run=number, member=member) for number, run in enumerate(runs) for member in run.members]
    queue = _queue_here(work, attempts, name)
    over = queue.over.remote()
    threads: list[_SlotThread] = []
    wanted, started, looked = min(room.slots, len(work)), 0, time.monotonic()
    try:
        while True:
            while started < wanted:
                slots = range(started, min(started + room.lanes, wanted))
                threads.append(_SlotThread(slots, queue, runs, room, name, scratch))
                started = slots.stop
            status = _status(queue)
            yield status
            if status.finished or status.broken:
                break
            _check_alive(threads)
            ray.wait([over], timeout=POLL_S)
            if room.most > started and time.monotonic() - looked > LOOK_S:
                looked, left = time.monotonic(), status.members - status.done - len(status.given_up)
                wanted = min(room.most, left, fitting(room.cpus, room.gpus, nodes()))
        for given_up in status.given_up:
            reason = f"its slot died {given_up.crashes} times while training it ({given_up.cause})"
            fail(runs[given_up.run].store, given_up.member, reason, epoch=0, attempts=given_up.crashes)
        if status.broken:
            raise Broken(status.broken)
        latest = time.monotonic() + LEAVE_S
        for thread in threads:
            thread.join(max(0.0, latest - time.monotonic()))
    finally:
        queue.close.remote()


class _Trainer(DataParallelTrainer):
    """What a `TorchTrainer` is but for its process group, which one worker has no use for.

    Nor has it one for two helpers, each of which is a process and takes 1 % of a core. One hands out Ray datasets, of
    which there are none. One frees the room of a slot whose controller was killed, which the end of the driver does as
    well.
    """

    _UNUSED = "DatasetsCallback", "PlacementGroupCleanerCallback"

    def _create_default_callbacks(self) -> list[Any]:
        """Of Ray Train's own; where another release has no such method, this one is never called."""
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in self._UNUSED]


class _SlotThread(threading.Thread):
    """A thread of the driver in which the trainer of a slot, or of those that share a GPU, runs: `fit()` blocks."""

    def __init__(self, slots: range, queue: Any, runs: Sequence[Run], room: Room, name: str, scratch: str) -> None:
        super().__init__(daemon=True, name=f"slot-{slots[0]}")
        self.error: BaseException | None = None
        gpus = round(room.gpus * len(slots), 4)  # Ray counts no finer
        self._trainer = _Trainer(
            partial(_pull_members, queue, slots, list(runs), room),  # its controller would load a `train_loop_config`
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": room.cpus * len(slots)} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(
                name=f"{name}-slot-{slots[0]}",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=-1),
                worker_runtime_env={"env_vars": KEEP_MEMORY},
                callbacks=naming.callbacks(f"{_called(slots)} of {_title(runs)}"),
            ),
        )
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error


def _called(slots: range) -> str:
    """What a worker's slots are called together.

    >>> _called(range(2, 3)), _called(range(4, 8))
    ('slot 2', 'slots 4 to 7')
    """
    return f"slot {slots[0]}" if len(slots) == 1 else f"slots {slots[0]} to {slots[-1]}"


def _title(runs: Sequence[Run]) -> str:
    """The first run's directory, as people call a run, and how many more there are."""
    first = str(runs[0].store).rpartition("/")[2]
    return first if len(runs) == 1 else f"{first} and {len(runs) - 1} more"


def _pull_members(queue: Any, slots: range, runs: Sequence[Run], room: Room) -> None:
    """The training function of a worker: its slots pull members side by side."""
    with _telling(queue):
        pin(room.cpus)
        me, held, device = ray.get_runtime_context().current_actor, _Held(runs), of_slot(room.gpus)
        for slot in slots:
            ray.get(queue.register.remote(slot, me))
        side_by_side([partial(_work_off, queue, slot, held, device) for slot in slots], device)


@contextmanager
def _telling(queue: Any) -> Iterator[None]:
    """A block that tells the queue what it cannot mend: raising would have Train restart the worker for ever."""
    try:
        yield
    except OSError as error:
        ray.get(queue.broken.remote(unusable(error)))
    except (ray.exceptions.RayError, torch.AcceleratorError):
        raise  # the queue or the node is gone, or the GPU takes no more work of this process: Train starts another
    except Exception as error:
        ray.get(queue.broken.remote(f"{type(error).__name__} in a slot: {error}"))


class _Held:
    """The data of the run at hand, which the slots of a process share."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self._lock = threading.Lock()
        self._held: tuple[Source, Data] | None = None

    def data(self, run: int) -> Data:
        """The data of a run, kept until others are asked for."""
        source = self.runs[run].data
        with self._lock:
            if self._held is None or self._held[0] != source:
                self._held = source, source.get()
            return self._held[1]


def _work_off(queue: Any, slot: int, held: _Held, device: str) -> None:
    """Pull members until there are none; what is wrong with one slot is told while others go on."""
    with _telling(queue):
        try:
            _train_all(queue, slot, held, device)
        except torch.AcceleratorError as error:
            ray.get(queue.lost.remote(slot, first_line(error)))
            raise


def _train_all(queue: Any, slot: int, held: _Held, device: str) -> None:
    """Train one member after the other; the log of the run at hand is kept."""
    logs: dict[int, Log] = {}
    while (work := ray.get(queue.take.remote(slot))) != "leave":
        if work is None:
            time.sleep(0.5)
            continue
        run, index = held.runs[work.run], work.member.index
        if work.run not in logs:
            logs = {work.run: Log(run.store, f"train-slot-{slot}")}
            logs[work.run].hear_warnings()
        log = logs[work.run]
        log.write(f"process {os.getpid()} on {platform.node()}, {torch.get_num_threads()} threads")
        log.write(f"member {index} begins")
        log.close()

        def on_epoch(record: Epoch, index: int = index, log: Log = log) -> None:
            log.write(f"member {index} {record.row()}")
            queue.epoch.remote()

        outcome = train_member(work.member, held.data(work.run), run.store, device=device, on_epoch=on_epoch)
        log.write(f"member {index} {'is trained' if outcome.reason is None else f'failed: {outcome.reason}'}")
        log.close()
        ray.get(queue.done.remote(slot, work.run, outcome))


def _queue_here(work: Sequence[Work], attempts: int, name: str) -> Any:
    """The queue on the driver's own node: on another one it would die with that node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue.options(scheduling_strategy=here, name=f"queue of {name}")  # type: ignore[attr-defined]
    return queue.remote(list(work), attempts)


def _status(queue: Any) -> Status:
    """What the queue knows. Raises Broken if it died: its node ran out of memory, or somebody killed it."""
    try:
        return ray.get(queue.status.remote())
    except ray.exceptions.RayError as error:
        told = first_line(error)
        raise Broken(f"the queue that hands out members died ({told}); run the same command again") from None


def _check_alive(threads: Sequence[_SlotThread]) -> None:
    if all(not thread.is_alive() for thread in threads):
        errors = [thread.error for thread in threads if thread.error]
        raise Broken(f"every slot stopped before the work was done: {errors[0] if errors else 'no reason was given'}")
