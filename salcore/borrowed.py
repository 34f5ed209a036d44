"""Run directories whose members are copies from another run: they explain data that the members never saw."""

from typing import Any

import numpy as np

from salcore import layout
from salcore.data import Data, find
from salcore.data.own import as_evaluation
from salcore.member_files import RECORD
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import Store


def is_borrowed(store: Store) -> bool:
    """Whether a directory explains with the members of another run."""
    return store.exists(layout.BORROWED)


def data_of(spec: Spec, store: Store) -> Data:
    """All images of the spec's source, as the copied members see them. Raises UserError."""
    record = _first_record(store)
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
    run = sorted(name.split("/")[1] for name in store.files("members") if name.endswith(f"/{RECORD}"))
    records = [store.read_json(f"members/{folder}/{RECORD}") for folder in run]
    return tuple(
        Member(
            index=record["index"],
            seeds=record["seeds"],
            model=spec.model,
            training=spec.training,
            weights=record["weights_from"],
            fingerprint=record["fingerprint"],
        )
        for record in records
    )


def _first_record(store: Store) -> dict[str, Any]:
    name = next(name for name in store.files("members") if name.endswith(f"/{RECORD}"))
    return store.read_json(name)
