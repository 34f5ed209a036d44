"""Are samples with similar profiles mistaken alike? Fig. 4 and 5 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from salcore.blame import agreement, numbers
from salcore.figures import canvas, method_charts
from salcore.statistics import Estimate
from salcore.studies.blame import FULL, SMALL, blamed, ensembles
from salcore.studies.row import Picture, Row, claimed, measured

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Nearest neighbours among filter profiles"
SOURCE = "Levin et al. (NeurIPS 2022), Fig. 4 and 5"
ABOUT = (
    "The nearest samples of an independent set, by the cosine similarity of standardised profiles. The paper finds "
    "that most neighbours of a mistake are mistaken between the same two classes, in either order, without numbers. "
    "Chance is the share of all samples that are; to find mistakes is not yet to find mistakes of a kind, so the share "
    "of all mistakes is what is to be beaten. Early and deep: by the filters of that half of the layers alone. "
    "Intervals are a bootstrap over samples. The galleries are on the page of parameter-space saliency of the run."
)
PRESETS = {"small": SMALL, "full": FULL}


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """How often neighbours share the pair, beside chance, and how much of a list two members share."""
    for name, blame in blamed(runs):
        for layers, shared in numbers.neighbours_share_pair(blame).items():
            note = f"chance {shared.chance:.3f}; among mistakes {shared.of_mistakes:.3f}"
            what = f"{name}: neighbours mistaken between the same classes, {layers} filters"
            yield measured(what, shared.neighbours, note=note)
            what = f"{name}: share of such neighbours above that of all mistakes, {layers} filters"
            yield claimed(what, shared.beyond) if layers == "all" else measured(what, shared.beyond)
        if len(blame.members) > 1:
            found = agreement.neighbours(blame)
            note = f"{found.different:.3f} for different mistakes; {found.shared} mistakes that two members share"
            yield measured(f"{name}: neighbours that two members have in common", _alone(found.same), note=note)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Shares beside chance."""
    for name, blame in blamed(runs):
        found = numbers.neighbours_share_pair(blame)
        groups = {
            "neighbours": [shared.neighbours for shared in found.values()],
            "all mistakes": [_alone(shared.of_mistakes) for shared in found.values()],
            "all samples": [_alone(shared.chance) for shared in found.values()],
        }
        figure = method_charts.grouped(list(found), groups, label="share mistaken between the same two classes")
        yield Picture(caption=f"{name}: by filters used", content=canvas.svg(figure, f"neighbours-{name}"))


def _alone(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(value=value, low=float("nan"), high=float("nan"))
