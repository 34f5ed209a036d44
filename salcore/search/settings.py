"""The settings that a search tries: pairs of k and lambda, and standard training (None).

Of saliency guided training k is `training.guidance.mask_fraction` and lambda its `weight`; where the objective is
attention they are `training.attention.top` and its `weight`, and its `layers` may be searched too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from salcore import seeds
from salcore.errors import UserError
from salcore.spec import Between, Layers, SearchSpec, Spec, TrainingSpec

STANDARD = "standard"
DIGITS = 4
"""Drawn values have so many decimals (k) or significant digits (lambda), so that a name tells all of a setting."""
REDRAWS = 100


@dataclass(frozen=True, kw_only=True)
class Setting:
    """k and lambda: the share that is masked and its weight, or the share that attention is taught and its weight.

    `layers` are those whose attention is taught, where they are searched.
    """

    mask_fraction: float
    weight: float
    layers: Layers | None = None

    @property
    def name(self) -> str:
        """Name of the trial and its folder: two settings of one name are equal.

        >>> Setting(mask_fraction=0.5, weight=1.0).name
        'k0.5-lambda1'
        >>> Setting(mask_fraction=0.5, weight=1.0, layers=(0, 2)).name
        'k0.5-lambda1-layers_0_2'
        """
        layers = "" if self.layers is None else f"-layers_{layers_text(self.layers, '_')}"
        return f"k{_text(self.mask_fraction)}-lambda{_text(self.weight)}{layers}"


def name_of(setting: Setting | None) -> str:
    """Name of a trial: None is standard training."""
    return STANDARD if setting is None else setting.name


def grid(search: SearchSpec) -> tuple[Setting, ...]:
    """Every combination of the values listed, in the order of the lists."""
    found = product(search.layers or (None,), _list(search.mask_fraction), _list(search.weight))
    return tuple(Setting(mask_fraction=k, weight=weight, layers=layers) for layers, k, weight in found)


def drawn(search: SearchSpec) -> tuple[Setting, ...]:
    """Settings drawn at random, all different, k evenly and lambda by its logarithm: the first n are those of n trials.

    Layers are drawn evenly from those listed. Raises UserError if the ranges do not hold so many.
    """
    found: dict[Setting, None] = {}
    for setting in _draws(search):
        found[setting] = None
        if len(found) == search.trials:
            return tuple(found)
    raise UserError("search.trials", f"no more trials than the ranges hold settings ({len(found)})", search.trials)


def settings(search: SearchSpec) -> tuple[Setting, ...] | None:
    """The settings of a search that are known beforehand, in order; None where they are proposed as it goes on."""
    return {"grid": grid, "random": drawn}[search.algorithm](search) if search.algorithm != "optuna" else None


def rounded(mask_fraction: float, weight: float, search: SearchSpec, layers: int = 0) -> Setting:
    """The nearest setting of few digits that lies within the ranges; `layers` is a place in the list of them."""
    k, factor = between(search.mask_fraction), between(search.weight)
    return Setting(
        mask_fraction=min(max(round(mask_fraction, DIGITS), k.low), k.high),
        weight=min(max(float(f"{weight:.{DIGITS}g}"), factor.low), factor.high),
        layers=search.layers[layers] if search.layers else None,
    )


def layers_text(layers: Layers, between: str = ", ") -> str:
    """The layers as text.

    >>> layers_text((0, 2))
    '0, 2'
    """
    return layers if isinstance(layers, str) else between.join(map(str, layers))


def between(values: tuple[float, ...] | Between) -> Between:
    """The range that a search which is no grid has; its section sees to that."""
    assert isinstance(values, Between), values
    return values


def spec_of(spec: Spec, setting: Setting | None) -> Spec:
    """The spec of one trial, which any command takes: the ensemble of a setting, and no search."""
    training = spec.training.model_copy(update={"objective": "standard"}) if setting is None else at(spec, setting)
    return spec.model_copy(
        update={"name": f"{spec.name}-{name_of(setting)}", "training": training, "search": SearchSpec()}
    )


def at(spec: Spec, setting: Setting) -> TrainingSpec:
    """The training of a spec at one setting: saliency guided, or of attention where that is the spec's objective."""
    training, k = spec.training, setting.mask_fraction
    if training.objective == "attention":
        layers = training.attention.layers if setting.layers is None else setting.layers
        attention = training.attention.model_copy(update={"top": k, "weight": setting.weight, "layers": layers})
        return training.model_copy(update={"attention": attention})
    guidance = training.guidance.model_copy(update={"mask_fraction": k, "weight": setting.weight})
    return training.model_copy(update={"objective": "guided", "guidance": guidance})


def _draws(search: SearchSpec) -> Iterator[Setting]:
    k, weight = between(search.mask_fraction), between(search.weight)
    low, high = math.log(weight.low), math.log(weight.high)
    for place in range(search.trials * REDRAWS):
        first, second, third = np.random.default_rng(seeds.derive(search.seed, place)).random(3)
        layers = int(third * len(search.layers or ()))
        yield rounded(k.low + first * (k.high - k.low), math.exp(low + second * (high - low)), search, layers)


def _list(values: tuple[float, ...] | Between) -> tuple[float, ...]:
    assert isinstance(values, tuple), values
    return values


def _text(value: float) -> str:
    """The shortest text that is this number, and may stand in the name of a file."""
    short = f"{value:g}"
    return (short if float(short) == value else repr(value)).replace("+", "")
