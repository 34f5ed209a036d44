"""Does the noise of a sample's map depend on its class, or on how well it is predicted? Fig. 4 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures import canvas, charts
from salcore.report.accuracy import confidence, ensemble_probabilities
from salcore.report.correlation import pearson, spearman
from salcore.statistics import Estimate
from salcore.studies.networks import FULL, SMALL, ensembles
from salcore.studies.row import Picture, Row, measured
from salcore.studies.summaries import bootstrapped

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Noise by class and by quality of the prediction"
SOURCE = "Woerl et al. (CVPR 2023), Fig. 4"
ABOUT = (
    "SNR of every sample's gradient, by class, and against the ensemble's probability of the label. The paper finds "
    "classes that differ, and no correlation with the quality of the prediction. Intervals are over samples: Fisher's "
    "for correlations, a bootstrap for medians."
)
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"
WEAK = 0.2
"""A correlation within this of 0 explains 4 % of the variance at most: it counts as none."""


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Classes of lowest and highest SNR, and both correlations."""
    for name, run in runs.items():
        yield from _classes(name, run)
        quality, snr = _quality(run), run.snr(METHOD)
        for kind, correlate in (("Pearson", pearson), ("Spearman", spearman)):
            yield _none(f"{name}: {kind} correlation of SNR and prediction quality", correlate(quality, snr))


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Every sample by class, and against the quality of its prediction."""
    for name, run in runs.items():
        snr, label = run.snr(METHOD), run.column(METHOD, "label")
        by_class = charts.snr_by_class(snr, label, run.record(run.members[0])["classes"])
        scatter = charts.snr_by_confidence(_quality(run), snr, label)
        yield Picture(caption=f"{name}: by class", content=canvas.svg(by_class, f"classes-{name}"))
        yield Picture(caption=f"{name}: by prediction", content=canvas.svg(scatter, f"quality-{name}"))


def _classes(name: str, run: "Run") -> Iterator[Row]:
    """Median SNR of the lowest and the highest class; one that no sample is of is left out."""
    snr, label = run.snr(METHOD), run.column(METHOD, "label")
    classes = run.record(run.members[0])["classes"]
    present = [int(c) for c in np.unique(label) if c >= 0 and np.isfinite(snr[label == c]).any()]
    medians = {c: bootstrapped(snr[label == c]) for c in present}
    ordered = sorted(present, key=lambda c: medians[c].value)
    for word, c in zip(("lowest", "highest"), (ordered[0], ordered[-1]) if ordered else (), strict=False):
        note = f"{int((label == c).sum())} samples; interval over samples"
        yield measured(f"{name}: class of {word} median SNR, {charts.class_name(classes, c)}", medians[c], note=note)
    absent = len(classes) - len(present)
    if absent:
        yield measured(f"{name}: classes without an explained sample", Estimate(value=absent, low=np.nan, high=np.nan))


def _quality(run: "Run") -> np.ndarray:
    """The ensemble's probability of each explained sample's label, `(N,)`."""
    _, logits = run.logits()
    label = run.column(METHOD, "label")
    return confidence(ensemble_probabilities(logits)[: len(label)], label)


def _none(what: str, found: Estimate) -> Row:
    """The claim of no correlation: the interval lies within WEAK of 0 (holds), or all beyond it (does not)."""
    inside, outside = max(-found.low, found.high) < WEAK, found.low > WEAK or found.high < -WEAK
    holds = True if inside else False if outside else None
    told = "" if holds is not None else f"undecided: the interval reaches beyond {WEAK:g}, or cannot be told from it"
    told = f"{told}; " if told else ""
    return Row(
        what=what, paper=0.0, ours=found.value, low=found.low, high=found.high, holds=holds,
        note=f"{told}none: within {WEAK:g} of 0; interval over samples",
    )  # fmt: skip
