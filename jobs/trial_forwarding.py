"""Bringing an MLflow server to where a search stands: one run below the parent for every trial that was begun."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jobs.forwarding import DIRECTORY, PARENT, Forwarder, Metric, Run, Tracked, now_ms
from jobs.records import redacted
from salcore import members
from salcore.search import Outcome, Record, Trial, record
from salcore.search.record import METRICS
from salcore.search.settings import layers_text

if TYPE_CHECKING:
    from jobs.tracking import Server

STATE, SENT, CHOSEN, FRONT = "salcore.state", "salcore.record", "salcore.chosen", "salcore.front"


class TrialForwarder(Forwarder):
    """The forwarder of a search. Its children are trials: k and lambda, metrics, and their members as a table.

    `trials` tells which were begun, and `outcome` which are on the front and chosen, once that is known.
    """

    def __init__(
        self,
        server: "Server",
        tracked: Tracked,
        *,
        trials: Callable[[], Sequence[Trial]],
        outcome: Callable[[], Outcome | None],
    ) -> None:
        self._trials, self._outcome = trials, outcome
        super().__init__(server, tracked)

    def _forward_children(self, *, over: bool) -> None:
        for trial in self._trials():
            run = self._children[trial.name] = self._children.get(trial.name) or self._trial_run(trial)
            found = record.read(trial.store)
            if found is None or found.fingerprint != trial.fingerprint:
                if not over:
                    self._set_status(run, "RUNNING")
            elif run.tags.get(SENT) != _mark(found) or run.status != _status(found):
                self._send_record(run, trial, found)
            if over and (outcome := self._outcome()) is not None:
                chosen, front = trial.name == outcome.chosen, trial.name in outcome.front
                self._tag(run, {CHOSEN: str(chosen).lower(), FRONT: str(front).lower()})

    def _trial_run(self, trial: Trial) -> Run:
        """The run of a trial, made when it begins."""
        mark = members.fingerprint(self._tracked.fingerprint, trial.name)
        run = self._found.get(mark) or self._create(trial.name, mark, now_ms(), {PARENT: self._parent.id})
        fixed: dict[str, str] = {"objective": trial.spec.training.objective}
        if trial.setting is not None:
            fixed |= {"k": f"{trial.setting.mask_fraction:g}", "lambda": f"{trial.setting.weight:g}"}
            if trial.setting.layers is not None:
                fixed["layers"] = layers_text(trial.setting.layers)
        missing = {key: value for key, value in fixed.items() if key not in run.parameters}
        self._server.log(run.id, parameters=missing)
        self._tag(run, {PARENT: self._parent.id, DIRECTORY: redacted(str(trial.store))})
        return run

    def _send_record(self, run: Run, trial: Trial, found: Record) -> None:
        """What the trial came to; its status last, so that it says all is there."""
        step, info = len(found.members), trial.store.info(record.RECORD)
        at_ms = info.mtime_ns // 1_000_000 if info else run.began_ms  # a batch that arrives twice is the same points
        missing = [
            Metric(key=key, value=value, step=step, at_ms=at_ms)
            for key, value in metrics(found).items()
            if (step, value) not in self._server.values(run.id, key)
        ]
        self._server.log(run.id, metrics=missing)
        if found.members:
            self._server.upload(run.id, "members.csv", members_table(found))
        self._set_reason(run, None if found.reason is None else redacted(found.reason))
        self._tag(run, {STATE: found.state, SENT: _mark(found)})
        self._set_status(run, _status(found))

    def _tag(self, run: Run, tags: Mapping[str, str]) -> None:
        """Set the tags that stand otherwise."""
        changed = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        if changed:
            self._server.log(run.id, tags=changed)
            run.tags.update(changed)


def _mark(found: Record) -> str:
    """What tells a record from that of another attempt at the same trial."""
    return members.fingerprint(found.to_json())


def _status(found: Record) -> str:
    return "FAILED" if found.state == "failed" else "FINISHED"


def metrics(found: Record) -> dict[str, float]:
    """A trial's metrics with the ends of their intervals, as MLflow names them; what is not defined is left out."""
    values: dict[str, float] = {}
    for name in METRICS:
        estimate = found.metric(name)
        values |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def members_table(found: Record) -> bytes:
    """The trial's members as CSV, which MLflow shows as a table."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("member", "accuracy", "faithfulness"))
    rows.writerows((row.member, row.accuracy, row.faithfulness) for row in found.members)
    return text.getvalue().encode()
