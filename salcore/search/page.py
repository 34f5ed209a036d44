"""The page of a search, answers first."""

import math
from collections.abc import Iterator, Sequence

from salcore.faithfulness import paired
from salcore.figures.canvas import svg
from salcore.figures.signs import PERCENT, number
from salcore.report import html
from salcore.report.findings import Finding
from salcore.report.sections import answers
from salcore.search.goal import Outcome, drop, sign
from salcore.search.heat_map import heat_map, title
from salcore.search.record import METRICS, Record
from salcore.search.settings import Setting, layers_text
from salcore.search.table import HEAD, cells, interval, standard_of
from salcore.search.trial import FOLDER
from salcore.spec import SearchSpec, Spec

ABOUT = (
    "Every trial is a small ensemble at one setting. Accuracy and faithfulness are means over its members, with 95 % "
    "intervals over them; the debiased SNR is that of the first method. A line in a colour bar is standard training."
)


def build(spec: Spec, records: Sequence[Record], found: Outcome, place: str) -> str:
    """One self-contained document; `place` is the search's directory."""
    return html.page(f"{spec.name}: k and lambda of {_training(spec)}", _body(spec, records, found, place))


def findings(spec: Spec, records: Sequence[Record], found: Outcome, place: str) -> Iterator[Finding]:
    """The answers in the order in which a stranger asks."""
    yield _chosen(spec, records, found, place)
    yield _faithfulness(spec, records, found)
    if len(spec.search.objectives) > 1:
        yield _front(spec.search, records, found)
    if failed := [record for record in records if record.state == "failed"]:
        told = "; ".join(f"{record.name}: {record.reason}" for record in failed)
        yield Finding(question="Did all trials come through?", answer=f"{len(failed)} did not. {told}.", caution=True)


def _body(spec: Spec, records: Sequence[Record], found: Outcome, place: str) -> Iterator[str]:
    yield f"<header><h1>{html.escape(spec.name)}</h1>"
    yield html.paragraph(f"Which k and lambda of {_training(spec)}, for this network and this data?", "lead")
    yield "</header>"
    yield answers(findings(spec, records, found, place))
    panels = [
        html.chart(
            svg(heat_map(records, found, spec, [metric]), f"map-{metric}"),
            f"{title(metric, spec)}. Red frame: the chosen setting.",
        )
        for metric in METRICS
    ]
    yield html.section("maps", "Over k and lambda", html.charts(*panels))
    standard = standard_of(records)
    rows = html.table(HEAD, (cells(record, standard, found) for record in records))
    yield html.section("trials", "All trials", f'<div class="wraps">{rows}</div>', html.paragraph(ABOUT, "muted"))


def _chosen(spec: Spec, records: Sequence[Record], found: Outcome, place: str) -> Finding:
    question = "Which setting?"
    chosen = next((record for record in records if record.name == found.chosen), None)
    if chosen is None:
        most = spec.search.accuracy_drop_at_most
        why = f"every trial loses more than {_points(most)} of accuracy" if most is not None else "no trial has numbers"
        return Finding(question=question, answer=f"None: {why}.", caution=True)
    if chosen.setting is None:
        told = "None of those tried: standard training is the best by this measure."
    else:
        told = f"k = {chosen.setting.mask_fraction:g}, lambda = {chosen.setting.weight:g}{_layers(chosen.setting)}."
    than = "" if chosen.setting is None else _than_standard(drop(chosen, standard_of(records)))
    told += f" Accuracy {number(100 * chosen.accuracy.value)}{PERCENT}{than}."
    command = f"python -m jobs.ensemble {place}/{FOLDER}/{chosen.name} ensemble.members=10"
    return Finding(question=question, answer=f"{told} By {_rule(spec.search)}. To go on with it:", command=command)


def _training(spec: Spec) -> str:
    return "SalLM" if spec.training.objective == "attention" else "saliency guided training"


def _layers(setting: Setting) -> str:
    return "" if setting.layers is None else f", layers {layers_text(setting.layers)}"


def _than_standard(lost: float) -> str:
    if math.isnan(lost):
        return "; standard training's is not known"
    return f", {_points(abs(lost))} {'less' if lost > 0 else 'more'} than standard training"


def _rule(search: SearchSpec) -> str:
    if len(search.objectives) > 1:
        return f"the member of the Pareto front of {', '.join(search.objectives)} that is nearest to the best of each"
    limit = search.accuracy_drop_at_most
    subject = "" if limit is None else f" among the trials that lose at most {_points(limit)} of accuracy"
    return f"the best {search.objectives[0]}{subject}"


def _faithfulness(spec: Spec, records: Sequence[Record], found: Outcome) -> Finding:
    """Whether the chosen setting's maps differ from standard training's, member by member: they share their seeds."""
    question = "Are the maps more faithful than standard training's?"
    chosen = next((record for record in records if record.name == found.chosen), None)
    standard = standard_of(records)
    if chosen is None or standard is None or chosen is standard:
        return Finding(question=question, answer="There is nothing to compare.", caution=True)
    more = paired(*([row.faithfulness for row in record.members] for record in (chosen, standard)))
    better = sign("faithfulness", spec.search)
    verdicts = {
        "Yes": min(better * more.low, better * more.high) > 0,
        "No, less": max(better * more.low, better * more.high) < 0,
        "Not told apart": True,
    }
    told = next(verdict for verdict, holds in verdicts.items() if holds)
    values = f"{number(chosen.faithfulness.value, 3)} against {number(standard.faithfulness.value, 3)}"
    change = f"difference by member {number(more.value, 3)} ({interval(more) or 'no interval'})"
    measure = title("faithfulness", spec)
    return Finding(question=question, answer=f"{told}: {measure} {values}; {change}.", caution=told != "Yes")


def _front(search: SearchSpec, records: Sequence[Record], found: Outcome) -> Finding:
    question = f"What is on the Pareto front of {', '.join(search.objectives)}?"
    told = ", ".join(found.front) or "nothing"
    return Finding(question=question, answer=f"{told}: no other of the {len(records)} trials is better in all of them.")


def _points(share: float | None) -> str:
    return f"{number(100 * (share or 0.0))} points"
