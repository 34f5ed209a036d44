"""What ought to stand in MLflow, told from the spec and the run directory alone. `jobs.forwarding` sends it."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from salcore.layout import MLFLOW, member_file
from salcore.member_files import FAILED, HISTORY, RECORD, read_failure, read_history, read_record
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import FileInfo, Store

Stage = Literal["RUNNING", "FINISHED", "FAILED"]

METRICS = {
    "train_loss": "train/loss",
    "eval_loss": "eval/loss",
    "eval_accuracy": "eval/accuracy",
    "learning_rate": "train/learning_rate",
}
"""Column of history.parquet -> name of the metric."""

VALUE_LIMIT = 6000
"""Characters of a parameter that MLflow takes (of a tag it takes more)."""

MAY_CHANGE = (
    "attribution.", "cluster.", "tracking.", "search.", "parameters", "sallm",
    "data.eval_samples", "data.root", "data.mirror", "ensemble.members", "ensemble.until", "ensemble.weights",
    "ensemble.start", "training.attention.explanations",
)  # fmt: skip
"""Starts of the keys that may change while a run stays the same run: it grows, or its data moved."""

TEACHER, EXPLANATIONS = "salcore.teacher", "salcore.explanations"
"""Tags of a run that goes on from another: the MLflow run whose weights it has, or whose maps it learns from."""

_CUT = " ... (cut)"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of one metric. `at_ms` is the time in training since the member began."""

    key: str
    value: float
    step: int
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class MemberRecord:
    """How far a member is: points of each epoch, when it began and was last heard of (ms since 1970; 0: unknown).

    `seconds` is the time of its epochs.
    """

    stage: Stage
    reason: str | None
    epochs: tuple[tuple[Point, ...], ...]
    seconds: float
    began_ms: int
    heard_ms: int


MemberFiles = tuple[FileInfo | None, FileInfo | None, FileInfo | None]
"""Size and time of a member's history, record and failure: its record is the same as long as these are."""


def member_files(files: Mapping[str, FileInfo], index: int) -> MemberFiles:
    """What a listing of the run directory says of a member."""
    history, record, failure = (files.get(member_file(index, name)) for name in (HISTORY, RECORD, FAILED))
    return history, record, failure


def read_member(store: Store, member: Member, files: MemberFiles) -> MemberRecord | None:
    """The record of a member, None if it has not begun. Files of another fingerprint count as missing."""
    history, record, failure = files
    trained = record is not None and _own(store, member, RECORD) is not None
    failed = None if trained or failure is None else _own(store, member, FAILED)
    if history is None and not trained and failed is None:
        return None
    rows = _rows(store, member) if history else []
    seconds = list(accumulate(float(row["seconds"]) for row in rows))
    heard = max(info.mtime_ns for info in files if info is not None) // 1_000_000
    written = history.mtime_ns // 1_000_000 if history else heard
    return MemberRecord(
        stage="FINISHED" if trained else "FAILED" if failed else "RUNNING",
        reason=redacted(failed["reason"]) if failed else None,
        epochs=tuple(tuple(_points(row, round(1000 * end))) for row, end in zip(rows, seconds, strict=True)),
        seconds=seconds[-1] if seconds else 0.0,
        began_ms=max(0, written - round(1000 * seconds[-1])) if seconds else written,
        heard_ms=heard,
    )


def settings(spec: Spec) -> tuple[dict[str, str], dict[str, str]]:
    """The spec as flat texts: what is fixed for a run, and what may change while it grows (`MAY_CHANGE`).

    MLflow's parameters can never be changed, so the second part is for tags, which tell the latest value.
    """
    flat = {key: _cut(redacted(value)) for key, value in _flatten(spec.to_dict())}
    fixed = {key: value for key, value in flat.items() if not key.startswith(MAY_CHANGE)}
    return fixed, {key: value for key, value in flat.items() if key not in fixed}


def links(spec: Spec) -> dict[str, str]:
    """Tags with the MLflow runs that a run goes on from: whose weights, and whose explanations."""
    weights = (spec.ensemble.weights or spec.ensemble.start or (None,))[0]
    named = {
        TEACHER: None if weights is None else weights.partition("/members/")[0],
        EXPLANATIONS: spec.training.attention.explanations,
    }
    found = {}
    for tag, place in named.items():
        store = None if place is None else Store(place)
        if store is not None and store.exists(MLFLOW):
            found[tag] = store.read_json(MLFLOW).get("parent_run_id", "")
    return {tag: run for tag, run in found.items() if run}


def redacted(text: str) -> str:
    """A text without the user and password of any URI in it.

    >>> redacted("no answer from https://ann:secret@host:5000/api")
    'no answer from https://host:5000/api'
    """
    return re.sub(r"://[^/\s'\"]*@", "://", text)


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - len(_CUT)] + _CUT


def _own(store: Store, member: Member, name: str) -> dict[str, Any] | None:
    """The content of member.json or failed.json if it is this very member's."""
    try:
        content = {RECORD: read_record, FAILED: read_failure}[name](store, member.index)
    except FileNotFoundError:  # a retry removed it after it was listed
        return None
    return content if content is not None and content["fingerprint"] == member.fingerprint else None


def _rows(store: Store, member: Member) -> list[dict[str, Any]]:
    return read_history(store, member.index).to_pylist()


def _points(row: Mapping[str, Any], at_ms: int) -> Iterator[Point]:
    """The finite values of one epoch."""
    for column, key in METRICS.items():
        value = row.get(column)
        if value is not None and math.isfinite(value):
            yield Point(key=key, value=float(value), step=int(row["epoch"]), at_ms=at_ms)
