"""A search over k and lambda as a picture: one panel per metric, each with its own scale, and standard training.

Where layers are searched too, each has a row of panels.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.figures.canvas import INK, MUTED, RED, dress
from salcore.figures.colour import SEQUENTIAL
from salcore.figures.signs import number
from salcore.search.goal import Outcome, sign
from salcore.search.record import METRICS, Record
from salcore.search.settings import layers_text
from salcore.search.table import standard_of
from salcore.search.trial import method_of
from salcore.spec import Layers, Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 4.6, 3.9
"""Inches of one panel."""
MOST_CELLS = 10
"""Values are written into the cells of a grid of at most so many columns."""


def heat_map(records: Sequence[Record], found: Outcome, spec: Spec, metrics: Sequence[str] = METRICS) -> "Figure":
    """Metrics over k (across) and lambda (up): cells of a grid, else dots with lambda on a logarithmic axis.

    The chosen setting has a red frame; a cross is a trial that failed or was stopped. A line in the colour bar is
    standard training.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    draw = _cells if spec.search.algorithm == "grid" else _dots
    layers = spec.search.layers or (None,)
    size = PANEL[0] * len(metrics), PANEL[1] * len(layers)
    figure = Figure(figsize=size, layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    standard = standard_of(records)
    panels = figure.subplots(len(layers), len(metrics), squeeze=False)
    for (row, column), axes in np.ndenumerate(panels):
        metric, tried = (
            metrics[column],
            [each for each in records if each.setting and each.setting.layers == layers[row]],
        )
        dress(axes)
        axes.grid(visible=False)
        drawn = draw(axes, tried, found, metric, _limits(records, metric))
        across, up = axis_names(spec)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_title(_head(title(metric, spec), layers[row]), fontsize=11, color=INK)
        if drawn is not None:
            _bar(figure, axes, drawn, None if standard is None else standard.metric(metric).value)
    return figure


def title(metric: str, spec: Spec) -> str:
    """What a panel shows, and which end of its scale is the better one."""
    better = "lower" if sign(metric, spec.search) < 0 else "higher"
    named = {
        "accuracy": "accuracy of a member",
        "snr_debiased": "debiased SNR of the first method",
        "faithfulness": f"{spec.search.faithfulness} of {method_of(spec)}",
    }
    return f"{named[metric]} ({better} is better)"


def axis_names(spec: Spec) -> tuple[str, str]:
    """What k and lambda are."""
    if spec.training.objective == "attention":
        return "k: share of a text's tokens that is marked", "λ: weight of the attention loss"
    return "k: share of an input that is masked", "λ: weight of the divergence"


def _head(title: str, layers: Layers | None) -> str:
    return title if layers is None else f"{title}\nlayers: {layers_text(layers)}"


def _cells(axes: "Axes", records: Sequence[Record], found: Outcome, metric: str, limits: Mapping[str, Any]) -> Any:
    """A cell for each pair of values."""
    settings = [record.setting for record in records if record.setting is not None]
    across, up = sorted({each.mask_fraction for each in settings}), sorted({each.weight for each in settings})
    cells = np.full((len(up), len(across)), np.nan)
    places = {}
    for record in records:
        if record.setting is not None:
            place = up.index(record.setting.weight), across.index(record.setting.mask_fraction)
            places[record.name] = place
            cells[place] = record.metric(metric).value if record.state == "finished" else np.nan
    if not places:
        return None
    drawn = axes.pcolormesh(np.ma.masked_invalid(cells), cmap=SEQUENTIAL, **limits)
    axes.set_xticks(np.arange(len(across)) + 0.5, [f"{value:g}" for value in across])
    axes.set_yticks(np.arange(len(up)) + 0.5, [f"{value:g}" for value in up])
    if len(across) <= MOST_CELLS:
        for (row, column), value in np.ndenumerate(cells):
            _write(axes, drawn, column + 0.5, row + 0.5, value)
    for record in records:
        if record.name in places and record.state != "finished":
            axes.plot(places[record.name][1] + 0.5, places[record.name][0] + 0.5, "x", color=MUTED, markersize=12)
    if found.chosen in places:
        row, column = places[found.chosen]
        _frame(axes, column, row)
    return drawn


def _write(axes: "Axes", drawn: Any, x: float, y: float, value: float) -> None:
    """A cell's value, in white on dark colours and in black on light ones."""
    if np.isfinite(value):
        red, green, blue, _ = drawn.cmap(drawn.norm(value))
        colour = "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "#111111"
        axes.text(x, y, number(float(value), 3), ha="center", va="center", color=colour, fontsize=10)


def _frame(axes: "Axes", column: int, row: int) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=RED, linewidth=3, clip_on=False, zorder=4))


def _dots(axes: "Axes", records: Sequence[Record], found: Outcome, metric: str, limits: Mapping[str, Any]) -> Any:
    """A dot for each trial."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    drawn = None
    finished = list(_points(records, metric))
    if finished:
        k, weight, value = (np.array(column) for column in zip(*finished, strict=True))
        drawn = axes.scatter(k, weight, c=value, s=90, cmap=SEQUENTIAL, linewidths=0, **limits)
    for record in records:
        if record.setting is None:
            continue
        at = record.setting.mask_fraction, record.setting.weight
        if record.state != "finished":
            axes.plot(*at, "x", color=MUTED, markersize=8)
        if record.name == found.chosen:
            axes.plot(*at, "o", markersize=14, markerfacecolor="none", markeredgecolor=RED, markeredgewidth=2.5)
    return drawn


def _points(records: Sequence[Record], metric: str) -> Iterator[tuple[float, float, float]]:
    for record in records:
        value = record.metric(metric).value
        if record.setting is not None and record.state == "finished" and np.isfinite(value):
            yield record.setting.mask_fraction, record.setting.weight, value


def _limits(records: Sequence[Record], metric: str) -> dict[str, Any]:
    """Ends of the colours: those of all trials' values, standard training's among them."""
    found = [record.metric(metric).value for record in records if record.state == "finished"]
    known = [value for value in found if np.isfinite(value)]
    return {"vmin": min(known), "vmax": max(known)} if known else {}


def _bar(figure: "Figure", axes: "Axes", drawn: Any, standard: float | None) -> None:
    bar = figure.colorbar(drawn, ax=axes)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)
    if standard is not None and np.isfinite(standard):
        bar.ax.axhline(standard, color=RED, linewidth=2)
        bar.ax.set_xlabel(f"standard\n{number(standard, 3)}", color=RED, fontsize=9)
