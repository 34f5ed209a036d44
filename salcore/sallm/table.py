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

SST5 = "the poster's are BERT-Base on SST-5"


def rows(found: Sallm) -> Iterator[Row]:
    """Accuracies, agreement and faithfulness of every network, then the differences that are claimed or asked for."""
    for name, each in found.all():
        yield from _accuracies(name, each)
    for name in found.pairs:
        if (other := found.baseline(name)) is not None:
            yield _gain(found, name, other)
    for name, each in found.all():
        yield from _agreements(name, each)
    yield from _claims(found)
    for name, each in found.all():
        yield measured(f"{name}: comprehensiveness", over_seeds_and_texts(each.comprehensiveness), note="its own maps")
        yield measured(f"{name}: sufficiency", over_seeds_and_texts(each.sufficiency), note="lower is better")
        yield from _with_people(name, each)


def deviation(values: np.ndarray) -> float:
    """The deviation over seeds, ddof 1; NaN for one."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _accuracies(name: str, each: Measures) -> Iterator[Row]:
    paper = POSTER.get(name, (None, None, None, None))
    by_seed = 100 * each.right.mean(1)
    told = "" if paper[0] is None else f"; poster +- {paper[1]:.2f}"
    validation, spread = 100 * each.validation, deviation(100 * each.validation)
    alone = Estimate(value=float(validation.mean()), low=np.nan, high=np.nan)
    yield measured(f"{name}: validation accuracy, %", alone, paper=paper[0], note=f"+- {spread:.2f} over seeds{told}")
    told = "" if paper[2] is None else f"; poster +- {paper[3]:.2f}"
    test = over_seeds_and_texts(100 * each.right)
    note = f"+- {deviation(by_seed):.2f} over seeds{told}"
    yield measured(f"{name}: test accuracy, %", test, paper=paper[2], note=note)


def _gain(found: Sallm, name: str, other: str) -> Row:
    own, base = found.measures(name), found.measures(other)
    gain = over_seeds_and_texts(100 * (own.right - base.right))
    paper = None
    if name in POSTER and other in POSTER:
        paper = round(POSTER[name][2] - POSTER[other][2], 2)
    return claimed(f"{name}: test accuracy above {other}, points", gain, paper=paper, note="paired by text and seed")


def _agreements(name: str, each: Measures) -> Iterator[Row]:
    chance = float(np.nanmean(each.chance))
    note = f"{chance:.3f} for as many tokens at random; share of attention {np.nanmean(each.mass):.3f}"
    yield measured(f"{name}: attention finds what its teacher marks", over_seeds_and_texts(each.area), note=note)


def _with_people(name: str, each: Measures) -> Iterator[Row]:
    """Agreement with the words that people marked; nothing where nobody was asked."""
    for what, found in (("attention", each.attention_human), ("maps", each.maps_human)):
        if not found:
            continue
        for label, values in (("token F1", "token_f1"), ("AUPRC", "auprc")):
            estimate = over_seeds_and_texts(np.stack([getattr(member, values) for member in found]))
            yield measured(f"{name}: {label} of {what} with people's rationales", estimate)
        spans = np.array([member.iou_f1 for member in found])
        alone = Estimate(value=float(spans.mean()), low=np.nan, high=np.nan)
        note = f"+- {deviation(spans):.3f} over seeds"
        yield measured(f"{name}: IOU F1 of {what} with people's rationales", alone, note=note)


def _claims(found: Sallm) -> Iterator[Row]:
    """Students attend to what explanations mark that they never saw: more than without, and more than shuffled ones."""
    taught = [name for name in found.pairs if found.baseline(name) is not None and name != "shuffled"]
    for name in taught:
        for other in (found.baseline(name), "shuffled"):
            if other is None or other not in found.pairs or found.pairs[other] != found.pairs[VANILLA]:
                continue
            if other == "shuffled" and found.pairs[name] != found.pairs["shuffled"]:
                continue
            yield _agrees_more(found, name, other)
    if "semi_supervised" in found.pairs:
        yield _agrees_more(found, "semi_supervised", found.baseline("semi_supervised") or VANILLA)


def _agrees_more(found: Sallm, name: str, other: str) -> Row:
    gain = over_seeds_and_texts(found.measures(name).area - found.measures(other).area)
    return claimed(f"{name}: attention finds it more often than that of {other}", gain, note="unseen explanations")
