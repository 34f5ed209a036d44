"""Every number that a page tells in words, gathered from a run once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore import until
from salcore.borrowed import lender_of
from salcore.data.part import Kind
from salcore.figures.inputs import map_shape
from salcore.figures.nouns import KINDS, NOUNS, Nouns
from salcore.report.accuracy import Accuracy, accuracy, confidence, ensemble_probabilities
from salcore.report.left_out import LeftOut, left_out
from salcore.report.one_sign import NEARLY_ALL, share_of_one_sign
from salcore.report.outlying import Outlying, member_cosines, outlying
from salcore.statistics import Estimate, debiased, jackknife
from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.runs import Run


@dataclass(frozen=True, kw_only=True)
class Alike:
    """How alike members' maps of one method are, means over samples, and the share of what is significant in them."""

    ssim: float
    ssim_pairwise: float
    cosine: float
    spearman: float
    signs: float
    top: float
    significant: float


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """One row of the summary: SNR and its relatives are means over `samples`, intervals are over members.

    `non_negative`: no map is negative anywhere; `one_sign`: the maps are nearly all of one sign, whichever.
    """

    name: str
    members: int
    samples: int
    snr: Estimate
    debiased: Estimate
    at_30: Estimate
    scale_free: float
    alike: Alike
    negatives: int
    non_negative: bool
    one_sign: bool
    null: float
    residual: float
    outlying: Outlying | None = None

    @property
    def lifted(self) -> bool:
        """Whether an offset from zero that all maps share lifts the SNR: it says less than that of signed maps."""
        return self.non_negative or self.one_sign


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

    `left_out`: of each method with maps that are not finite, which ones. `looks`: those that decided whether there are
    enough members, where the spec asks for as many as it takes. `lender`: the run that the members are copied from.
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
    looks: tuple[until.Round, ...] = ()
    kind: Kind = "images"
    lender: str | None = None

    @property
    def nouns(self) -> Nouns:
        """What the samples, and the units of their maps, are called."""
        return NOUNS[self.kind]


def gather(run: "Run") -> Facts:
    """Read the facts of a run: summary, logits, and the scalar columns of one method."""
    rows = [row for row in run.summary.to_pylist() if row["method"] in run.methods]
    methods = tuple(_method(run, row) for row in rows)
    main = main_method(methods)
    labels, logits = run.logits()
    return Facts(
        planned=run.planned,
        trained=run.members,
        failures=dict(run.failures),
        accuracy=accuracy(run.members, labels, logits),
        methods=methods,
        main=main,
        lead=_lead(run, methods),
        samples=None if main is None else _samples(run, main, ensemble_probabilities(logits)),
        left_out=tuple(found for row in rows if (found := left_out(run, row))),
        looks=_looks(run),
        kind=KINDS[len(map_shape(run, run.methods[0]))] if run.methods else "images",
        lender=lender_of(run.store),
    )


def ranked(methods: tuple[MethodFacts, ...]) -> list[MethodFacts]:
    """Methods whose debiased SNR is known and comparable, the highest first.

    Maps of one sign have an SNR that noise alone lifts above 1: they are ranked only where there are no others.
    """
    known = [method for method in methods if not np.isnan(method.debiased.value)]
    signed = [method for method in known if not method.lifted]
    return sorted(signed or known, key=lambda method: -method.debiased.value)


def main_method(methods: tuple[MethodFacts, ...]) -> str | None:
    """The least noisy of the methods that explain the most samples; the first where no SNR is known."""
    if not methods:
        return None
    most = max(method.samples for method in methods)
    widest = tuple(method for method in methods if method.samples == most)
    order = ranked(widest)
    return order[0].name if order else widest[0].name


def _looks(run: "Run") -> tuple[until.Round, ...]:
    return until.read(run.store, run.spec, run.fingerprints.get("member", "")) if run.spec.ensemble.until else ()


def leave_one_out(run: "Run", *methods: str) -> np.ndarray:
    """Debiased SNR `(K, M)` by each of K methods of the ensemble without each member, over all samples.

    Of the M members that count by every one of the methods: without any other, a method's number is that of all.
    """
    samples, signal2, noise2 = np.stack([_sums_without(run, method) for method in methods], axis=1)
    counts = (samples > 0).all(axis=0)
    return debiased(signal2[:, counts], noise2[:, counts])


def _sums_without(run: "Run", method: str) -> np.ndarray:
    """Samples in which a member counts, and signal2 and noise2 of the ensemble without it: sums `(3, members)`."""
    tables = [read_stats(run.store, name).members for name in run.stats_files(method)]
    return np.sum([[table.column(name) for name in ("samples", "signal2", "noise2")] for table in tables], axis=0)


def _lead(run: "Run", methods: tuple[MethodFacts, ...]) -> Lead | None:
    order = ranked(methods)
    if len(order) < 2:
        return None
    first, second = order[:2]
    value = first.debiased.value - second.debiased.value
    without = leave_one_out(run, first.name, second.name)
    return Lead(first=first.name, second=second.name, difference=jackknife(value, without[0] - without[1]))


def _method(run: "Run", row: dict[str, Any]) -> MethodFacts:
    name = row["method"]
    return MethodFacts(
        name=name,
        members=row["members"],
        samples=row["samples"],
        snr=_estimate(row, "snr"),
        debiased=_estimate(row, "snr_debiased"),
        at_30=_estimate(row, "snr_at_30"),
        scale_free=row["snr_scale_free"],
        alike=_alike(row),
        negatives=row["negatives"],
        non_negative=row["non_negative"],
        one_sign=share_of_one_sign(run, name) >= NEARLY_ALL,
        null=row["null"],
        residual=row["residual_max"],
        outlying=outlying(member_cosines(run, name)),
    )


def _alike(row: dict[str, Any]) -> Alike:
    """The likenesses, NaN those that summaries of older runs lack."""
    return Alike(
        ssim=row["ssim_to_mean"],
        ssim_pairwise=row.get("ssim_pairwise", np.nan),
        cosine=row.get("cosine_to_mean", np.nan),
        spearman=row.get("spearman_to_mean", np.nan),
        signs=row.get("sign_agreement", np.nan),
        top=row.get("top_overlap", np.nan),
        significant=row.get("significant_share", np.nan),
    )


def _estimate(row: dict[str, Any], name: str) -> Estimate:
    return Estimate(value=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"])


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
