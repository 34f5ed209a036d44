"""Does turning salient filters off mend mistakes more than others? Fig. 3 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from salcore.blame import numbers
from salcore.blame.figures import curves
from salcore.blame.numbers import MEASURES, MODE_NAMES
from salcore.blame.results import Blame
from salcore.figures import canvas
from salcore.studies.blame import FULL, SMALL, blamed, ensembles
from salcore.studies.row import Picture, Row, claimed, measured

if TYPE_CHECKING:
    from salcore.parameter_space.pruning import Mode
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Turning salient filters off"
SOURCE = "Levin et al. (NeurIPS 2022), Fig. 3"
ABOUT = (
    "For each misclassified sample, filters are turned off: the most salient by the magnitude of the standardised "
    "profile, random ones, and the least salient. Two ways: `paper` zeroes the filter's weights and the shift of the "
    "batch-norm that follows, which leaves the channel constant, but not zero, in evaluation mode; `silenced` makes "
    "the channel zero. The paper's numbers are of ResNet-50 on ImageNet, read off its text: a drop of 30 points in the "
    "incorrect class's confidence with 100 of 26,560 filters, 7 by random ones, 12 % corrected at best, near 30. "
    "Intervals are a bootstrap over samples, which takes every choice's best anew in each draw."
)
PRESETS = {"small": SMALL, "full": FULL}
PAPER = {"most": -0.30, "random": -0.07}
PAPER_CORRECTED = 0.12


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Each way's numbers, and its claims: most beyond random, random beyond least."""
    for name, blame in blamed(runs):
        for mode in MODE_NAMES:
            yield from _confidence(f"{name}, {mode}", blame, mode)
            yield from _corrected(f"{name}, {mode}", blame, mode)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Three curves for each way."""
    for name, blame in blamed(runs):
        for mode in MODE_NAMES:
            for measure, label in MEASURES.items():
                series = {choice: rows.mean() for choice, rows in numbers.pruned(blame, mode, measure).items()}
                figure = curves(blame.parameters.pruned, series, numbers.unit(measure), total=len(blame.filters))
                yield Picture(
                    caption=f"{name}, {mode}: {label}", content=canvas.svg(figure, f"{name}-{mode}-{measure}")
                )


def _confidence(what: str, blame: Blame, mode: "Mode") -> Iterator[Row]:
    """The incorrect class's confidence with the most filters off, and what is claimed over all numbers of filters."""
    count, found = blame.parameters.pruned[-1], numbers.pruned(blame, mode, "incorrect")
    for choice, values in found.items():
        told = f"{what}: incorrect class's confidence, {count} {choice} filters off"
        yield measured(told, values.mean()[-1], paper=PAPER.get(choice))
    for first, second in (("most", "random"), ("random", "least")):
        drop = (found[second] - found[first]).average()
        told = f"{what}: {first} lowers the incorrect class's confidence more than {second}"
        yield claimed(told, drop, note="mean over the numbers of filters")


def _corrected(what: str, blame: Blame, mode: "Mode") -> Iterator[Row]:
    """The share of mistakes corrected, each choice at the number of filters where it does best."""
    found = numbers.pruned(blame, mode, "corrected")
    for choice, values in found.items():
        estimates = values.mean()
        best = int(np.argmax([estimate.value for estimate in estimates]))
        paper = PAPER_CORRECTED if choice == "most" else None
        note = f"with {blame.parameters.pruned[best]} filters off"
        yield measured(f"{what}: corrected at best by {choice}", estimates[best], paper=paper, note=note)
    gain = numbers.gain_at_best(found["most"], found["random"])
    yield claimed(f"{what}: most corrects more than random, each at its best", gain)
