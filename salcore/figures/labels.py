"""Names beside dots, so placed that they cover neither each other nor a dot."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.canvas import INK
from salcore.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase

REACH = 8.0
"""Points between a dot's centre and its name."""
SIZE = 9.5


def label_dots(figure: "Figure", dots: Sequence[tuple[Estimate, float]], names: Sequence[str]) -> None:
    """Write each name at the first free side of its dot (x, y), or where it covers least if there is none.

    Free is what lies within the axes and no dot, no interval of x and no other name covers. Tried are above, below and
    both sides, and the same further away with a thin line to the dot.
    """
    figure.draw_without_rendering()  # the layout decides where dots are
    axes = figure.axes[0]
    taken = [box for x, y in dots for box in _covered(axes, x, y)]
    for (x, y), name in zip(dots, names, strict=True):
        tried = [(_write(axes, (x.value, y), name, *side), side) for side in _sides()]
        boxes = [text.get_window_extent() for text, _ in tried]
        costs = [sum(_overlap(box, other) for other in taken) + 4 * _outside(box, axes.bbox) for box in boxes]
        best = int(np.argmin(costs))
        for text, _ in tried:
            text.remove()
        _write(axes, (x.value, y), name, *tried[best][1], line=max(map(abs, tried[best][1][0])) > 2 * REACH)
        taken.append(boxes[best])


def _write(
    axes: "Axes", dot: tuple[float, float], name: str, offset: tuple[float, float], side: str, *, line: bool = False
) -> "Annotation":
    text = axes.annotate(
        name, dot, offset, textcoords="offset points", ha=side, va="center", fontsize=SIZE, color=INK,
        arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.5} if line else None,
    )  # fmt: skip
    text.set_in_layout(False)
    return text


def _sides() -> Iterator[tuple[tuple[float, float], str]]:
    """Offsets in points with the alignment of the text there, the best first."""
    for far in (0.0, 14.0, 28.0, 42.0):
        for height in (11.0 + far, -11.0 - far):
            yield from (((0.0, height), "center"), ((REACH, height), "left"), ((-REACH, height), "right"))
        yield from (((REACH + far, 0.0), "left"), ((-REACH - far, 0.0), "right"))


def _covered(axes: "Axes", x: Estimate, y: float) -> Iterator["BboxBase"]:
    """Boxes in pixels around a dot and the line of its interval."""
    from matplotlib.transforms import Bbox

    centre, low, high = axes.transData.transform([(x.value, y), (x.low, y), (x.high, y)])
    yield Bbox.from_extents(*(centre - 6.0), *(centre + 6.0))
    if np.isfinite([x.low, x.high]).all():
        yield Bbox.from_extents(low[0], low[1] - 2.0, high[0], high[1] + 2.0)


def _overlap(a: "BboxBase", b: "BboxBase") -> float:
    """Area in square pixels that two boxes share."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, wide) * max(0.0, high)


def _outside(box: "BboxBase", frame: "BboxBase") -> float:
    """Area of a box that lies outside the frame."""
    return box.width * box.height - _overlap(box, frame)
