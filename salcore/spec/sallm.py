"""The section `sallm`: which students are taught by which explanations."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from salcore.spec.parts import Part, listed, told

Variant = Literal["sallm", "fine_tuned", "iterative", "semi_supervised", "mean_teacher", "shuffled"]


class SallmSpec(Part):
    """SalLM (Lake, 2021): `python -m jobs.sallm`; the loss itself is `training.attention`."""

    variants: Annotated[tuple[Variant, ...], BeforeValidator(listed)] = told(
        "students beside the vanilla model, their teacher: sallm (from the start weights), fine_tuned (goes on from "
        "its teacher), iterative (students become teachers), semi_supervised (explanations of unlabelled text too), "
        "mean_teacher (the mean explanation over all teachers), shuffled (a control: explanations on other tokens)",
        default=("sallm", "fine_tuned", "iterative", "semi_supervised", "shuffled"),
        min_length=1,
    )
    rounds: int = told("iterative: students in a row, each the teacher of the next", "rounds", default=2, ge=2)
    labelled: float = told(
        "semi_supervised: share of the training texts whose labels are known to teacher and student", default=0.5, gt=0,
        lt=1,
    )  # fmt: skip

    @field_validator("variants")
    @classmethod
    def _each_once(cls, variants: tuple[str, ...]) -> tuple[str, ...]:
        if len({*variants}) < len(variants):
            raise ValueError(f"each variant once, got {', '.join(variants)}")
        return variants
