"""The plan of an ensemble: one frozen record per network, and the fingerprints that say what may share a directory.

Fingerprints nest. The *recipe* covers what every member has in common, so a run may grow by members without changing
it; a *member* adds its index and, where it starts from a file, that file's content; *maps* add a method and what is
explained; *stats* add which members were reduced. Each is the SHA-256 of canonical JSON.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from salcore.errors import UserError
from salcore.paths import expanded
from salcore.spec import ModelSpec, Spec, TrainingSpec


@dataclass(frozen=True, kw_only=True)
class Member:
    """All that determines one trained network, but for the pixels of the data (whose digest is in the fingerprint).

    `seeds` maps each purpose of `salcore.seeds.PURPOSES` to its seed; `weights` is the file of a network that is
    already trained, `start` that of one to go on from, and `taught_by` the digest of the maps that its attention is
    taught.
    """

    index: int
    seeds: Mapping[str, int]
    model: ModelSpec
    training: TrainingSpec
    weights: str | None
    fingerprint: str
    start: str | None = None
    taught_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the work on a member ended: `reason` is None for a trained one. `seconds` is the time of its epochs."""

    index: int
    reason: str | None
    seconds: float


def fingerprint(*parts: Any) -> str:
    """SHA-256 of values as canonical JSON.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(_canonical(parts)).hexdigest()


def fingerprints(*parts: Any) -> Callable[[str], str]:
    """What `fingerprint` gives for each text in the place of the one part that is `VARIES`: quick for many of them.

    >>> fingerprints("a", VARIES, 1)("b") == fingerprint("a", "b", 1)
    True
    """
    before, after = _canonical(parts).split(_quoted(VARIES))
    return lambda text: hashlib.sha256(before + _quoted(text) + after).hexdigest()


VARIES = "\0"
"""Stands for a part that is not known yet."""


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


_quoted = lru_cache(1000)(_canonical)


def recipe(spec: Spec, data_digest: str) -> str:
    """Fingerprint of what all members share: data, network, training, root seed and what varies."""
    model = spec.model.model_dump(mode="json")
    if spec.model.weights:
        model["weights"] = _file_digest(spec.model.weights, "model.weights")
    if (folder := pretrained_folder(spec.model.name)) is not None:
        model["name"] = [_file_digest(str(file), "model.name") for file in pretrained_files(folder)]
    unread = None if spec.training.objective == "attention" else {"attention"}
    training = spec.training.model_dump(mode="json", exclude=unread)
    training.get("attention", {}).pop("explanations", None)  # their content counts, not where they lie
    return fingerprint(
        data_digest,
        model,
        training,
        spec.ensemble.root_seed,
        sorted(spec.ensemble.vary),
        spec.ensemble.weights is not None,
        *(["start"] if spec.ensemble.start else []),
    )


def plan(spec: Spec, data_digest: str) -> tuple[Member, ...]:
    """The members of a run in index order. Pure: the same spec and data give the same members.

    A purpose that is left out of `ensemble.vary` draws from member 0's seed in every member.
    """
    from salcore import seeds  # here, as what only hands members out should start without torch

    shared = recipe(spec, data_digest)
    varies = {*spec.ensemble.vary}
    none = (None,) * spec.ensemble.members
    files, starts = spec.ensemble.weights or none, spec.ensemble.start or none
    members = []
    for index, (file, start) in enumerate(zip(files, starts, strict=True)):
        digest = _file_digest(file, f"ensemble.weights.{index}") if file else None
        more = {
            "start": _file_digest(start, f"ensemble.start.{index}") if start else None,
            "taught_by": _taught_by(spec, index),
        }
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
                # What a member has no part in leaves its fingerprint as it was before there was such a thing.
                fingerprint=fingerprint(shared, index, digest, *([more] if any(more.values()) else [])),
                start=start,
                taught_by=more["taught_by"],
            )
        )
    return tuple(members)


def pretrained_folder(name: str) -> Path | None:
    """The folder of `transformers:FOLDER`, whose content is what members start from, wherever it lies."""
    if not name.startswith("transformers:"):
        return None
    from salcore.models import encoders  # here, as it takes seconds

    return expanded(name.removeprefix(encoders.PREFIX)) if encoders.origin(name) == "folder" else None


def pretrained_files(folder: Path) -> list[Path]:
    """Its configuration and weights, in order of their names."""
    return sorted([folder / "config.json", *folder.glob("*.safetensors")])


def _taught_by(spec: Spec, index: int) -> str | None:
    if spec.training.objective != "attention" or not spec.training.epochs or spec.ensemble.weights:
        return None
    from salcore.explanations import Explanations  # here, for the same reason

    return Explanations.of(spec.training.attention).digest(index)


def _file_digest(path: str, key: str) -> str:
    file = Path(path)
    if not file.is_file():
        raise UserError(key, "a file of trained weights", path)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
