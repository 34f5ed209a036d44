"""Mistakes with their nearest neighbours, as pictures: by all filters, and by those of early or deep layers alone."""

from collections.abc import Iterator

import numpy as np

from salcore.blame import numbers
from salcore.blame.experiments import LAYERS
from salcore.blame.results import Blame, column
from salcore.figures.colour import image_file
from salcore.figures.signs import number, percent
from salcore.report import html

QUERIES, SHOWN = 6, 6
"""Mistakes on the page, and neighbours of each."""

HEAD = ("filters", "neighbours of the same two classes", "95 % interval", "of all samples", "of all mistakes")


def galleries(blame: Blame) -> str:
    """The section of the page: how often neighbours share the pair of classes, and some of them."""
    rows = [
        (
            name,
            percent(shared.neighbours.value),
            f"{percent(shared.neighbours.low)} to {percent(shared.neighbours.high)}",
            percent(shared.chance),
            percent(shared.of_mistakes),
        )
        for name, shared in numbers.neighbours_share_pair(blame).items()
    ]
    note = (
        f"By the cosine similarity of standardised profiles, among all {blame.parameters.independent} samples "
        "(Fig. 4). Early and deep: by the filters of that half of the layers alone (Fig. 5). Captions: true class, and "
        "what it was taken for."
    )
    drawn = list(_rows(blame)) if blame.data.values.ndim == 4 else []
    return html.section(
        "neighbours", "Nearest neighbours", html.paragraph(note, "muted"), html.table(HEAD, rows), *drawn
    )


def _rows(blame: Blame) -> Iterator[str]:
    """The first mistakes of the first member that makes any, each with its neighbours."""
    member = blame.has("neighbours")[0]
    table = blame.table("neighbours", member)
    columns = {name: column(table, name) for name in table.column_names}
    samples = columns["sample"]
    for sample in samples[np.sort(np.unique(samples, return_index=True)[1])][:QUERIES]:
        own = np.flatnonzero(samples == sample)
        query = _picture(blame, blame.data.values[sample], columns, own[0], "", "the mistake")
        (_, shown), *others = (
            (name, _strip(blame, columns, query, own[columns["layers"][own] == name][:SHOWN]))
            for name in LAYERS
            if name in columns["layers"]
        )
        rest = [piece for name, strip in others for piece in (html.paragraph(f"{name} layers", "muted"), strip)]
        yield html.joined([shown, html.details("by early and by deep layers alone", *rest) if rest else ""])


def _strip(blame: Blame, columns: dict[str, np.ndarray], query: str, rows: np.ndarray) -> str:
    """The mistake and the neighbours in some rows of the table."""
    pictures = [
        _picture(
            blame,
            blame.independent.values[columns["neighbour"][row]],
            columns,
            row,
            "neighbour_",
            f"similarity {number(columns['similarity'][row])}",
        )
        for row in rows
    ]
    return f'<div class="thumbs">{html.joined([query, *pictures])}</div>'


def _picture(blame: Blame, values: np.ndarray, columns: dict[str, np.ndarray], row: int, whose: str, note: str) -> str:
    """An image with its true class, and what it was taken for."""
    told = said(blame, *(int(columns[f"{whose}{name}"][row]) for name in ("label", "prediction")))
    return html.picture(image_file(values), told, note)


def said(blame: Blame, label: int, prediction: int) -> str:
    """The true class, and what a member took it for."""
    true = blame.classes[label]
    return true if label == prediction else f"{true} → {blame.classes[prediction]}"
