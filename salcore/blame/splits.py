"""The splits of parameter-space saliency: one that standardises and whose mistakes are studied, and another."""

import hashlib
from collections.abc import Sequence

import numpy as np

from salcore.data import Data, folder
from salcore.data.boxes import pixels, read_boxes
from salcore.data.part import Part
from salcore.errors import UserError
from salcore.spec import Spec

MOST_SHARED = 0.01
"""Share of the independent samples that may be in the held-out split too: natural sets hold a few images twice."""


def part_of(data: Data, split: str) -> Part:
    """The part of the data that a split of `parameters` names."""
    return {"validation": data.validation, "evaluation": data.evaluation}[split]


def check(spec: Spec, data: Data) -> None:
    """Raise UserError for data that the section `parameters` cannot be done with; nothing happens without it."""
    if spec.parameters is None:
        return
    if data.kind == "text" or data.evaluation.lengths is not None or data.validation.lengths is not None:
        raise UserError("parameters", "images, or series without padding", data.kind)
    if data.kind != "images" and "masking" in spec.parameters.experiments:
        if "experiments" in spec.parameters.model_fields_set:
            raise UserError("parameters.experiments", f"no masking, as the samples are {data.kind}", "masking")
    for key in ("held_out", "independent"):
        split = getattr(spec.parameters, key)
        part = part_of(data, split)
        if not len(part):
            cure = "; data.validation_fraction above 0 makes it" if split == "validation" else ""
            raise UserError(f"parameters.{key}", f"a split that holds samples{cure}", split)
        if (part.labels[part.index] < 0).any():
            raise UserError(f"parameters.{key}", "a split whose labels are known", split)
    held_out = part_of(data, spec.parameters.held_out)
    boxes_of(spec, held_out, held_out.index)


def boxes_of(spec: Spec, held_out: Part, samples: Sequence[int] | np.ndarray) -> np.ndarray:
    """The objects' boxes (n, 4) of some held-out samples: a given table's, else the data's own, else empty ones.

    Raises UserError for a table that does not tell them.
    """
    parameters = spec.parameters
    if parameters is None or parameters.boxes is None:
        if held_out.boxes is None:
            return np.zeros((len(samples), 4), np.int64)
        height, width = held_out.values.shape[2:]
        return pixels(held_out.boxes[samples], height, width)
    kind, _, place = spec.data.name.partition(":")
    files = None
    if kind == "folder":
        listed = folder.files(place)
        files = listed["test" if parameters.held_out == "evaluation" and listed.get("test") else "train"]
    return read_boxes(parameters.boxes, held_out, samples, files=files)


def require_apart(data: Data, held_out: str, independent: str) -> None:
    """Raise UserError if more than 1 % of the independent samples are, value for value, held-out ones too."""
    known = _marks(part_of(data, held_out))
    others = _marks(part_of(data, independent))
    shared = sum(mark in known for mark in others)
    if shared > MOST_SHARED * len(others):
        raise UserError(
            "parameters.independent",
            f"samples that are not in parameters.held_out ({held_out}) too",
            f"{shared} of {len(others)} that are",
        )


def _marks(part: Part) -> set[bytes]:
    return {hashlib.sha1(row.tobytes()).digest() for values, _ in part.chunks() for row in np.ascontiguousarray(values)}
