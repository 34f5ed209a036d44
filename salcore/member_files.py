"""What one member leaves in the run directory: weights, history, checkpoint, and the record that says it is trained.

`member.json` is written last, so its presence means trained. Everything is written whole or not at all, under names
that are a pure function of the member: a second worker that trains the same member after a crash writes the same bytes
to the same places.
"""

import hashlib
import io
import math
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import nn

from salcore.data import Data
from salcore.explanations import explained
from salcore.layout import member_file
from salcore.members import Member
from salcore.models import build
from salcore.storage import Store
from salcore.training import Diverged, Epoch, final_weights, fit

RECORD, FAILED, HISTORY = "member.json", "failed.json", "history.parquet"
WEIGHTS, CHECKPOINT = "weights.safetensors", "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the work on a member ended: `reason` is None for a trained one. `seconds` is the time of its epochs."""

    index: int
    reason: str | None
    seconds: float


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
    storage fails.
    """
    if trained(store, member):
        return Outcome(index=member.index, reason=None, seconds=0.0)
    rows, state = _resume(store, member)
    data = explained(member, data) if member.taught_by is not None else data
    records = fit(member, data, device=device, state=state)
    while True:
        try:
            record = next(records, None)
        except OSError:
            raise  # storage, not this member: the whole run must hear of it
        except Exception as error:
            reason = str(error) if isinstance(error, Diverged) else f"{type(error).__name__}: {error}"
            fail(store, member, reason, epoch=len(rows) + 1, attempts=_attempts(store, member) + 1)
            return Outcome(index=member.index, reason=reason, seconds=sum(row["seconds"] for row in rows))
        if record is None:
            break
        rows.append(record.row())
        store.write_parquet(member_file(member.index, HISTORY), pa.Table.from_pylist(rows))
        if member.training.epochs and not member.weights:
            _save_checkpoint(store, member, record.state, rows)
        state = record.state
        on_epoch(record)
    assert state is not None, "fit yields at least one record"
    _finish(store, member, data, final_weights(state), rows)
    return Outcome(index=member.index, reason=None, seconds=sum(row["seconds"] for row in rows))


def trained(store: Store, member: Member) -> bool:
    """Whether `store` holds this very member, trained, with the weights that its record names by size."""
    record = read_record(store, member.index)
    if record is None or record["fingerprint"] != member.fingerprint:
        return False
    weights = store.info(member_file(member.index, WEIGHTS))
    return weights is not None and weights.size == record["weights_bytes"]


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
    """The content of `member.json`, None if there is none."""
    name = member_file(index, RECORD)
    return store.read_json(name) if store.exists(name) else None


def load_member(store: Store, member: Member, data: Data) -> nn.Module:
    """The trained network of a member, in eval mode. Raises ValueError that names the file if its checksum is wrong."""
    record = read_record(store, member.index)
    if record is None:
        raise FileNotFoundError(f"member {member.index} is not trained in {store}")
    name = member_file(member.index, WEIGHTS)
    content = store.read(name)
    if hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
        raise ValueError(
            f"{store.path(name)} was altered (its checksum is not the one in {RECORD}): delete the folder to retrain"
        )
    model = build(member.model, input_shape=data.shape, classes=len(data.classes), start=False)
    model.load_state_dict(safetensors.torch.load(content))
    return model.eval()


def _failure(store: Store, member: Member) -> dict[str, Any] | None:
    name = member_file(member.index, FAILED)
    record = store.read_json(name) if store.exists(name) else None
    return record if record and record["fingerprint"] == member.fingerprint else None


def _attempts(store: Store, member: Member) -> int:
    record = _failure(store, member)
    return record["attempts"] if record else 0


def _resume(store: Store, member: Member) -> tuple[list[dict[str, float]], dict[str, Any] | None]:
    """History and state of the newest checkpoint, or the beginning if there is none that this member can use."""
    name = member_file(member.index, CHECKPOINT)
    if not store.exists(name):
        return [], None
    content = store.read(name)
    try:
        saved = torch.load(io.BytesIO(content), weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        saved = None  # damaged: the files of this project appear whole, so somebody else's hand was in it
    if not isinstance(saved, dict) or saved.get("fingerprint") != member.fingerprint:
        store.delete(name)
        return [], None
    return saved["history"], saved["state"]


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
