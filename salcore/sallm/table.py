"""What SalLM came to in rows, the poster's numbers beside them."""

from collections.abc import Iterator

import numpy as np

from salcore.sallm.intervals import over_seeds_and_texts
from salcore.sallm.results import Measures, Sallm
from salcore.sallm.variants import FIRST, VANILLA
from salcore.statistics import Estimate
from salcore.studies.row import Row, claimed, measured

POSTER = {
    VANILLA: (51.07, 0.52, 53.83, 0.42),
    FIRST: (51.77, 0.76, 54.22, 0.19),
    "fine_tuned": (51.13, 0.92, 53.27, 0.21),
    "iterative_2": (51.53, 0.41, 53.45, 1.05),
}
"""Validation and test accuracy in per cent, each mean and deviation over three seeds: BERT-Base on SST-5."""
CLASSES_OF_SST5 = 5


def poster(found: Sallm) -> dict[str, tuple[float, float, float, float]]:
    """The poster's numbers where the texts are those of SST-5, or look like them; nothing beside others."""
    same = found.spec.data.name.startswith("sst:") and len(found.data.classes) == CLASSES_OF_SST5
    return POSTER if same else {}


def rows(found: Sallm) -> Iterator[Row]:
    """Accuracies, agreement and faithfulness of every network, and the differences that are claimed or asked for."""
    paper = poster(found)
    for name, each in found.all():
        yield from _accuracies(name, each, paper.get(name))
    for name in found.pairs:
        if (other := found.baseline(name)) is not None:
            yield _gain(found, name, other)
    if {"mean_teacher", FIRST} <= {*found.pairs}:
        yield _gain(found, "mean_teacher", FIRST)
    yield from _teachers(found)
    for name in found.pairs:
        yield from _agreements(found, name)
    for name in found.pairs:
        if found.baseline(name) is not None and name != "shuffled":
            yield from _claims(found, name)
    for name, each in found.all():
        yield measured(f"{name}: comprehensiveness", over_seeds_and_texts(each.comprehensiveness), note="its own maps")
        yield measured(f"{name}: sufficiency", over_seeds_and_texts(each.sufficiency), note="lower is better")
        yield from _with_people(name, each)


def deviation(values: np.ndarray) -> float:
    """The deviation over seeds, ddof 1; NaN for one."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _accuracies(name: str, each: Measures, paper: tuple[float, float, float, float] | None) -> Iterator[Row]:
    validation, test = 100 * each.validation, 100 * each.right.mean(1)
    known = paper or (None, 0.0, None, 0.0)
    yield measured(
        f"{name}: validation accuracy, %", _alone(validation), paper=known[0], note=_over_seeds(validation, known[1])
    )
    estimate = over_seeds_and_texts(100 * each.right)
    yield measured(f"{name}: test accuracy, %", estimate, paper=known[2], note=_over_seeds(test, known[3]))


def _over_seeds(values: np.ndarray, paper: float) -> str:
    spread = deviation(values)
    told = [] if np.isnan(spread) else [f"+- {spread:.2f} over seeds"]
    return "; ".join(told + ([f"poster +- {paper:.2f}, BERT-Base"] if paper else []))


def _gain(found: Sallm, name: str, other: str) -> Row:
    gain = over_seeds_and_texts(100 * (found.measures(name).right - found.measures(other).right))
    known = poster(found)
    paper = round(known[name][2] - known[other][2], 2) if {name, other} <= {*known} else None
    more = {"fine_tuned": "; it is trained twice as long", "semi_supervised": "; its epochs are longer"}.get(name, "")
    note = f"paired by text and seed{more}"
    return claimed(f"{name}: test accuracy above {other}, points", gain, paper=paper, note=note)


def _teachers(found: Sallm) -> Iterator[Row]:
    """How much of the teachers' maps is noise of their training runs."""
    run = found.runs[found.pairs[VANILLA]]
    (row, *_) = run.summary.to_pylist()
    value = Estimate(value=row["snr"], low=row["snr_low"], high=row["snr_high"])
    note = f"{len(run.members)} teachers; debiased {row['snr_debiased']:.3f}; interval over teachers"
    yield measured(f"teachers: SNR of their maps by {row['method']}", value, note=note)


def _agreements(found: Sallm, name: str) -> Iterator[Row]:
    each = found.agreement(name, name)
    note = f"share of attention on it {np.nanmean(each.mass):.3f}"
    yield measured(f"{name}: attention finds what its teacher marks", over_seeds_and_texts(each.area), note=note)
    beyond = over_seeds_and_texts(each.area - each.chance)
    note = "less that of as many tokens at random"
    yield measured(f"{name}: attention finds it beyond chance", beyond, note=note)


def _claims(found: Sallm, name: str) -> Iterator[Row]:
    """A student attends to what explanations mark that it never saw: more than without, and more than shuffled ones."""
    own = found.agreement(name, name).area
    others = [found.baseline(name), *(["shuffled"] if "shuffled" in found.pairs and name != "semi_supervised" else [])]
    for other in filter(None, others):
        gain = over_seeds_and_texts(own - found.agreement(other, name).area)
        what = f"{name}: attention finds it more often than that of {other}"
        yield claimed(what, gain, note="explanations that neither saw; paired by text and seed")


def _with_people(name: str, each: Measures) -> Iterator[Row]:
    """Agreement with the words that people marked; nothing where nobody was asked."""
    for what, found in (("attention", each.attention_human), ("maps", each.maps_human)):
        if not found:
            continue
        for label, values in (("token F1", "token_f1"), ("AUPRC", "auprc")):
            estimate = over_seeds_and_texts(np.stack([getattr(member, values) for member in found]))
            yield measured(f"{name}: {label} of {what} with people's rationales", estimate)
        spans = np.array([member.iou_f1 for member in found])
        told = _over_seeds(spans, 0.0)
        yield measured(f"{name}: IOU F1 of {what} with people's rationales", _alone(spans), note=told)


def _alone(values: np.ndarray) -> Estimate:
    """A mean without an interval."""
    return Estimate(value=float(values.mean()), low=np.nan, high=np.nan)
