"""Every number that a page tells in words, gathered from a run once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.report.accuracy import Accuracy, accuracy, confidence, ensemble_probabilities
from salcore.report.left_out import LeftOut, left_out
from salcore.statistics import Estimate, jackknife
from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.runs import Run


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """One row of the summary: SNR and its relatives are means over `samples`, intervals are over members."""

    name: str
    members: int
    samples: int
    snr: Estimate
    debiased: Estimate
    at_30: float
    scale_free: float
    ssim: float
    negatives: int
    non_negative: bool
    null: float
    residual: float


@dataclass(frozen=True, kw_only=True)
class Lead:
    """The method of highest debiased SNR, the next one, and by how much it leads: paired over members."""

    first: str
    second: str
    difference: Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Per sample `(N,)`, by the main method: number, label, target, SNR, and whether noise outweighs the mean map.

    `drowned`: ||sigma||^2 / M, the noise left in the mean map, is larger than the signal's square. `confidence` is the
    mean softmax probability of the label (of the likeliest class without one), `prediction` the ensemble's class.
    """

    method: str
    sample: np.ndarray
    label: np.ndarray
    target: np.ndarray
    snr: np.ndarray
    drowned: np.ndarray
    confidence: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is known of a run. `main` is the method whose samples are shown first; None if nothing is reduced.

    `left_out`: of each method with maps that are not finite, which ones.
    """

    planned: int
    trained: tuple[int, ...]
    failures: dict[int, str]
    accuracy: Accuracy | None
    methods: tuple[MethodFacts, ...]
    main: str | None
    lead: Lead | None
    samples: Samples | None
    left_out: tuple[LeftOut, ...] = ()


def gather(run: "Run") -> Facts:
    """Read the facts of a run: summary, logits, and the scalar columns of one method."""
    rows = [row for row in run.summary.to_pylist() if row["method"] in run.methods]
    methods = tuple(_method(row) for row in rows)
    main = main_method(methods)
    labels, logits = run.logits()
    return Facts(
        planned=run.spec.ensemble.members,
        trained=run.members,
        failures=dict(run.failures),
        accuracy=accuracy(run.members, labels, logits),
        methods=methods,
        main=main,
        lead=_lead(run, methods),
        samples=None if main is None else _samples(run, main, ensemble_probabilities(logits)),
        left_out=tuple(found for row in rows if (found := left_out(run, row))),
    )


def ranked(methods: tuple[MethodFacts, ...]) -> list[MethodFacts]:
    """Methods whose debiased SNR is known and comparable, the highest first.

    Non-negative maps have an SNR that noise alone lifts above 1: they are ranked only where there are no others.
    """
    known = [method for method in methods if not np.isnan(method.debiased.value)]
    signed = [method for method in known if not method.non_negative]
    return sorted(signed or known, key=lambda method: -method.debiased.value)


def main_method(methods: tuple[MethodFacts, ...]) -> str | None:
    """The least noisy of the methods that explain the most samples; the first where no SNR is known."""
    if not methods:
        return None
    most = max(method.samples for method in methods)
    widest = tuple(method for method in methods if method.samples == most)
    order = ranked(widest)
    return order[0].name if order else widest[0].name


def leave_one_out(run: "Run", method: str) -> np.ndarray:
    """Debiased SNR `(M,)` of the ensemble without each member, over all samples."""
    tables = [read_stats(run.store, name).members for name in run.stats_files(method)]
    signal2, noise2 = (
        np.sum([table.column(name).to_numpy() for table in tables], axis=0) for name in ("signal2", "noise2")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.maximum(np.divide(signal2, noise2), 0))


def _lead(run: "Run", methods: tuple[MethodFacts, ...]) -> Lead | None:
    order = ranked(methods)
    if len(order) < 2:
        return None
    first, second = order[:2]
    value = first.debiased.value - second.debiased.value
    difference = jackknife(value, leave_one_out(run, first.name) - leave_one_out(run, second.name))
    return Lead(first=first.name, second=second.name, difference=difference)


def _method(row: dict[str, Any]) -> MethodFacts:
    return MethodFacts(
        name=row["method"],
        members=row["members"],
        samples=row["samples"],
        snr=Estimate(value=row["snr"], low=row["snr_low"], high=row["snr_high"]),
        debiased=Estimate(value=row["snr_debiased"], low=row["snr_debiased_low"], high=row["snr_debiased_high"]),
        at_30=row["snr_at_30"],
        scale_free=row["snr_scale_free"],
        ssim=row["ssim_to_mean"],
        negatives=row["negatives"],
        non_negative=row["non_negative"],
        null=row["null"],
        residual=row["residual_max"],
    )


def _samples(run: "Run", method: str, probabilities: np.ndarray) -> Samples:
    column = {name: run.column(method, name) for name in ("sample", "label", "target", "count", "signal2", "noise2")}
    # A method may explain only the first samples.
    probabilities = probabilities[: len(column["sample"])]
    with np.errstate(divide="ignore", invalid="ignore"):
        drowned = column["signal2"] < column["noise2"] / column["count"]
    return Samples(
        method=method,
        sample=column["sample"],
        label=column["label"],
        target=column["target"],
        snr=run.snr(method),
        drowned=drowned,
        confidence=confidence(probabilities, column["label"]),
        prediction=probabilities.argmax(axis=-1),
    )
