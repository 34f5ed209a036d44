"""Bringing an MLflow server to where a run directory stands. It knows no MLflow: `jobs.tracking` has the `Server`.

What stands is found by asking the server, never remembered past an error, so a record is sent once after any mixture
of kills, resumes and outages. The MLflow runs of a directory carry its identity, a random word that mlflow.json holds
before anything is created: a run whose creation was never answered is found by it. The times of an epoch's metrics
follow from its record, so a batch that arrives twice, because the server was slower than the client's patience, is the
same rows to MLflow, which keeps each of them once.
"""

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jobs.records import METRICS, MemberFiles, MemberRecord, links, member_files, read_member, redacted, settings
from salcore import layout
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import Store

if TYPE_CHECKING:
    from jobs.tracking import Server

FINGERPRINT, IDENTITY, DIRECTORY, REASON = "salcore.fingerprint", "salcore.run", "salcore.directory", "salcore.reason"
PARENT = "mlflow.parentRunId"
EPOCHS_AT_ONCE = 1000 // len(METRICS)
"""MLflow takes 1,000 metrics in a batch, and only whole epochs are sent."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What is tracked. `fingerprint` is what all members share: it stays the same as a run grows."""

    store: Store
    spec: Spec
    members: Sequence[Member]
    fingerprint: str
    uri: str


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended. `at_ms` is fixed here, so that a point that is sent again is the same point."""

    status: Literal["FINISHED", "FAILED", "KILLED"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Sequence[str] = ()
    at_ms: int = field(default_factory=now_ms)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One value of a metric as MLflow keeps it. `at_ms` is milliseconds since 1970."""

    key: str
    value: float
    step: int
    at_ms: int


@dataclass(kw_only=True)
class Run:
    """What stands of one MLflow run. `points` are its (metric, step) pairs, None until asked for."""

    id: str
    status: str
    began_ms: int
    parameters: dict[str, str]
    tags: dict[str, str]
    points: set[tuple[str, int]] | None = None


class Forwarder:
    """One conversation with a server: it asks what stands there, and keeps count of what it sends.

    After any error it must be dropped, since what the server did last is not known. Nothing here catches one.
    """

    def __init__(self, server: "Server", tracked: Tracked) -> None:
        self._server, self._tracked = server, tracked
        self._seen: dict[int, MemberFiles] = {}
        self._children: dict[int | str, Run] = {}
        self._written = self._identify()
        self._experiment = server.experiment(tracked.spec.tracking.experiment or tracked.spec.name)
        self._found = self._find_runs()
        self._parent = self._open_parent()
        self._write_ids()

    def forward(self, ending: Ending | None = None) -> None:
        """Send what MLflow lacks of everything that has changed; with an ending, close everything."""
        if ending is None:
            self._set_status(self._parent, "RUNNING")
        self._forward_children(over=ending is not None)
        self._write_ids()
        if ending is not None:
            self._close(ending)

    def _forward_children(self, *, over: bool) -> None:
        """Send what MLflow lacks of every member whose files have changed. A search has other children."""
        files = self._tracked.store.files("members")
        for member in self._tracked.members:
            state = member_files(files, member.index)
            if state != self._seen.get(member.index):
                record = read_member(self._tracked.store, member, state)
                if record is not None:
                    self._forward_member(member, record, over=over)
                self._seen[member.index] = state

    def _forward_member(self, member: Member, record: MemberRecord, *, over: bool) -> None:
        run = self._children[member.index] = self._child(member, record)
        if run.status == record.stage == "FINISHED":
            return  # this status was set after all else had been sent
        self._send_epochs(run, record)
        self._set_reason(run, record.reason)
        if not (over and record.stage == "RUNNING"):
            self._set_status(run, record.stage, record.heard_ms)

    def _send_epochs(self, run: Run, record: MemberRecord) -> None:
        """Send the points that do not stand, whole epochs at a time."""
        if run.points is None:
            run.points = {(key, step) for key in METRICS.values() for step, _ in self._server.values(run.id, key)}
        for first in range(0, len(record.epochs), EPOCHS_AT_ONCE):
            missing = [
                Metric(key=point.key, value=point.value, step=point.step, at_ms=run.began_ms + point.at_ms)
                for epoch in record.epochs[first : first + EPOCHS_AT_ONCE]
                for point in epoch
                if (point.key, point.step) not in run.points
            ]
            self._server.log(run.id, metrics=missing)
            run.points.update((metric.key, metric.step) for metric in missing)

    def _close(self, ending: Ending) -> None:
        """Send results and artifacts, then put statuses right: the parent's last, so that it says all is there."""
        self._send_results(ending)
        self._send_artifacts(ending.artifacts)
        for run in self._children.values():
            if run.status == "RUNNING":
                self._set_status(run, "KILLED")
        self._set_status(self._parent, ending.status)

    def _send_results(self, ending: Ending) -> None:
        """The run's own metrics, over the number of trained members.

        A value that changed since, as more samples were explained, joins the old one; MLflow shows the new one.
        """
        members = self._trained()
        missing = [
            Metric(key=key, value=value, step=members, at_ms=ending.at_ms)
            for key, value in ending.metrics.items()
            if math.isfinite(value) and (members, value) not in self._server.values(self._parent.id, key)
        ]
        self._server.log(self._parent.id, metrics=missing)

    def _trained(self) -> int:
        """Number of trained members."""
        return sum(run.status == "FINISHED" for run in self._children.values())

    def _send_artifacts(self, names: Sequence[str]) -> None:
        """Upload those of the files that there are: a run that failed early has no report."""
        store = self._tracked.store
        for name in names:
            if store.exists(name):
                content = store.read(name)
                if name.endswith(".yaml"):  # a spec has the URI of MLflow
                    content = redacted(content.decode()).encode()
                self._server.upload(self._parent.id, name, content)

    def _identify(self) -> dict[str, Any]:
        """The content of mlflow.json, with an identity. That of another fingerprint is of a run that is gone."""
        store = self._tracked.store
        written = store.read_json(layout.MLFLOW) if store.exists(layout.MLFLOW) else {}
        if written.get("fingerprint") != self._tracked.fingerprint or "identity" not in written:
            written = {"fingerprint": self._tracked.fingerprint, "identity": uuid.uuid4().hex}
            store.write_json(layout.MLFLOW, written)
        return written

    def _write_ids(self) -> None:
        content = {
            "fingerprint": self._tracked.fingerprint,
            "identity": self._written["identity"],
            "uri": redacted(self._tracked.uri),
            "experiment_id": self._experiment,
            "parent_run_id": self._parent.id,
            "member_run_ids": {
                f"{member.index:04d}": self._found[member.fingerprint].id
                for member in self._tracked.members
                if member.fingerprint in self._found
            },
        }
        if content != self._written:
            self._tracked.store.write_json(layout.MLFLOW, content)
            self._written = content

    def _find_runs(self) -> dict[str, Run]:
        """The runs of this directory by fingerprint. Of twins, left by a creation that was answered late, one stays."""
        known = {self._written.get("parent_run_id"), *self._written.get("member_run_ids", {}).values()}
        found: dict[str, Run] = {}
        runs = self._server.runs(self._experiment, {IDENTITY: self._written["identity"]})
        for run in sorted(runs, key=lambda run: (run.id not in known, run.id)):
            if found.setdefault(run.tags[FINGERPRINT], run) is not run:
                self._server.delete(run.id)
        return found

    def _open_parent(self) -> Run:
        """The parent run, with the spec: what is fixed as parameters, what may change as tags."""
        tracked = self._tracked
        name = f"{tracked.spec.name}-{tracked.fingerprint[:8]}"
        run = self._found.get(tracked.fingerprint) or self._create(name, tracked.fingerprint, now_ms())
        fixed, latest = settings(tracked.spec)
        changed = {
            key: value for key, value in fixed.items() if key in run.tags or run.parameters.get(key, value) != value
        }
        tags = latest | changed | {DIRECTORY: redacted(str(tracked.store))} | links(tracked.spec)
        self._server.log(
            run.id,
            parameters={key: value for key, value in fixed.items() if key not in run.parameters},
            tags={key: value for key, value in tags.items() if run.tags.get(key) != value},
        )
        return run

    def _child(self, member: Member, record: MemberRecord) -> Run:
        """The run of a member, made when the member begins."""
        run = self._found.get(member.fingerprint)
        if run is None:
            name, began_ms = f"member-{member.index:04d}", record.began_ms or now_ms()
            return self._create(name, member.fingerprint, began_ms, {PARENT: self._parent.id})
        if run.tags.get(PARENT) != self._parent.id:  # somebody deleted the old parent
            self._server.tag(run.id, PARENT, self._parent.id)
            run.tags[PARENT] = self._parent.id
        return run

    def _create(self, name: str, fingerprint: str, began_ms: int, tags: Mapping[str, str] | None = None) -> Run:
        own = {FINGERPRINT: fingerprint, IDENTITY: self._written["identity"]}
        run = self._found[fingerprint] = self._server.create(self._experiment, name, began_ms, own | dict(tags or {}))
        run.points = set()
        return run

    def _set_status(self, run: Run, status: str, ended_ms: int = 0) -> None:
        if run.status != status:
            self._server.set_status(run.id, status, ended_ms or now_ms())
            run.status = status

    def _set_reason(self, run: Run, reason: str | None) -> None:
        """Tag a failed member with its reason; a retried one loses it."""
        if reason and run.tags.get(REASON) != reason:
            self._server.tag(run.id, REASON, reason)
            run.tags[REASON] = reason
        elif not reason and REASON in run.tags:
            self._server.untag(run.id, REASON)
            del run.tags[REASON]
