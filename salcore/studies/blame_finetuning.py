"""Does mending one mistake mend those like it? Fig. 6 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from salcore.blame import numbers
from salcore.blame.figures import curves
from salcore.blame.numbers import TUNED
from salcore.figures import canvas
from salcore.studies.blame import FULL, SMALL, blamed, ensembles
from salcore.studies.row import Picture, Row, claimed, measured

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Fine-tuning salient filters on one sample"
SOURCE = "Levin et al. (NeurIPS 2022), Fig. 6"
ABOUT = (
    "One step of gradient descent on some filters, for one misclassified sample, and what becomes of its nearest "
    "mistakes in an independent set, whose labels the step does not see. The paper gives neither the length of its "
    "normalised step nor numbers; ours is a share of the norm of all filters' weights, the same for all choices. "
    "It finds that salient filters correct more neighbours than random or least salient ones, and that 150 of 26,560 "
    "filters correct as many samples as the whole network. Intervals are a bootstrap over samples."
)
PRESETS = {"small": SMALL, "full": FULL}


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Every measure with the most filters, and the claims on neighbours over all numbers of filters."""
    for name, blame in blamed(runs):
        count = blame.parameters.tuned[-1]
        for measure, label in TUNED.items():
            choices, network = numbers.tuned(blame, measure)
            for choice, values in choices.items():
                yield measured(f"{name}: {label}, {count} {choice} filters", values.mean()[-1])
            yield measured(f"{name}: {label}, whole network", network.mean()[0])
            if measure != "corrected":
                gain = (choices["most"] - choices["random"]).average()
                yield claimed(f"{name}: {label}, most more than random", gain, note="mean over the numbers of filters")


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Three curves, with the whole network as a line."""
    for name, blame in blamed(runs):
        for measure, label in TUNED.items():
            choices, network = numbers.tuned(blame, measure)
            series = {choice: values.mean() for choice, values in choices.items()}
            reference = network.mean()[0]
            unit, total = numbers.unit(measure), len(blame.filters)
            figure = curves(blame.parameters.tuned, series, unit, reference=reference, total=total)
            yield Picture(caption=f"{name}: {label}", content=canvas.svg(figure, f"{name}-tuned-{measure}"))
