"""The section `parameters`: parameter-space saliency, which filters of a network are to blame for its mistakes."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo, field_validator

from salcore.spec.parts import Part, listed, told

Split = Literal["validation", "evaluation"]
Experiment = Literal["neighbours", "pruning", "finetuning", "masking"]


def _counts(value: Any) -> Any:
    """A bare number stands for the list of it."""
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else listed(value)


class ParametersSpec(Part):
    """Parameter-space saliency (Levin et al., 2021): `python -m jobs.parameters` adds it to a run."""

    held_out: Split = told("split that standardises the profiles, and whose mistakes are studied", default="validation")
    independent: Split = told(
        "another split, in which a mistake's neighbours are searched", default="evaluation", validate_default=True
    )
    linear: bool = told("count rows of linear layers as filters too", default=False)
    mistakes: int | None = told(
        "study so many misclassified samples of each member, drawn at random; null: all", "samples", default=300, ge=1
    )
    experiments: Annotated[tuple[Experiment, ...], BeforeValidator(listed)] = told(
        "what is done with them", default=("neighbours", "pruning", "finetuning", "masking")
    )
    pruned: Annotated[tuple[int, ...], BeforeValidator(_counts)] = told(
        "pruning: numbers of filters that are turned off", "filters", default=(1, 2, 5, 10, 20, 30, 50, 75, 100)
    )
    tuned: Annotated[tuple[int, ...], BeforeValidator(_counts)] = told(
        "finetuning: numbers of filters that are updated", "filters", default=(1, 2, 5, 10, 25, 50)
    )
    step: float = told(
        "finetuning: length of the one step, as a share of the norm of all filters' weights", default=0.03, gt=0
    )
    neighbours: int = told("nearest neighbours of a mistake", "samples", default=10, ge=1)
    boosted: int = told(
        "masking: so many of the most salient filters whose pixels are looked for", "filters", default=10, ge=1
    )
    masked: float = told(
        "masking: share of the pixels that is masked, outside the object's box", default=0.05, gt=0, le=1
    )
    boxes: str | None = told("masking: table of the objects' boxes; null: nothing is kept", default=None)
    seed: int = told("fixes which mistakes are studied, and random filters and pixels", default=0, ge=0)

    @field_validator("independent")
    @classmethod
    def _another_split(cls, independent: str, known: ValidationInfo) -> str:
        if independent == known.data.get("held_out"):
            raise ValueError(f"another split than parameters.held_out, got {independent} for both")
        return independent

    @field_validator("pruned", "tuned")
    @classmethod
    def _increasing(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if not counts or min(counts) < 1 or any(one >= two for one, two in pairwise(counts)):
            raise ValueError(f"increasing numbers of 1 or more, got {', '.join(map(str, counts)) or 'none'}")
        return counts
