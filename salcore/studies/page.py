"""The page of a study: its table beside the paper's numbers, its figures, and the runs that it is made of."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from salcore.figures.signs import number
from salcore.report import html
from salcore.studies.row import Picture, Row, interval, verdict

if TYPE_CHECKING:
    from salcore.runs import Run

HEAD = ("what", "paper", "ours", "95 % interval", "holds", "note")


def build(study: ModuleType, rows: Iterable[Row], pictures: Iterable[Picture], runs: "Mapping[str, Run]") -> str:
    """One self-contained document."""
    return html.page(f"{study.TITLE}: {study.SOURCE}", _body(study, list(rows), pictures, runs))


def printed(rows: Iterable[Row]) -> str:
    """The table as it is printed: what, paper, ours, interval, holds."""
    cells = [HEAD[:5], *((*_cells(row)[:5],) for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(5)]
    lines = [
        "  ".join(text.ljust(width) if place in (0, 4) else text.rjust(width)
                  for place, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in cells
    ]  # fmt: skip
    return "\n".join(lines)


def _body(study: ModuleType, rows: list[Row], pictures: Iterable[Picture], runs: "Mapping[str, Run]") -> Iterator[str]:
    yield f"<header><h1>{html.escape(study.TITLE)}</h1>"
    yield html.paragraph(study.SOURCE, "lead")
    yield html.paragraph(study.ABOUT)
    yield "</header>"
    claims = [row for row in rows if row.holds is not None]
    if claims:
        kept = sum(bool(row.holds) for row in claims)
        yield html.paragraph(f"{kept} of the {len(claims)} statements that the intervals decide hold.")
    yield html.section("figures", "Figures", html.charts(*map(_figure, pictures)))
    yield html.section("numbers", "Numbers", _wrapped(html.table(HEAD, map(_cells, rows))))
    made = html.table(("ensemble", "members", "network", "data", "run"), _made(runs))
    yield html.section("runs", "Made from", _wrapped(made))


def _wrapped(table: str) -> str:
    """A table whose last column is a text of some length."""
    return f'<div class="wraps">{table}</div>'


def _figure(picture: Picture) -> str:
    if isinstance(picture.content, str):
        return html.chart(picture.content, picture.caption)
    data = base64.b64encode(picture.content).decode()
    image = f'<img style="width:100%" alt="{html.escape(picture.caption)}" src="data:image/png;base64,{data}">'
    return html.chart(image, picture.caption)


def _cells(row: Row) -> tuple[str, ...]:
    return row.what, number(row.paper, 3), number(row.ours, 3), interval(row), verdict(row), row.note


def _made(runs: "Mapping[str, Run]") -> Iterator[tuple[str, ...]]:
    for name, run in runs.items():
        yield name, str(len(run.members)), run.spec.model.name, run.spec.data.name, str(run.store)
