"""Parameter-space saliency as pictures: profiles by layer, and curves over the number of filters."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.blame.results import Blame, column
from salcore.figures.canvas import BLUE, GREEN, INK, MUTED, RED, legend, sheet
from salcore.parameter_space.layers import by_depth, sorted_within_layers
from salcore.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"most": RED, "random": BLUE, "least": GREEN, "salient": RED}
WIDE = 10.4
"""Inches of a profile over all layers."""


def profile(blame: Blame, name: str, colour: str, label: str, *, logarithmic: bool = False) -> "Figure":
    """A mean profile of every filter, each layer's in descending order and as wide as any other (Fig. 1 and 2).

    `name` is a column of the table of filters. Members are averaged after sorting, as their filters do not correspond.
    """
    table = blame.filters
    layers = by_depth(table)
    rows = [sorted_within_layers(column(blame.table("filters", member), name), table) for member in blame.members]
    values = np.mean([row for row in rows if np.isfinite(row).all()] or rows, axis=0)  # some make no mistake
    figure, axes = sheet(WIDE, 2.6)
    start = 0
    for place, (_, where) in enumerate(layers):
        count = where.stop - where.start
        across = place + (np.arange(count) + 0.5) / count
        axes.fill_between(across, values[start : start + count], color=colour, alpha=0.55, linewidth=0, step="mid")
        axes.plot(across, values[start : start + count], color=colour, linewidth=0.8)
        start += count
    step = -(-len(layers) // 10)
    axes.set_xticks(np.arange(len(layers))[::step] + 0.5, [name for name, _ in layers][::step], rotation=20, ha="right")
    axes.set_xlim(0, len(layers))
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_ylabel(label)
    return figure


def curves(
    budgets: Sequence[int],
    series: Mapping[str, Sequence[Estimate]],
    label: str,
    *,
    reference: Estimate | None = None,
    total: int,
) -> "Figure":
    """A measure against the number of filters, one line with error bars for each choice (Fig. 3 and 6).

    `reference` is what updating the whole network does, as a dashed line; `total` how many filters there are.
    """
    figure, axes = sheet(5.0, 3.4)
    for name, estimates in series.items():
        values = [estimate.value for estimate in estimates]
        ends = np.array([(estimate.low, estimate.high) for estimate in estimates]).T
        axes.plot(budgets, values, "o-", color=COLOURS[name], linewidth=2, markersize=4, label=f"{name} salient"
                  if name != "random" else "random")  # fmt: skip
        axes.fill_between(budgets, *ends, color=COLOURS[name], alpha=0.15, linewidth=0)
    if reference is not None:
        axes.axhline(reference.value, color=INK, linestyle="--", linewidth=1.2, label="whole network")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel(f"filters (of {total:,})")
    axes.set_ylabel(label)
    legend(figure)
    return figure


def agreement(names: Sequence[str], same: Sequence[float], other: Sequence[float], label: str) -> "Figure":
    """How alike members are on the same mistake, beside on different ones: two dots for each of the `names`."""
    figure, axes = sheet(5.0, 1.4 + 0.4 * len(names))
    rows = np.arange(len(names))
    axes.plot(same, rows, "o", color=RED, markersize=8, label="same mistake")
    axes.plot(other, rows, "o", color=MUTED, markersize=8, label="different mistakes")
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    legend(figure)
    return figure
