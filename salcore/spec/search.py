"""The section `search`: which settings of guided training or SalLM are tried, and what is looked for."""

import math
import sys
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo, field_validator, model_validator

from salcore.spec.parts import Part, listed, told
from salcore.spec.training import Layers

Objective = Literal["accuracy", "snr_debiased", "faithfulness"]
Faithfulness = Literal["accuracy_drop", "comprehensiveness", "sufficiency", "aup", "aur", "insertion", "deletion"]


def _listed(value: Any) -> Any:
    """A bare name stands for the list of it."""
    return (value,) if isinstance(value, str) else listed(value)


class Between(Part):
    """A range that values are drawn from, both ends included."""

    low: float = told("smallest value")
    high: float = told("largest value")


class SearchSpec(Part):
    """The search over k and lambda of guided training or SalLM (`python -m jobs.tune`); no other command reads it."""

    algorithm: Literal["grid", "random", "optuna"] = told(
        "grid: every pair of the values listed; random, optuna: so many trials within two ranges", default="grid"
    )
    mask_fraction: tuple[float, ...] | Between = told(
        "values of k for a grid; else its range {low, high} (not given: 0.1 to 0.9)", default=(0.25, 0.5, 0.75)
    )
    weight: tuple[float, ...] | Between = told(
        "values of lambda for a grid; else its range {low, high}, drawn by its logarithm (not given: 0.1 to 10)",
        default=(0.3, 1.0, 3.0),
    )
    layers: Annotated[tuple[Layers, ...], BeforeValidator(_listed)] | None = told(
        "with training.objective attention: values of training.attention.layers that are tried, as [last, all, [0]]; "
        "null: its own alone",
        default=None,
        min_length=1,
    )
    trials: int = told("random, optuna: settings tried, besides standard training", "trials", default=20, ge=1)
    ahead: int = told(
        "optuna: a setting is proposed from all results but those of the latest so many trials, which may still be at "
        "work: so the same trials are proposed whatever the number of slots",
        "trials",
        default=3,
        ge=0,
    )
    seed: int = told("random, optuna: fixes which settings are tried", default=0, ge=0)
    objectives: Annotated[tuple[Objective, ...], BeforeValidator(_listed)] = told(
        "what is looked for: faithfulness, accuracy, snr_debiased (of the first method), or several of them",
        default=("faithfulness",),
        min_length=1,
    )
    accuracy_drop_at_most: float | None = told(
        "with one objective: a trial that loses more accuracy against standard training is not chosen; null: any",
        "share",
        default=0.01,
        ge=0,
        le=1,
    )
    faithfulness: Faithfulness = told(
        "which area: accuracy_drop, sufficiency, deletion (lower is better), comprehensiveness, insertion, or aup, aur "
        "where the data know their informative cells (higher is better)",
        default="accuracy_drop",
    )
    method: str | None = told("folder name of the method it is measured on; null: the first one", default=None)
    samples: int | None = told("measure it on the first so many samples; null: all", "samples", default=None, ge=1)
    asha: bool = told(
        "one objective: stop trials that are behind the others with as many members (needs 2 or more)", default=False
    )

    @model_validator(mode="before")
    @classmethod
    def _ranges_unless_grid(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("algorithm") not in ("random", "optuna"):
            return values
        return {"mask_fraction": {"low": 0.1, "high": 0.9}, "weight": {"low": 0.1, "high": 10.0}, **values}

    @field_validator("mask_fraction", "weight", mode="before")
    @classmethod
    def _values_or_range(cls, value: Any, known: ValidationInfo) -> Any:
        grid = known.data.get("algorithm") not in ("random", "optuna")
        least, most = (0.0, 1.0) if known.field_name == "mask_fraction" else (0.0, math.inf)
        return _values(value, least, most) if grid else _range(value, least, most, by_log=known.field_name == "weight")

    @field_validator("weight")
    @classmethod
    def _something_to_search(cls, weight: Any, known: ValidationInfo) -> Any:
        fraction = known.data.get("mask_fraction")
        if all(isinstance(each, Between) and each.low == each.high for each in (fraction, weight)):
            raise ValueError(f"low < high, since search.mask_fraction is a single value too, got {weight.low}")
        return weight

    @field_validator("objectives", "layers")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if len({*(values or ())}) < len(values or ()):
            raise ValueError(f"each value once, got {', '.join(map(str, values or ()))}")
        return values

    @field_validator("asha")
    @classmethod
    def _asha_compares_one_number(cls, asha: bool, known: ValidationInfo) -> bool:
        objectives = known.data.get("objectives", ())
        if asha and len(objectives) > 1:
            raise ValueError(f"false with several objectives ({', '.join(objectives)}), as ASHA compares one number")
        return asha


def _values(value: Any, least: float, most: float) -> tuple[float, ...]:
    """The values of a grid: one or more, each once, within the limits. Raises ValueError."""
    given = [value] if _is_number(value) else value
    right = (
        isinstance(given, list | tuple) and given and all(_is_number(each) and least <= each <= most for each in given)
    )
    if not right or len({*given}) < len(given):
        raise ValueError(f"a list of different numbers {_within(least, most)} for a grid, got {value!r}")
    return tuple(map(float, given))


def _range(value: Any, least: float, most: float, *, by_log: bool) -> Between:
    """The range of a search that is no grid, within the limits. Raises ValueError."""
    ends = value.model_dump() if isinstance(value, Between) else value
    right = isinstance(ends, dict) and {*ends} == {"low", "high"} and all(map(_is_number, ends.values()))
    if not right or not least <= ends["low"] <= ends["high"] <= most or (by_log and not ends["low"]):
        above = "above 0" if by_log else _within(least, most)
        raise ValueError(f"{{low, high}} with low <= high, both {above}, for a search that is no grid, got {value!r}")
    return Between(low=float(ends["low"]), high=float(ends["high"]))


def _within(least: float, most: float) -> str:
    return f"from {least:g} to {most:g}" if most < math.inf else f"of {least:g} or more"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
