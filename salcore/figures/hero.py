"""One sample in one figure: what two members say, and what the ensemble says."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.part import Kind
from salcore.figures.canvas import BLUE, INK, MUTED, png
from salcore.figures.charts import class_name
from salcore.figures.choose import extremes, representative
from salcore.figures.colour import DIVERGING, displayable, signed_scale
from salcore.figures.excerpt import excerpt
from salcore.figures.inputs import Inputs, load_inputs
from salcore.figures.maps import shown, t_map
from salcore.figures.series import MOST_LINES, feature_ranges, outline, own_ranges, traces, within
from salcore.figures.signs import ROOT_M, SIGMA
from salcore.figures.words import GAP, LINE, SIZE, drawable, flow, levels, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from salcore.runs import Run

WORDS = 60
"""Words of a text that are drawn."""
MEASURE, MARGIN, TITLE = 640.0, 14.0, 26.0
"""Points: width of a text, what is left free beside it, and height of a line of title."""


def hero(run: "Run", method: str | None = None, position: int | None = None) -> bytes:
    """A wide PNG: one sample, the maps of two members that disagree, the mean map and the t map.

    By default of the run's first method and its sample of highest SNR. Maps of images are summed over channels. Without
    the data set there is no picture of the sample, and words are numbers. Raises ValueError where no map is finite.
    """
    method = method or run.methods[0]
    place = representative(run.snr(method), 1)[0] if position is None else position
    inputs, found = load_inputs(run), shown(run, method, place)
    if found is None:
        raise ValueError(f"`position`: expected a sample of which {method} has a finite map, got {place}")
    maps, pair = found.maps, extremes(found.maps)
    label = class_name(inputs.classes, int(run.column(method, "label")[place]))
    titles = (
        f"{label}\nthe {inputs.nouns.sample}",
        *(f"member {found.members[m]} says\n{method} of one network" for m in (pair[0], pair[-1])),
        f"{len(maps)} members agree on\nmean map",
        f"how sure that is\nt map: mean / ({SIGMA} / {ROOT_M})",
    )
    drawn = (maps[pair[0]], maps[pair[-1]], maps.mean(axis=0), t_map(maps))
    return png(_DRAWN[inputs.kind](inputs, place, drawn, titles), dpi=120)


def _image_row(inputs: Inputs, place: int, maps: Sequence[np.ndarray], titles: Sequence[str]) -> "Figure":
    image = inputs.values(place)

    def draw(axes: "Axes") -> None:
        assert image is not None, "is drawn where there is one"
        axes.imshow(displayable(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")

    return _row(None if image is None else draw, maps, titles)


def _series_row(inputs: Inputs, place: int, maps: Sequence[np.ndarray], titles: Sequence[str]) -> "Figure":
    """Features as lines, many of them as shades, and maps (F, T) beside; told cells are framed where they are known."""
    values, told = inputs.values(place), inputs.informative(place)

    def draw(axes: "Axes") -> None:
        assert values is not None, "is drawn where there is one"
        assert inputs.data is not None, "values are of data"
        if len(values) > MOST_LINES:
            shares = within(values, feature_ranges(inputs.data.evaluation))
            axes.imshow(shares, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto",
                        extent=(0, shares.shape[1], len(shares), 0))  # fmt: skip
        else:
            for x, y in traces(within(values, own_ranges(values))):
                axes.plot(x, y, color=BLUE, linewidth=1.2)
            axes.set_xlim(0, values.shape[1])
            axes.set_ylim(len(values), 0)

    figure = _row(None if values is None else draw, maps, titles, extent=(0, maps[0].shape[1], len(maps[0]), 0))
    edges = () if told is None else outline(told)
    for axes in figure.axes:
        for (x0, y0), (x1, y1) in edges:
            axes.plot([x0, x1], [y0, y1], color="white", linewidth=3.0, zorder=2)
            axes.plot([x0, x1], [y0, y1], color=INK, linewidth=1.2, zorder=3)
    return figure


def _text_rows(inputs: Inputs, place: int, maps: Sequence[np.ndarray], titles: Sequence[str]) -> "Figure":
    """The same words below one another, coloured by each map; of a long text an excerpt that the mean map chooses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    query, words = inputs.query(place), inputs.words(place) or list(map(str, range(1, len(maps[0]) + 1)))
    chosen = [*range(query), *excerpt(np.abs(maps[2]), query, WORDS)]
    words = drawable([*words, GAP])  # -1, what is left out, is the last of them
    told = [words[i] for i in chosen]
    high = LINE * len(flow(told, MEASURE))
    width, height = MEASURE + 2 * MARGIN, 2 * MARGIN + SIZE + len(maps) * (TITLE + high)
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        MARGIN / width, 1 - MARGIN / height, titles[0].partition("\n")[0], fontsize=12, color=INK, va="top",
        parse_math=False,
    )  # fmt: skip
    for row, (values, title) in enumerate(zip(maps, titles[1:], strict=True)):
        bottom = height - MARGIN - SIZE - (row + 1) * (TITLE + high)
        axes = figure.add_axes((MARGIN / width, bottom / height, MEASURE / width, high / height))
        axes.axis("off")
        head, _, rest = title.partition("\n")
        axes.set_title(f"{head}: {rest}", fontsize=9.5, color=MUTED, loc="left", pad=4)
        scale = signed_scale(values)
        write(axes, told, np.append(levels(values, scale), 0)[chosen], scale, MEASURE)
    return figure


def _row(
    draw: "Callable[[Axes], None] | None",
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    extent: tuple[float, float, float, float] | None = None,
) -> "Figure":
    """A sample, if there is a way to draw it, and its maps beside one another, each under its title.

    Each map has its own symmetric colours: the pattern is compared, not the scale. One with an `extent` fills its axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = 0 if draw is None else 1
    figure = Figure(figsize=(2.35 * (len(maps) + first), 2.85), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(maps) + first)
    if draw is not None:
        draw(axes[0])
        _finish(axes[0], titles[0])
    for place, values, title in zip(axes[first:], maps, titles[1:], strict=True):
        scale = signed_scale(values)
        filling = {} if extent is None else {"extent": extent, "aspect": "auto"}
        place.imshow(values, cmap=DIVERGING, vmin=scale.low, vmax=scale.high, interpolation="nearest", **filling)
        _finish(place, title)
    return figure


def _finish(axes: "Axes", title: str) -> None:
    head, _, rest = title.partition("\n")
    axes.set_title(head, fontsize=12, color=INK, pad=6, parse_math=False)
    axes.set_xlabel(rest, fontsize=9.5, color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


_DRAWN: dict[Kind, Callable[[Inputs, int, Sequence[np.ndarray], Sequence[str]], "Figure"]] = {
    "images": _image_row, "series": _series_row, "text": _text_rows,
}  # fmt: skip
