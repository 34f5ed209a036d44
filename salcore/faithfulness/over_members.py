"""A measure of an ensemble: of every member's own maps, with an interval over members, and of the mean map.

A new run would draw its members anew, so members, not samples, are what an interval is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from salcore.statistics import Estimate


def over_members(values: Sequence[float]) -> Estimate:
    """The mean of one value per member and its 95 % interval, mean -+ t(0.975, M - 1) s / sqrt(M).

    Student's t; NaN ends for fewer than 2 members, and NaN throughout where a member's value is NaN.

    >>> over_members([1.0, 2.0, 3.0]).value
    2.0
    """
    from scipy.special import stdtrit  # here, as all that measures needs torch alone

    from salcore.statistics import Estimate

    count = len(values)
    if not count:
        raise ValueError("`values`: expected one member's at least, got none")
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(value=mean, low=math.nan, high=math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    reach = float(stdtrit(count - 1, 0.975)) * math.sqrt(variance / count)
    return Estimate(value=mean, low=mean - reach, high=mean + reach)


def paired(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of values - others, member by member, with its interval: for members of the same seeds, or samples.

    Raises ValueError for numbers of members that differ.
    """
    if len(values) != len(others):
        raise ValueError(f"`others`: expected {len(values)} values, one per member, got {len(others)}")
    return over_members([value - other for value, other in zip(values, others, strict=True)])


@dataclass(frozen=True, kw_only=True)
class EnsembleValues:
    """A measure of each member's own maps, and of the mean map on each member, members in order."""

    own: tuple[float, ...]
    of_mean: tuple[float, ...]

    @property
    def gain(self) -> Estimate:
        """What the mean map has over a member's own one, paired by member."""
        return paired(self.of_mean, self.own)


def ensemble(
    measure: Callable[[nn.Module, Tensor], float], models: Iterable[nn.Module], maps: Sequence[Tensor] | Tensor
) -> EnsembleValues:
    """`measure(model, maps (N, ...))` of each model with its own maps, and with the mean of all members' maps.

    `maps` (M, N, ...) or one tensor for each of the models, which may come one by one. For the interval of either:
    `over_members(values.own)`.

    >>> from salcore.faithfulness import accuracy_drop  # doctest: +SKIP
    >>> drop = lambda model, maps: accuracy_drop(model, inputs, labels, maps).area  # doctest: +SKIP
    >>> ensemble(drop, models, maps).gain  # doctest: +SKIP
    """
    if not len(maps):
        raise ValueError("`maps`: expected one member's at least, got none")
    mean = sum((each.double() for each in maps[1:]), maps[0].double()) / len(maps)
    pairs = [(measure(model, own), measure(model, mean)) for model, own in zip(models, maps, strict=True)]
    return EnsembleValues(own=tuple(own for own, _ in pairs), of_mean=tuple(of for _, of in pairs))
