"""What a member is trained to minimise, by name.

An objective is `(model, batch, *, training, generator, kind) -> Tensor`: a `Batch` of images (N, C, H, W), series
(N, F, T), embedded text (N, T, E) or tokens (N, T), as `kind` says, the section `training` of a spec, and what random
draws are taken from; a scalar loss to call `backward` on. It calls the model in the mode that it finds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from salcore.objectives.attention import taught
from salcore.objectives.fills import fill_for
from salcore.objectives.guided import guided
from salcore.objectives.standard import standard
from salcore.padding import bound

if TYPE_CHECKING:
    from salcore.data.batches import Batch
    from salcore.data.part import Kind
    from salcore.spec import TrainingSpec

__all__ = ["OBJECTIVES", "fill_for"]


def _standard(
    model: nn.Module, batch: "Batch", *, training: "TrainingSpec", generator: torch.Generator, kind: "Kind"
) -> Tensor:
    return standard(bound(model, batch.valid), batch.inputs, batch.labels)


def _guided(
    model: nn.Module, batch: "Batch", *, training: "TrainingSpec", generator: torch.Generator, kind: "Kind"
) -> Tensor:
    network, about = bound(model, batch.valid), training.guidance
    return guided(
        network, batch.inputs, batch.labels, guidance=about, generator=generator, valid=batch.valid, kind=kind
    )


def _attention(
    model: nn.Module, batch: "Batch", *, training: "TrainingSpec", generator: torch.Generator, kind: "Kind"
) -> Tensor:
    if batch.taught is None:
        raise ValueError("`batch`: expected one with what attention is taught, got one without an explanation")
    return taught(model, batch.inputs, batch.labels, *batch.taught, valid=batch.valid, attention=training.attention)


OBJECTIVES: dict[str, Callable[..., Tensor]] = {"standard": _standard, "guided": _guided, "attention": _attention}
