"""Run directories whose members are copies from another run: they explain data that the members never saw."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml

from salcore import layout
from salcore.data import Data, find
from salcore.data.own import as_evaluation
from salcore.errors import Damaged, UserError
from salcore.layout import member_file
from salcore.member_files import HISTORY, RECORD, WEIGHTS, read_record, trained
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import Store


def is_borrowed(store: Store) -> bool:
    """Whether a directory explains with the members of another run."""
    return store.exists(layout.BORROWED)


def lender_of(store: Store) -> str | None:
    """The run whose members a directory explains with; None where they are its own. Raises Damaged."""
    if not is_borrowed(store):
        return None
    try:
        return str(yaml.safe_load(store.read(layout.BORROWED))["ensemble_of"])
    except (yaml.YAMLError, KeyError, TypeError):
        why = "does not say whose members these are; the command that copied them writes it anew"
        raise Damaged(f"{store.path(layout.BORROWED)} {why}") from None


def data_of(spec: Spec, store: Store) -> Data:
    """All images of the spec's source, as the copied members see them. Raises UserError."""
    record = next(_records(store), None)
    if record is None:
        raise Damaged(f"{store} lacks the members that it explains with: copy them anew into another --run-dir")
    shape = record["shape"]
    square = len(shape) == 3 and shape[1] == shape[2]
    size = spec.data.image_size or (shape[1] if square else None)
    return as_evaluation(
        find(spec.data.model_copy(update={"image_size": size})),
        shape=tuple(record["shape"]),
        classes=tuple(record["classes"]),
        mean=np.asarray(record["mean"], np.float32),
        std=np.asarray(record["std"], np.float32),
    )


def members_of(spec: Spec, store: Store) -> tuple[Member, ...]:
    """The copied members, as their records tell them."""
    return tuple(
        Member(
            index=record["index"],
            seeds=record["seeds"],
            model=spec.model,
            training=spec.training,
            weights=record["weights_from"],
            fingerprint=record["fingerprint"],
        )
        for record in _records(store)
    )


def check(store: Store, members: Sequence[Member], lender: Store) -> None:
    """Refuse a directory that holds a member which is not one of these, the lender's. Raises UserError."""
    known = {member.index: member.fingerprint for member in members}
    if any(known.get(record["index"]) != record["fingerprint"] for record in _records(store)):
        raise UserError("--run-dir", f"a new folder; {store} holds members that are not those of {lender}")


def copy(store: Store, members: Sequence[Member], lender: Store) -> None:
    """Copy the members that a directory lacks, each one's record last, and say there whose they are. Raises UserError.

    The directory is one's own by now, and checked once more: another command may have had it since it was planned.
    """
    check(store, members, lender)
    for member in members:
        if not trained(store, member):
            for name in (WEIGHTS, HISTORY, RECORD):
                file = member_file(member.index, name)
                store.write(file, lender.read(file))
    store.write(layout.BORROWED, yaml.safe_dump({"ensemble_of": str(lender)}).encode())


def _records(store: Store) -> Iterator[dict[str, Any]]:
    """The records of the copied members, in order. Raises Damaged."""
    for name in store.files("members"):
        if (match := re.fullmatch(rf"members/(\d+)/{re.escape(RECORD)}", name)) is not None:
            record = read_record(store, int(match.group(1)))
            assert record is not None
            yield record
