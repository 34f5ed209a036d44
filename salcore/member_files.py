"""What one member leaves in the run directory: weights, history, checkpoint, and the record that says it is trained.

`member.json` is written last, so its presence means trained. Everything is written whole or not at all, under names
that are a pure function of the member: a second worker that trains the same member after a crash writes the same bytes
to the same places.
"""

import hashlib
import io
import math
import platform
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from salcore.data import Data
from salcore.errors import Damaged
from salcore.explanations import explained
from salcore.layout import member_file
from salcore.members import Member, Outcome
from salcore.models import build
from salcore.storage import FileInfo, Store
from salcore.training import Diverged, Epoch, final_weights, fit

RECORD, FAILED, HISTORY = "member.json", "failed.json", "history.parquet"
WEIGHTS, CHECKPOINT = "weights.safetensors", "checkpoint.pt"


class _Record(BaseModel):
    """Types of what `member.json` is relied on for. Without its weights' size and checksum a member is not trained."""

    model_config = ConfigDict(extra="allow")

    fingerprint: str
    index: int = 0
    seeds: dict[str, int] = {}
    metrics: dict[str, float] = {}
    classes: list[str] = []
    shape: list[int] = []
    mean: list[float] = []
    std: list[float] = []
    weights_sha256: str = ""
    weights_bytes: int = -1
    weights_from: str | None = None


class _Failure(BaseModel):
    """What `failed.json` holds."""

    reason: str
    epoch: int = 0
    attempts: int = 0
    fingerprint: str = ""


def train_member(
    member: Member,
    data: Data,
    store: Store,
    *,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[Epoch], None] = lambda record: None,
) -> Outcome:
    """Train a member to its end, or find that it is trained, and leave its files in `store`.

    Goes on after the newest checkpoint of the same fingerprint. A loss that is not finite, or whatever the network or
    its objective raises, fails this member alone: the reason is in `failed.json` and in the outcome. Raises OSError if
    storage fails, and torch.AcceleratorError if the GPU does: it takes no more work of this process.
    """
    if trained(store, member):
        return Outcome(index=member.index, reason=None, seconds=0.0)
    rows, state = _resume(store, member)
    data = explained(member, data) if member.taught_by is not None else data
    records = fit(member, data, device=device, state=state)
    while True:
        try:
            record = next(records, None)
        except (OSError, torch.AcceleratorError):
            raise  # not this member alone: whoever trains the others must hear of it
        except Exception as error:
            reason = str(error) if isinstance(error, Diverged) else f"{type(error).__name__}: {error}"
            fail(store, member, reason, epoch=len(rows) + 1, attempts=_attempts(store, member) + 1)
            return Outcome(index=member.index, reason=reason, seconds=sum(row["seconds"] for row in rows))
        if record is None:
            break
        rows.append(record.row())
        columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}  # of lists Arrow loads pandas
        store.write_parquet(member_file(member.index, HISTORY), pa.table(columns))
        if member.training.epochs and not member.weights:
            _save_checkpoint(store, member, record.state, rows)
        state = record.state
        on_epoch(record)
    assert state is not None, "fit yields at least one record"
    _finish(store, member, data, final_weights(state), rows)
    return Outcome(index=member.index, reason=None, seconds=sum(row["seconds"] for row in rows))


def trained(store: Store, member: Member) -> bool:
    """Whether `store` holds this very member, trained, with the weights that its record names by size."""
    found = standing(store, member.index)
    if found is None or found.fingerprint != member.fingerprint:
        return False
    weights = store.info(member_file(member.index, WEIGHTS))
    return weights is not None and weights.size == found.weights_bytes


class Standing(NamedTuple):
    """What the record of a trained member says it is."""

    fingerprint: str
    weights_bytes: int


def standing(store: Store, index: int) -> Standing | None:
    """What `member.json` says the member is, None if there is none. Raises Damaged.

    A file of the same time and size is read once in a process: a run of ten thousand members asks several times.
    """
    name = member_file(index, RECORD)
    info = store.info(name)
    if info is None:
        return None
    known = _READ.get((store.uri, name))
    if known is None or known[0] != info or info.mtime_ns == 0:
        try:
            record = store.read_as(name, _Record)
        except FileNotFoundError:
            return None
        known = info, Standing(fingerprint=record.fingerprint, weights_bytes=record.weights_bytes)
        _READ[store.uri, name] = known
    return known[1]


_READ: dict[tuple[str, str], tuple[FileInfo, Standing]] = {}


def failed(store: Store, member: Member) -> str | None:
    """Why this member failed, None if it did not."""
    record = _failure(store, member)
    return record["reason"] if record else None


def fail(store: Store, member: Member, reason: str, *, epoch: int, attempts: int) -> None:
    """Record that a member failed."""
    store.write_json(
        member_file(member.index, FAILED),
        {"reason": reason, "epoch": epoch, "attempts": attempts, "fingerprint": member.fingerprint},
    )


def read_record(store: Store, index: int) -> dict[str, Any] | None:
    """The content of `member.json`, None if there is none. Raises Damaged for one that is none."""
    name = member_file(index, RECORD)
    return store.read_as(name, _Record).model_dump() if store.exists(name) else None


def read_failure(store: Store, index: int) -> dict[str, Any] | None:
    """The content of `failed.json`, None if there is none. Raises Damaged for one that is none."""
    name = member_file(index, FAILED)
    return store.read_as(name, _Failure).model_dump() if store.exists(name) else None


def read_history(store: Store, index: int) -> pa.Table:
    """One row per epoch of a member. Raises Damaged, FileNotFoundError."""
    return store.read_parquet(member_file(index, HISTORY), ["epoch", "seconds"])


def load_member(store: Store, member: Member, data: Data) -> nn.Module:
    """The trained network of a member, in eval mode. Raises Damaged that names the file if its checksum is wrong."""
    record = read_record(store, member.index)
    if record is None:
        raise FileNotFoundError(f"member {member.index} is not trained in {store}")
    name = member_file(member.index, WEIGHTS)
    content = store.read(name)
    if hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
        raise Damaged(
            f"{store.path(name)} was altered (its checksum is not the one in {RECORD}): delete the folder to retrain"
        )
    model = build(member.model, input_shape=data.shape, classes=len(data.classes), start=False)
    model.load_state_dict(safetensors.torch.load(content))
    return model.eval()


def _failure(store: Store, member: Member) -> dict[str, Any] | None:
    record = read_failure(store, member.index)
    return record if record and record["fingerprint"] == member.fingerprint else None


def _attempts(store: Store, member: Member) -> int:
    record = _failure(store, member)
    return record["attempts"] if record else 0


def _resume(store: Store, member: Member) -> tuple[list[dict[str, float]], dict[str, Any] | None]:
    """History and state of the newest checkpoint, or the beginning if there is none that this member can use."""
    name = member_file(member.index, CHECKPOINT)
    if not store.exists(name):
        return [], None
    saved = _unpacked(store.read(name))
    if saved is None or saved["fingerprint"] != member.fingerprint:
        store.delete(name)
        return [], None
    return saved["history"], saved["state"]


def _unpacked(content: bytes) -> dict[str, Any] | None:
    """What a checkpoint holds, None if it is damaged: torch itself does not look at the checksums of the archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            whole = archive.testzip() is None
        saved = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu") if whole else None
    except Exception:  # whatever a damaged archive makes zipfile and torch say; storage has no part in it any more
        return None
    parts = {"fingerprint": str, "history": list, "state": dict}
    known = isinstance(saved, dict) and all(isinstance(saved.get(key), kind) for key, kind in parts.items())
    return saved if known else None


def _save_checkpoint(store: Store, member: Member, state: dict[str, Any], rows: list[dict[str, float]]) -> None:
    buffer = io.BytesIO()
    torch.save({"fingerprint": member.fingerprint, "history": rows, "state": state}, buffer)
    store.write(member_file(member.index, CHECKPOINT), buffer.getvalue())


def _finish(
    store: Store, member: Member, data: Data, weights: dict[str, torch.Tensor], rows: list[dict[str, float]]
) -> None:
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    )
    store.write(member_file(member.index, WEIGHTS), content)
    last = {key: value for key, value in rows[-1].items() if math.isfinite(value)}
    store.write_json(
        member_file(member.index, RECORD),
        {
            "index": member.index,
            "fingerprint": member.fingerprint,
            "seeds": dict(member.seeds),
            "metrics": last,
            "classes": list(data.classes),
            "shape": list(data.shape),
            "mean": data.mean.tolist(),
            "std": data.std.tolist(),
            "weights_sha256": hashlib.sha256(content).hexdigest(),
            "weights_bytes": len(content),
            "weights_from": member.weights,
            "start_from": member.start,
            "taught_by": member.taught_by,
            "host": platform.node(),
            "torch": torch.__version__,
        },
    )
    store.delete(member_file(member.index, CHECKPOINT))
    store.delete(member_file(member.index, FAILED))
