"""The sheet every chart is drawn on: sizes, colours, and how a figure becomes SVG or PNG.

Charts are made with matplotlib's object interface, so that no global figure exists. In an SVG the colours of ink and
paper become CSS variables: the same chart then fits a light and a dark page.
"""

import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#66727e", "#d3d9df"
BLUE, RED, GREEN = "#2f73c9", "#d0553f", "#3a9a6b"
CSS_COLOURS = {INK: "--ink", MUTED: "--muted", GRID: "--grid", BLUE: "--blue", RED: "--red", GREEN: "--green"}
"""Colours of charts and the CSS variables that stand for them in an SVG."""
CATEGORIES = (
    "#3b78c4", "#dd7a2e", "#3f9d63", "#cf4f52", "#8d6bc0", "#a0765a", "#d36fb2", "#7d8691", "#aaa12f", "#2fa7b5",
)  # fmt: skip
"""Colours of classes: of middling lightness, so that they are seen on white and on black; used in turn."""

WIDTH = 5.0
"""Inches, 480 CSS pixels: wide enough to read on a phone's 360, small enough for two beside each other."""
ROW = 0.34
"""Inches that a named row takes."""
LONGEST_BESIDE = 28
"""Letters of the longest name that fits a legend of two columns."""


def sheet(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of `width` by `height` inches (96 CSS pixels each) and its only axes, in the style of all charts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes


def dress(axes: "Axes") -> None:
    """No box, a light grid, labels in the colours of the page."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=10, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.label.set_fontsize(11)
    axes.yaxis.label.set_fontsize(11)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def name_rows(axes: "Axes", names: Sequence[str], longest: int = 22) -> None:
    """Names instead of numbers on the y axis, the first on top; long ones are cut, and a $ is a letter."""
    told = [name if len(name) <= longest else f"{name[: longest - 1]}…" for name in names]
    axes.set_yticks(range(len(names)), told, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def columns_for(names: Iterable[str], most: int = 2) -> int:
    """Columns of a legend in which no name is cut off."""
    return 1 if max(map(len, names), default=0) > LONGEST_BESIDE else most


def legend(figure: "Figure", columns: int = 2) -> None:
    """Above the axes, from the left edge of the figure: as wide as the figure, whatever the labels beside the axes."""
    names = figure.axes[0].get_legend_handles_labels()[1]
    if names:
        figure.legend(
            loc="outside upper left", ncols=columns_for(names, columns), frameon=False, fontsize=9.5, labelcolor=INK,
            handlelength=1.4, columnspacing=1.4, borderpad=0.1,
        )  # fmt: skip


def svg(figure: "Figure", name: str) -> str:
    """An `<svg>` element for a page: text stays text, ids start with `name`; the same bytes every time."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # What else than these settings decides how SVG is written cannot be given to savefig; they are put back.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in CSS_COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', text, count=1)


def png(figure: "Figure", dpi: int = 144) -> bytes:
    """The figure as PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
