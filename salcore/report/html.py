"""The few pieces of HTML that pages are made of. Functions take plain values and return markup that is safe to join."""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape as _escape
from typing import Any

from salcore.figures.colour import Scale, gradient_css
from salcore.figures.signs import DASH, MINUS, number, signed
from salcore.report.style import STYLE

PNG = b"\x89PNG"
"""First bytes of a PNG file."""


def escape(value: Any) -> str:
    """A value as text."""
    return _escape(str(value))


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """A whole document that asks nothing of any server; `style` is CSS beyond that of all pages.

    A page travels further than the run it tells of: users and passwords are taken out of every URI in it.
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    )
    content = re.sub(r"://[^/\s'\"<>]*@", "://", joined(body))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{content}\n</main></body></html>\n'


def joined(pieces: Iterable[str]) -> str:
    """Pieces of markup one after the other, a line each."""
    return "\n".join(piece for piece in pieces if piece)


def section(name: str, title: str, *pieces: str) -> str:
    """A part of the page with a heading that can be linked to."""
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>\n{joined(pieces)}\n</section>'


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph of plain text; `kind` is its CSS class."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def details(summary: str, *pieces: str) -> str:
    """A part that is opened by a tap."""
    return f"<details><summary>{escape(summary)}</summary>\n{joined(pieces)}\n</details>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that scrolls sideways where it is too wide. Columns of mostly numbers stand right, others left."""
    texts = [[number(value, 3) if isinstance(value, float) else str(value) for value in row] for row in rows]
    right = [2 * sum(_is_number(row[column]) for row in texts) > len(texts) for column in range(len(head))]
    lines = [_row("td", row, right) for row in texts]
    top = f"<thead>{_row('th', head, right)}</thead>"
    return f'<div class="scroll"><table>{top}<tbody>\n{joined(lines)}\n</tbody></table></div>'


def pairs(values: Iterable[tuple[str, Any]]) -> str:
    """Names and values below one another."""
    rows = "\n".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in values)
    return f'<div class="scroll"><table class="pairs"><tbody>\n{rows}\n</tbody></table></div>'


def code(text: str) -> str:
    """Lines to copy."""
    return f"<pre><code>{escape(text)}</code></pre>"


def chart(svg: str, caption: str, *, wide: bool = False) -> str:
    """A chart with its caption; a `wide` one is as wide as the page."""
    return f'<figure class="chart{" wide" * wide}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def charts(*figures: str) -> str:
    """Charts beside each other where there is room."""
    return f'<div class="charts">{joined(figures)}</div>'


def picture(file: bytes, caption: str, note: str = "", scale: Scale | None = None, overlay: str = "") -> str:
    """A small picture, enlarged without smoothing, with its caption and, for a map, its colour bar.

    `overlay` is markup that is laid over it.
    """
    data = base64.b64encode(file).decode()
    kind = "png" if file.startswith(PNG) else "jpeg"
    image = f'<img alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
    return figure(f'<div class="frame">{image}{overlay}</div>' if overlay else image, caption, note, scale)


def figure(content: str, caption: str, note: str = "", scale: Scale | None = None) -> str:
    """Markup with its caption and, for a map, its colour bar."""
    bar = "" if scale is None else _bar(scale)
    note = f"<small>{escape(note)}</small>" if note else ""
    return f'<figure class="picture">{content}{bar}<figcaption>{escape(caption)}{note}</figcaption></figure>'


def _bar(scale: Scale) -> str:
    ends = signed(f"{abs(scale.low):.2g}", scale.low), f"{scale.high:.2g}"
    middle = "<span>0</span>" if scale.low < 0 else ""
    ticks = f"<span>{ends[0]}</span>{middle}<span>{ends[1]}</span>"
    return f'<div class="bar" style="background:{gradient_css(scale)}"></div><div class="ticks">{ticks}</div>'


def _row(tag: str, cells: Sequence[str], right: Sequence[bool]) -> str:
    kinds = [' class="n"' * is_right for is_right in right]
    return f"<tr>{''.join(f'<{tag}{k}>{escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=True))}</tr>"


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in ("+", MINUS, DASH)
