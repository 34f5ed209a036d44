"""Series on a page: features below one another, time to the right, in the series and in its maps alike."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from salcore.data.part import Data
from salcore.figures.colour import LARGEST_SIDE, Scale, map_png, masked_png
from salcore.figures.inputs import Inputs
from salcore.figures.maps import Panel, Shown, panels
from salcore.figures.series import MOST_LINES, feature_ranges, fit, fit_within, outline, own_ranges, traces, within
from salcore.report import html
from salcore.report.image_view import side_within

GREY = Scale(low=0.0, high=1.0, palette="gray")
STYLE = """
.series{grid-template-columns:repeat(4,minmax(0,1fr))}
.thumbs.series{grid-template-columns:repeat(4,minmax(0,1fr))}
.series .picture img,.series .picture>svg{width:100%;aspect-ratio:8/5;object-fit:fill;display:block;border-radius:3px}
.frame{position:relative}
.frame>svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.trace{background:var(--card);outline:1px solid var(--line);outline-offset:-1px}
.series path{fill:none;stroke:var(--blue);stroke-width:1.4;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.series .rows{stroke:var(--line);stroke-width:1}
.series .told{stroke:#16191d;stroke-width:1.6}
.series .halo{stroke:#fff;stroke-width:4}
@media (max-width:720px){.strip.series,.thumbs.series{grid-template-columns:repeat(2,minmax(0,1fr))}}
""".replace("\n", "")


@dataclass(frozen=True)
class SeriesView:
    """`salcore.report.views.View` of series: lines or shades of the features, and maps (F, T) that fill the same frame.

    Cells that were made to tell the class are framed, where they are known. Padding is cut off.
    """

    inputs: Inputs
    style = STYLE

    def described(self, data: Data) -> str:
        """The `data` in words."""
        features, steps = data.shape
        lengths = data.evaluation.lengths
        shortest = steps if lengths is None else int(lengths[data.evaluation.index].min())
        told = f"{steps}" if shortest == steps else f"{shortest} to {steps}"
        return f"series of {features} feature{'s' * (features != 1)} over {told} steps"

    def notes(self) -> Iterator[str]:
        """What is where in a picture, how features are scaled, and what is framed."""
        if self.inputs.shape[0] > MOST_LINES:
            drawn = "in shades between the 1st and the 99th percentile of its values over samples and time"
        else:
            drawn = "as a line between its own lowest and highest value there"
        yield (
            "In every picture features stand below one another, the first on top, and time runs to the right; the "
            f"padding of short series is cut off. Each feature of a series is drawn {drawn}."
        )
        if self.inputs.data is not None and self.inputs.data.evaluation.informative is not None:
            yield "Framed: the cells that were made to tell the class."

    def sample(self, position: int) -> str:
        """The series at its `position`."""
        values = self.inputs.values(position)
        if values is None:
            return ""
        steps = values.shape[1]
        return self._series(position, values, "series", f"{steps} step{'s' * (steps != 1)}")

    def maps(self, position: int, found: Shown, room: int) -> Iterator[str]:
        """A picture of each map; of long series, or in little room, the mean over stretches."""
        side, frame = side_within(room), self._frame(position)
        for panel in panels(found):
            yield html.picture(_file(panel, side), panel.caption, panel.note, panel.scale, overlay=frame)

    def strip(self, pieces: Sequence[str]) -> str:
        """Four of the `pieces` beside one another."""
        return f'<div class="strip series">{html.joined(pieces)}</div>'

    def thumbnails(self, positions: Sequence[int], captions: Sequence[tuple[str, str]]) -> str:
        """The series at these `positions` with their `captions`."""
        pairs = zip(positions, captions, strict=True)
        pieces = (self._series(p, v, *told) for p, told in pairs if (v := self.inputs.values(p)) is not None)
        return f'<div class="thumbs series">{html.joined(pieces)}</div>'

    @cached_property
    def _ranges(self) -> np.ndarray:
        assert self.inputs.data is not None, "only series that were found have ranges"
        return feature_ranges(self.inputs.data.evaluation)

    def _series(self, position: int, values: np.ndarray, caption: str, note: str) -> str:
        if len(values) > MOST_LINES:
            shades = fit(within(values, self._ranges), LARGEST_SIDE)
            return html.picture(map_png(shades, GREY), caption, note, overlay=self._frame(position))
        shares, told = within(values, own_ranges(values)), self.inputs.informative(position)
        rows = _path([((0, y), (shares.shape[1], y)) for y in range(1, len(shares))], "rows")
        lines = _path((zip(x, y, strict=True) for x, y in traces(shares)), "line")
        border = "" if told is None else _border(told)
        return html.figure(_svg(shares.shape, rows + lines + border, "trace"), caption, note)

    def _frame(self, position: int) -> str:
        """What is laid over a map: the border of the informative cells; nothing where they are not known."""
        told = self.inputs.informative(position)
        return "" if told is None else _svg(told.shape, _border(told), "over")


def _file(panel: Panel, side: int) -> bytes:
    if panel.mask is None:
        return map_png(fit(panel.values, side), panel.scale, side)
    return masked_png(*fit_within(panel.values, panel.mask, side), panel.scale, side)


def _border(told: np.ndarray) -> str:
    """The border of a region, dark on light so that it is seen on every colour."""
    edges = outline(told)
    return _path(edges, "halo") + _path(edges, "told")


def _svg(shape: tuple[int, ...], content: str, kind: str) -> str:
    """A drawing in units of cells, stretched to whatever holds it."""
    box = f'viewBox="0 0 {shape[1]} {shape[0]}" preserveAspectRatio="none"'
    return f'<svg class="{kind}" {box} aria-hidden="true">{content}</svg>'


def _path(lines: Iterable[Iterable[tuple[float, float]]], kind: str) -> str:
    """Lines through points (x, y)."""
    told = "".join("M" + " ".join(f"{x:g},{round(float(y), 2):g}" for x, y in line) for line in lines)
    return f'<path class="{kind}" d="{told}"/>'
