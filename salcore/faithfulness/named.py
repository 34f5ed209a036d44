"""The measures by name, under one contract: what `salcore.faithfulness.of_run`, the search and the studies choose from.

A measure is `(model, subject, maps, **settings) -> result`, from which `value` reads one number: maps (N, ...) as a
method gives them (of texts (N, T)), or None for random rankings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from salcore.faithfulness.accuracy_drop import accuracy_drop
from salcore.faithfulness.curves import Curve
from salcore.faithfulness.ground_truth import AboveRandom, Areas, areas_above_random, precision_recall_areas
from salcore.faithfulness.insertion import Probabilities, deletion, insertion
from salcore.faithfulness.rationales import Erasure, comprehensiveness, sufficiency
from salcore.faithfulness.spread import Spread, gradient_spread

if TYPE_CHECKING:
    from salcore.data.part import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """The samples that are measured: what networks take of them (N, ...), and what is known of them."""

    kind: Kind
    inputs: Tensor
    labels: Tensor
    valid: Tensor | None = None
    query: Tensor | None = None
    informative: Tensor | None = None

    @property
    def sequences(self) -> dict[str, Any]:
        """Which steps and words count, as keywords."""
        return {"valid": self.valid, "query": self.query}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How one name is measured, read as a number, and judged; `needs` is what data or networks it cannot do without."""

    of: Callable[..., Any]
    value: Callable[[Any], float]
    better: Literal["higher", "lower"]
    needs: Literal["network", "text", "informative", "maps"] = "network"

    @property
    def asks_network(self) -> bool:
        """Whether the number depends on the network, or on the maps alone."""
        return self.needs in {"network", "text"}


def check_name(name: str, subject: Subject, *, random: bool = False) -> None:
    """Raises ValueError for an unknown measure, and for one that these samples, or `random` rankings, cannot have."""
    if name not in MEASURES:
        raise ValueError(f"`name`: expected one of {', '.join(MEASURES)}, got {name!r}")
    measure = MEASURES[name]
    if measure.needs == "text" and subject.kind != "text":
        raise ValueError(f"`name`: expected a measure of {subject.kind}, got {name!r}, which is of texts")
    if measure.needs == "informative" and subject.informative is None:
        raise ValueError(f"`name`: expected a measure for cells not known to be informative or not, got {name!r}")
    if random and not measure.asks_network:
        raise ValueError(f"`method`: expected one whose maps are measured by {name!r}, got None")


def _accuracy_drop(model: nn.Module, subject: Subject, maps: Tensor | None, **settings: Any) -> Curve:
    settings = {"fill": "background" if subject.kind == "images" else "mean", **subject.sequences, **settings}
    return accuracy_drop(model, subject.inputs, subject.labels, maps, kind=subject.kind, **settings)


def _deletion(model: nn.Module, subject: Subject, maps: Tensor | None, **settings: Any) -> Probabilities:
    settings = {**subject.sequences, **settings}
    return deletion(model, subject.inputs, subject.labels, maps, kind=subject.kind, **settings)


def _insertion(model: nn.Module, subject: Subject, maps: Tensor | None, **settings: Any) -> Probabilities:
    settings = {**subject.sequences, **settings}
    return insertion(model, subject.inputs, subject.labels, maps, kind=subject.kind, **settings)


def _comprehensiveness(model: nn.Module, subject: Subject, maps: Tensor | None, **settings: Any) -> Erasure:
    return comprehensiveness(model, subject.inputs, maps, **{**subject.sequences, **settings})


def _sufficiency(model: nn.Module, subject: Subject, maps: Tensor | None, **settings: Any) -> Erasure:
    return sufficiency(model, subject.inputs, maps, **{**subject.sequences, **settings})


def _areas(model: nn.Module, subject: Subject, maps: Tensor, *, seed: int = 0) -> Areas:
    assert subject.informative is not None, "check_name sees to it"
    return precision_recall_areas(maps, subject.informative, valid=subject.valid)


def _above_random(model: nn.Module, subject: Subject, maps: Tensor, **settings: Any) -> AboveRandom:
    assert subject.informative is not None, "check_name sees to it"
    return areas_above_random(maps, subject.informative, valid=subject.valid, **settings)


def _spread(model: nn.Module, subject: Subject, maps: Tensor, *, seed: int = 0, **settings: Any) -> Spread:
    return gradient_spread(maps, kind=subject.kind, valid=subject.valid, **settings)


MEASURES: dict[str, Measure] = {
    "accuracy_drop": Measure(of=_accuracy_drop, value=lambda curve: curve.area, better="lower"),
    "deletion": Measure(of=_deletion, value=lambda found: found.area, better="lower"),
    "insertion": Measure(of=_insertion, value=lambda found: found.area, better="higher"),
    "comprehensiveness": Measure(of=_comprehensiveness, value=lambda found: found.aopc, better="higher", needs="text"),
    "sufficiency": Measure(of=_sufficiency, value=lambda found: found.aopc, better="lower", needs="text"),
    "aup": Measure(of=_areas, value=lambda found: found.aup, better="higher", needs="informative"),
    "aur": Measure(of=_areas, value=lambda found: found.aur, better="higher", needs="informative"),
    "aup_above_random": Measure(of=_above_random, value=lambda found: found.aup, better="higher", needs="informative"),
    "aur_above_random": Measure(of=_above_random, value=lambda found: found.aur, better="higher", needs="informative"),
    "spread": Measure(of=_spread, value=lambda found: float(found.top_share.nanmean()), better="higher", needs="maps"),
}
"""`spread` is the mean share of the magnitude in the top positions; the others are told at the functions so named."""
