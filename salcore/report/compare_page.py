"""A comparison as a table for a terminal, and as a page."""

import math
from collections.abc import Iterator

from salcore.figures.canvas import svg
from salcore.figures.charts import differences
from salcore.figures.signs import DASH, PERCENT, number
from salcore.report import html
from salcore.report.compare import Comparison, Difference
from salcore.report.findings import Finding
from salcore.report.sections import answers

POINTS = " points"
HEAD = ("quantity", "first", "second", "difference", "95 % over members", "95 % over samples", "samples")
ABOUT = (
    "Over members: jackknife, the members of the runs taken as independent; it answers whether two new ensembles would "
    "differ so. Over samples: paired bootstrap over samples; it answers whether other samples would show the same, for "
    "these very members. Each leaves out the other's share of chance."
)


def comparison_table(found: Comparison) -> str:
    """The differences as aligned text, notes below."""
    blocks = []
    for name in found.runs[1:]:
        rows = [HEAD, *(_row(each) for each in found.differences if each.runs[1] == name)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        lines = [
            "  ".join(_aligned(cell, width, place) for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        blocks.append("\n".join([f"first: {found.runs[0]}   second: {name}", *(line.rstrip() for line in lines)]))
    return "\n\n".join([*blocks, *found.notes, ABOUT])


def comparison_page(found: Comparison) -> str:
    """The comparison as a self-contained page."""
    return html.page(" and ".join(found.runs), _body(found))


def verdict(each: Difference) -> Finding:
    """What one difference says, in a sentence: clear if its interval over members leaves 0 out."""
    low, high = each.members.low, each.members.high
    first, second = each.runs
    if math.isnan(low):
        told = "Too few members to tell whether new ensembles would differ so."
    elif low > 0 or high < 0:
        more = "higher" if low > 0 else "lower"
        told = f"Clearly {more} in {second}: new ensembles are expected to differ the same way."
    else:
        told = "Not told apart: the interval over members holds 0."
    values = f"{_shown(each, each.values[0])} in {first}, {_shown(each, each.values[1])} in {second}"
    change = f"{values}; difference {_signed(each, each.members.value)}"
    interval = "" if math.isnan(low) else f" ({_ends(each, low, high)} over members)"
    return Finding(question=each.quantity, answer=f"{told} {change}{interval}.", caution=not (low > 0 or high < 0))


def _body(found: Comparison) -> Iterator[str]:
    yield f"<header><h1>{html.escape(' and '.join(found.runs))}</h1>"
    yield html.paragraph("Ensembles side by side, on the samples that both explained.", "lead")
    yield html.joined(html.paragraph(note, "warning") for note in found.notes)
    yield "</header>"
    for place, name in enumerate(found.runs[1:]):
        chosen = [each for each in found.differences if each.runs[1] == name]
        yield html.section(
            f"run-{place}",
            f"{name}, beside {found.runs[0]}",
            answers(map(verdict, chosen)),
            html.charts(*_charts(chosen, place)),
            html.table(HEAD, map(_row, chosen)),
        )
    yield html.paragraph(ABOUT, "muted")


def _charts(chosen: list[Difference], place: int) -> Iterator[str]:
    """SNR and accuracy apart: they have different units."""
    for kind in ("Debiased SNR", "Accuracy"):
        group = [each for each in chosen if each.quantity.startswith(kind)]
        if group:
            names = [each.quantity.removeprefix("Debiased SNR, ").removeprefix("Accuracy of ") for each in group]
            scale = 100.0 if kind == "Accuracy" else 1.0
            label = f"{kind}: difference" + " (points)" * (kind == "Accuracy")
            figure = differences(names, [e.members for e in group], [e.over_samples for e in group], label, scale)
            caption = f"{group[0].runs[1]} minus {group[0].runs[0]}: right of 0 it is higher."
            yield html.chart(svg(figure, f"difference-{place}-{kind[:3]}"), caption)


def _row(each: Difference) -> tuple[str, ...]:
    return (
        each.quantity,
        *(_shown(each, value) for value in each.values),
        _signed(each, each.members.value),
        _ends(each, each.members.low, each.members.high),
        _ends(each, *each.over_samples),
        str(each.samples),
    )


def _ends(each: Difference, low: float, high: float) -> str:
    return DASH if math.isnan(low) else f"{_signed(each, low).removesuffix(POINTS)} to {_signed(each, high)}"


def _shown(each: Difference, value: float) -> str:
    return f"{number(100 * value)}{PERCENT}" if _is_share(each) else number(value, 3)


def _signed(each: Difference, value: float) -> str:
    """A difference with its sign; of shares in percentage points."""
    text = f"{number(100 * value)}{POINTS}" if _is_share(each) else number(value, 3)
    return f"+{text}" if value >= 0 else text


def _is_share(each: Difference) -> bool:
    return each.quantity.startswith("Accuracy")


def _aligned(cell: str, width: int, place: int) -> str:
    return cell.ljust(width) if place == 0 else cell.rjust(width)
