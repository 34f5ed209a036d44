"""Are wrong samples more salient, and deeper? Fig. 1 and 2 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from salcore.blame import agreement, numbers
from salcore.blame.figures import profile
from salcore.figures import canvas
from salcore.statistics import Estimate
from salcore.studies.blame import FULL, SMALL, blamed, ensembles
from salcore.studies.row import Picture, Row, claimed, measured

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Filter profiles of right and wrong samples"
SOURCE = "Levin et al. (NeurIPS 2022), Fig. 1 and 2"
ABOUT = (
    "The mean magnitude of the loss's gradient by each convolutional filter, standardised over held-out samples. The "
    "paper finds, without numbers, that the profiles of wrong samples are greater, and that deep layers are the most "
    "salient for wrong samples and early ones for right samples. Samples are standardised by the set that they are of, "
    "so the mean profile of right ones mirrors that of wrong ones: the two panels are one finding. Intervals are a "
    "bootstrap over samples. Filters that answer to one class vary most between samples, and standardising divides by "
    "that. Whether the members agree on what is to blame is in no paper."
)
PRESETS = {"small": SMALL, "full": FULL}


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """The two claims, and how much the members agree."""
    for name, blame in blamed(runs):
        note = "wrong less right, in deviations"
        yield claimed(f"{name}: mean standardised profile", numbers.salience(blame), note=note)
        note = "deep half of the layers less early half, wrong less right"
        yield claimed(f"{name}: how deep the profile lies", numbers.depth(blame), note=note)
        early, deep = numbers.relative_deviations(blame)
        value = Estimate(value=deep, low=float("nan"), high=float("nan"))
        note = f"{early:.3f} in the early half; the greater, the fewer samples a filter answers to"
        yield measured(f"{name}: a filter's deviation over its mean, deep half", value, note=note)
        for kind in ("right", "wrong"):
            yield measured(f"{name}: deep half less early half, {kind} samples", numbers.depth_of(blame, kind))
        if len(blame.members) > 1:
            found = agreement.layers(blame)
            value = Estimate(value=found.same, low=float("nan"), high=float("nan"))
            note = f"correlation over layers; {found.different:.3f} for different ones; {found.shared} shared mistakes"
            yield measured(f"{name}: two members' profiles of one mistake", value, note=note)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """The three profiles of each run."""
    for name, blame in blamed(runs):
        for column, colour, label, caption, logarithmic in (
            ("raw", canvas.MUTED, "mean gradient", "as it is", True),
            ("right", canvas.BLUE, "standardised", "standardised, right samples", False),
            ("wrong", canvas.RED, "standardised", "standardised, wrong samples", False),
        ):
            figure = profile(blame, column, colour, label, logarithmic=logarithmic)
            yield Picture(caption=f"{name}: mean profile, {caption}", content=canvas.svg(figure, f"{name}-{column}"))
