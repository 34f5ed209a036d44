"""Running the trials of a search on Ray Tune.

A trial is one call of a function in a worker process that is kept for the next trial: `reuse_actors`. Tune decides when
and where a trial runs, again after its process died, and with ASHA when it is stopped; which trials there are and what
came of them is asked of storage (`salcore.search.Schedule`), so Tune's own state is thrown away.
"""

import logging
import os
import platform
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cluster.errors import Broken, first_line, unusable
from cluster.source import Source
from cluster.start import Room
from salcore.device import pin
from salcore.logs import Log
from salcore.search import Record, Schedule, Trial, fail, record, run
from salcore.spec import SearchSpec
from salcore.storage import Store

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files of Tune's beside ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # standard training has no score: ASHA leaves it alone
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",  # the older output can be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # users' modules and paths are those of the folder that one stands in
}
HALVING = 2
"""ASHA keeps one of so many trials at 1, 2, 4, ... members: ensembles are small, and their first members noisy."""
WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Heard:
    """News of a trial: how many members it has, and its record once it is over."""

    trial: str
    members: int = 0
    over: Record | None = None


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a worker needs besides the trial."""

    search: SearchSpec
    data: Source
    standard: Store
    threads: int
    gpu: bool


@dataclass(kw_only=True)
class _Desk:
    """Where Tune's thread and the driver meet."""

    schedule: Schedule
    begin: Callable[[Trial], None]
    news: "queue.SimpleQueue[Heard | None]" = field(default_factory=queue.SimpleQueue)
    error: BaseException | None = None
    closing: bool = False

    def stop(self, error: BaseException | None = None) -> None:
        """Have Tune stop all trials."""
        self.error, self.closing = self.error or error, True


def search(
    schedule: Schedule, data: Source, room: Room, begin: Callable[[Trial], None], *, name: str, scratch: str
) -> Iterator[Heard]:
    """Do all trials that are not over; yields what is heard of them. Raises Broken.

    `begin` is called in this process before a trial starts, and writes its spec.yaml. `name` must be unique to what is
    tried, and `scratch` is a folder for Tune's own state. A trial whose process died, or lost its GPU,
    `cluster.attempts` times failed.
    """
    desk = _Desk(schedule=schedule, begin=begin)
    thread = threading.Thread(target=_tune, args=(desk, data, room, name, scratch), daemon=True, name="tune")
    thread.start()
    try:
        while (heard := desk.news.get()) is not None:
            yield heard
    finally:
        desk.stop()
        thread.join(WAIT_S)
    if isinstance(desk.error, Broken):
        raise desk.error
    if desk.error is not None:
        raise Broken(f"{type(desk.error).__name__}: {desk.error}") from desk.error


def _tune(desk: _Desk, data: Source, room: Room, name: str, scratch: str) -> None:
    """The thread in which Tune runs: `fit()` blocks."""
    try:
        _tuner(desk, data, room, name, scratch).fit()
    except BaseException as error:
        desk.stop(error)
    finally:
        desk.news.put(None)


def _tuner(desk: _Desk, data: Source, room: Room, name: str, scratch: str) -> tune.Tuner:
    os.environ.update(QUIET)
    for library in ("ray.tune", "ray.train"):
        logging.getLogger(library).setLevel(logging.ERROR)
    spec = desk.schedule.spec
    standard = desk.schedule.trial(0)
    assert standard is not None, "it depends on no other"
    work = _Work(search=spec.search, data=data, standard=standard.store, threads=room.cpus, gpu=room.gpus > 0)
    resources = {"CPU": room.cpus} | ({"GPU": room.gpus} if room.gpus else {})
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, work=work), resources),
        tune_config=tune.TuneConfig(
            search_alg=_InOrder(desk),
            scheduler=_asha(desk.schedule) if spec.search.asha else None,
            num_samples=-1,
            max_concurrent_trials=room.slots,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=scratch,
            verbose=0,
            stop=_Closing(desk),
            failure_config=tune.FailureConfig(max_failures=spec.cluster.attempts - 1),
        ),
    )


def _name(trial: Any) -> str:
    return f"{trial.config['trial'].name}-{trial.trial_id}"


def _trial(config: dict[str, Any], work: _Work) -> None:
    """The function that Tune runs: one trial, in a worker's process. What it cannot mend it reports."""
    pin(work.threads)
    trial: Trial = config["trial"]
    log = Log(trial.store, "trial")
    log.write(f"process {os.getpid()} on {platform.node()}, {work.threads} threads")
    device = "cuda" if work.gpu else "cpu"
    try:
        for found in run(trial, work.search, work.data.get(), standard=work.standard, device=device):
            log.write(f"{len(found.members)} of {trial.spec.ensemble.members} members {found.reason or ''}".rstrip())
            log.close()
            score = {"score": found.scores[-1]} if found.scores and found.scores[-1] == found.scores[-1] else {}
            tune.report({"members": len(found.members), "record": found.to_json(), **score})
    except OSError as error:
        tune.report({"broken": unusable(error)})
    except torch.AcceleratorError as error:
        tune.report({"lost": first_line(error)})
        raise  # Tune keeps no process whose function raised: another one goes on, unless it was the last attempt


class _InOrder(Searcher):
    """Gives Tune the trials that are not over, in the order of the schedule, and hears what comes of them."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__()
        self._desk, self._place = desk, 0
        self._running: dict[str, Trial] = {}
        self._causes: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, to resume by it; here storage says what is left

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        schedule = self._desk.schedule
        while self._place < len(schedule) and not self._desk.closing:
            trial = schedule.trial(self._place)
            if trial is None:
                return None  # it depends on trials that are still at work
            self._place += 1
            if schedule.over(trial) is None:
                self._desk.begin(trial)
                self._running[trial_id] = trial
                self._desk.news.put(Heard(trial=trial.name))
                return {"trial": trial}
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "broken" in result:
            self._desk.stop(Broken(result["broken"]))
        elif "lost" in result:
            self._causes[trial_id] = result["lost"]
        else:
            self._desk.news.put(Heard(trial=self._running[trial_id].name, members=result["members"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._running.pop(trial_id)
        if error:
            attempts = self._desk.schedule.spec.cluster.attempts
            fail(trial, f"its process died {attempts} times ({self._causes.get(trial_id, 'out of memory?')})")
        found = self._desk.schedule.over(trial)
        if found is None and not self._desk.closing and result and "record" in result:  # ASHA stopped it
            record.write(trial.store, Record.from_json(result["record"]))
            found = self._desk.schedule.over(trial)
        if found is not None:
            self._desk.news.put(Heard(trial=trial.name, members=len(found.members), over=found))

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search goes on from storage")


class _Closing(Stopper):
    """Stops all trials when the driver wants no more of them."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._desk.closing


def _asha(schedule: Schedule) -> ASHAScheduler:
    """ASHA that knows what trials that are over were compared by."""
    scheduler = ASHAScheduler(
        time_attr="members",
        metric="score",
        mode="max",
        max_t=schedule.spec.ensemble.members,
        grace_period=1,
        reduction_factor=HALVING,
    )
    for found in schedule.records():
        trial = SimpleNamespace(trial_id=found.name)
        scheduler.on_trial_add(None, trial)
        for members, score in enumerate(found.scores, 1):
            scheduler.on_trial_result(None, trial, {"members": members, "score": score})
    return scheduler
