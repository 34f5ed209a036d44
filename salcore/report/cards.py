"""Samples as pictures: the sample, what the ensemble agrees on, how sure that is, and two members that disagree."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from salcore.figures.charts import class_name
from salcore.figures.maps import shown
from salcore.figures.signs import PERCENT, number
from salcore.report import html
from salcore.report.facts import Facts, Samples
from salcore.report.views import View

if TYPE_CHECKING:
    from salcore.runs import Run

PANELS = 6
BUDGET = 1_800_000
"""Bytes that all maps of a page may take before they are encoded: more maps are drawn smaller."""


def cards(run: "Run", facts: Facts, view: View, positions: Sequence[int]) -> Iterator[str]:
    """One card per sample: the main method's maps, the others' behind a tap."""
    samples, classes = facts.samples, view.inputs.classes
    assert samples is not None, "cards are made of reduced runs"
    names = [samples.method, *(method.name for method in facts.methods if method.name != samples.method)]
    sizes = {method.name: method.samples for method in facts.methods}
    room = BUDGET // max(1, len(positions) * len(names) * PANELS)
    for position in positions:
        strips = {name: strip(run, view, name, position, room) for name in names if position < sizes[name]}
        main = strips.pop(samples.method)
        drawn = {name: pieces for name, pieces in strips.items() if pieces}
        others = [html.details(_snr_title(run, name, position), view.strip(each)) for name, each in drawn.items()]
        title = f"Sample {samples.sample[position]}: {class_name(classes, int(samples.label[position]))}"
        yield html.joined(
            [
                f'<article class="sample"><h3>{html.escape(title)}</h3>',
                html.paragraph(f"{said(samples, classes, position)}. {_snr_title(run, samples.method, position)}."),
                view.strip([view.sample(position), *main]),
                *others,
                "</article>",
            ]
        )


def strip(run: "Run", view: View, method: str, position: int, room: int) -> list[str]:
    """A sample's maps by one method; nothing where no member's is finite."""
    found = shown(run, method, position)
    return [] if found is None else list(view.maps(position, found, room))


def thumbnails(samples: Samples, view: View, positions: Sequence[int]) -> str:
    """Samples in short with label, prediction and SNR; a table where they could not be found."""
    names = [class_name(view.inputs.classes, int(samples.label[position])) for position in positions]
    numbers = [int(samples.sample[position]) for position in positions]
    snr = [float(samples.snr[position]) for position in positions]
    if view.inputs.data is None:
        return html.table(("sample", "class", "SNR"), zip(numbers, names, snr, strict=True))
    notes = [
        f"SNR {number(value)}. {said(samples, view.inputs.classes, position)}"
        for value, position in zip(snr, positions, strict=True)
    ]
    captions = [f"{each}: {name}" for each, name in zip(numbers, names, strict=True)]
    return view.thumbnails(positions, list(zip(captions, notes, strict=True)))


def said(samples: Samples, classes: Sequence[str], position: int) -> str:
    """What the ensemble says of a sample, in a few words."""
    label, prediction = int(samples.label[position]), int(samples.prediction[position])
    share = number(100 * float(samples.confidence[position]), 0) + PERCENT
    if label < 0:
        return f"Ensemble: {class_name(classes, prediction)} ({share})"
    if prediction == label:
        return f"Ensemble: right ({share})"
    return f"Ensemble: {class_name(classes, prediction)}, wrong ({share} for the label)"


def _snr_title(run: "Run", method: str, position: int) -> str:
    return f"{method}: SNR {number(float(run.snr(method)[position]))}"
