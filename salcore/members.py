"""The plan of an ensemble: one frozen record per network, and the fingerprints that say what may share a directory.

Fingerprints nest. The *recipe* covers what every member has in common, so a run may grow by members without changing
it; a *member* adds its index and, where it starts from a file, that file's content; *maps* add a method and what is
explained; *stats* add which members were reduced. Each is the SHA-256 of canonical JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salcore import seeds
from salcore.errors import UserError
from salcore.spec import ModelSpec, Spec, TrainingSpec


@dataclass(frozen=True, kw_only=True)
class Member:
    """All that determines one trained network, but for the pixels of the data (whose digest is in the fingerprint).

    `seeds` maps each purpose of `salcore.seeds.PURPOSES` to its seed; `weights` is the file of a network that is
    already trained.
    """

    index: int
    seeds: Mapping[str, int]
    model: ModelSpec
    training: TrainingSpec
    weights: str | None
    fingerprint: str


def fingerprint(*parts: Any) -> str:
    """SHA-256 of values as canonical JSON.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe(spec: Spec, data_digest: str) -> str:
    """Fingerprint of what all members share: data, network, training, root seed and what varies."""
    model = spec.model.model_dump(mode="json")
    if spec.model.weights:
        model["weights"] = _file_digest(spec.model.weights, "model.weights")
    return fingerprint(
        data_digest,
        model,
        spec.training.model_dump(mode="json"),
        spec.ensemble.root_seed,
        sorted(spec.ensemble.vary),
        spec.ensemble.weights is not None,
    )


def plan(spec: Spec, data_digest: str) -> tuple[Member, ...]:
    """The members of a run in index order. Pure: the same spec and data give the same members.

    A purpose that is left out of `ensemble.vary` draws from member 0's seed in every member.
    """
    shared = recipe(spec, data_digest)
    varies = {*spec.ensemble.vary}
    files = spec.ensemble.weights or (None,) * spec.ensemble.members
    members = []
    for index, file in enumerate(files):
        digest = _file_digest(file, f"ensemble.weights.{index}") if file else None
        own = {
            purpose: seeds.derive(spec.ensemble.root_seed, index if purpose in varies else 0, number)
            for number, purpose in enumerate(seeds.PURPOSES)
        }
        members.append(
            Member(
                index=index,
                seeds=own,
                model=spec.model,
                training=spec.training,
                weights=file,
                fingerprint=fingerprint(shared, index, digest),
            )
        )
    return tuple(members)


def _file_digest(path: str, key: str) -> str:
    file = Path(path)
    if not file.is_file():
        raise UserError(key, "a file of trained weights", path)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
