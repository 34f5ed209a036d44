"""The parts of the page, each from the facts and the columns that it needs."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures import canvas, charts
from salcore.figures.choose import least_certain, representative
from salcore.figures.signs import DASH, PERCENT, number
from salcore.report import html
from salcore.report.cards import cards, thumbnails
from salcore.report.correlation import pearson, spearman
from salcore.report.facts import Facts, Samples
from salcore.report.findings import Finding
from salcore.report.views import View
from salcore.significance import controlled
from salcore.statistics import Estimate

if TYPE_CHECKING:
    from salcore.runs import Run

LISTED_MEMBERS = 100


def answers(found: Iterator[Finding]) -> str:
    """The questions of a stranger, answered."""
    pieces = []
    for finding in found:
        kind = "answer" + " caution" * finding.caution + " wide" * bool(finding.command)
        told = f"<h3>{html.escape(finding.question)}</h3>{html.paragraph(finding.answer)}"
        told += html.code(finding.command) if finding.command else ""
        pieces.append(f'<div class="{kind}">{told}</div>')
    return f'<div class="answers">{html.joined(pieces)}</div>'


def samples(run: "Run", facts: Facts, view: View) -> str:
    """Cards of samples from the highest to the lowest SNR."""
    assert facts.samples is not None, "only reduced runs have samples"
    positions, nouns = representative(facts.samples.snr), view.inputs.nouns
    notes = [
        f"Samples at evenly spaced ranks of SNR ({facts.samples.method}), the highest first. Red raises the score of "
        "the explained class, blue lowers it. Every picture has its own colours, which end at the 99th percentile of "
        "its magnitudes. The two members are chosen by rule: the one least like the mean map, and the one least like "
        "that.",
        *view.notes(),
    ]
    if len(facts.trained) > 1:
        notes.append(f"Significant {nouns.units}: {controlled(nouns.unit, nouns.units, nouns.equal)}")
    if view.inputs.missing:
        notes.append(f"Without {nouns.samples}: {view.inputs.missing}")
    told = [html.paragraph(note, "muted") for note in notes]
    return html.section("samples", "What the ensemble agrees on", *told, *cards(run, facts, view, positions))


def distrusted(found: Samples, view: View) -> str:
    """The samples of lowest SNR, as pictures."""
    positions = least_certain(found.snr)
    note = f"The {len(positions)} of lowest SNR ({found.method}): on where their evidence lies, members disagree most."
    return html.section("distrust", "Samples to distrust", html.paragraph(note), thumbnails(found, view, positions))


def classes(run: "Run", facts: Facts, names: Sequence[str]) -> str:
    """SNR by class and against confidence, for the main method; other methods behind a tap."""
    main = facts.samples
    assert main is not None, "only reduced runs have samples"
    figure = charts.snr_by_class(main.snr, main.label, names)
    scatter = charts.snr_by_confidence(main.confidence, main.snr, main.label)
    shown = html.charts(
        html.chart(canvas.svg(figure, "classes"), f"Every dot is a sample ({main.method})."),
        html.chart(canvas.svg(scatter, "confidence"), f"Correlation with the SNR: {correlation(main)}"),
    )
    others = [
        html.chart(
            canvas.svg(charts.snr_by_class(run.snr(name), run.column(name, "label"), names), f"classes-{i}"),
            name,
        )
        for i, name in enumerate(m.name for m in facts.methods if m.name != main.method)
    ]
    rest = html.details("The other methods", html.charts(*others)) if others else ""
    return html.section("classes", "Noise by class and by confidence", shown, rest)


def convergence(run: "Run", facts: Facts) -> str:
    """How norms and SNR settle as members are added."""
    shown = [_curves(run, name, place) for place, name in enumerate(_main_first(facts))]
    note = (
        "Median over samples, with the middle half shaded; members in order. The norm of the mean falls while noise is "
        "averaged away and levels off at the signal."
    )
    rest = html.details("The other methods", *shown[1:]) if shown[1:] else ""
    return html.section("convergence", "Convergence over members", html.paragraph(note, "muted"), *shown[:1], rest)


def accuracies(run: "Run", facts: Facts) -> str:
    """Accuracy of members and ensemble, and how training went."""
    drawn = []
    if (found := facts.accuracy) is not None:
        figure = charts.accuracies(found.members, found.ensemble.value, found.guessing)
        caption = f"{found.samples} labelled evaluation samples. The ensemble is the mean of the members' softmax."
        drawn.append(html.chart(canvas.svg(figure, "accuracy"), caption))
    histories = {m: run.history(m).to_pydict() for m in facts.trained[:LISTED_MEMBERS]}
    curves = {m: (h["epoch"], h["eval_accuracy"]) for m, h in histories.items() if len(h["epoch"]) > 1}
    if curves and np.isfinite([a for _, accuracy in curves.values() for a in accuracy]).any():
        drawn.append(html.chart(canvas.svg(charts.training(curves), "training"), "Training: a line is a member."))
    return html.section("accuracy", "Accuracy", html.charts(*drawn), html.details("Every member", _members(run, facts)))


def correlation(found: Samples) -> str:
    """Pearson's and Spearman's correlation of SNR and confidence in words."""
    both = (("Pearson", pearson(found.confidence, found.snr)), ("Spearman", spearman(found.confidence, found.snr)))
    told = [
        f"{name} {number(e.value)} (95{PERCENT} interval {interval(e, 2)})"
        for name, e in both
        if not math.isnan(e.value)
    ]
    return f"{', '.join(told)}, over samples." if told else "undefined (too few samples, or one side does not vary)."


def interval(estimate: Estimate, digits: int = 3) -> str:
    """An interval in words, a dash where it is unknown."""
    if math.isnan(estimate.low):
        return DASH
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def _main_first(facts: Facts) -> list[str]:
    return [name for name in (facts.main,) if name] + [m.name for m in facts.methods if m.name != facts.main]


def _curves(run: "Run", method: str, place: int) -> str:
    members = run.convergence_members(method)
    mean, sigma = run.column(method, "mean_norm"), run.column(method, "sigma_norm")
    norms, snr = charts.convergence_norms(members, mean, sigma), charts.convergence_snr(members, mean, sigma)
    return html.charts(
        html.chart(canvas.svg(norms, f"norms-{place}"), f"{method}: mean map and standard deviation"),
        html.chart(canvas.svg(snr, f"snr-{place}"), f"{method}: SNR"),
    )


def _members(run: "Run", facts: Facts) -> str:
    shares = facts.accuracy.members if facts.accuracy else {}
    head = ("member", "accuracy", "state", "seconds", "weights (SHA-256)")
    rows: list[tuple[object, ...]] = []
    for member in facts.trained[:LISTED_MEMBERS]:
        seconds = sum(run.history(member)["seconds"].to_pylist())
        state = "at chance" if facts.accuracy and member in facts.accuracy.at_chance else "trained"
        digest = run.record(member)["weights_sha256"][:16]
        rows.append((member, shares.get(member, math.nan), state, f"{seconds:.1f}", digest))
    rows += [(member, math.nan, f"failed: {reason}", DASH, DASH) for member, reason in facts.failures.items()]
    left = len(facts.trained) - LISTED_MEMBERS
    return html.joined([html.table(head, rows), html.paragraph(f"{left} more are in members/.") if left > 0 else ""])
