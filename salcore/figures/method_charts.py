"""Charts of methods and networks side by side: names and estimates in, a matplotlib figure out."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.canvas import BLUE, CATEGORIES, INK, MUTED, ROW, WIDTH, columns_for, legend, name_rows, sheet
from salcore.figures.labels import label_dots
from salcore.statistics import Estimate, null

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 30
"""Letters of a name beside a row of `grouped`, where networks and their settings are named."""
STROKES = ("-", "--", ":")
"""Of lines beyond the tenth, which use the colours again."""
SHARE = 0.7
"""Share of a row's height that the dots of its groups take."""


def method_snr(names: Sequence[str], debiased: Sequence[Estimate], raw: Sequence[float], members: int) -> "Figure":
    """Debiased SNR of each method with its 95 % interval over members, beside the raw SNR and that of pure noise."""
    figure, axes = sheet(WIDTH, 1.3 + ROW * max(6, len(names)))
    rows = range(len(names))
    for row, estimate in zip(rows, debiased, strict=True):
        _whisker(axes, estimate, row, BLUE)
    axes.plot([e.value for e in debiased], rows, "o", color=BLUE, markersize=8, label="debiased, with 95 % interval")
    axes.plot(raw, rows, "o", color=MUTED, markerfacecolor="none", markersize=7, label="raw")
    axes.axvline(null(members), color=MUTED, linestyle="--", linewidth=1, label=f"raw, pure noise: {null(members):.2f}")
    name_rows(axes, names)
    axes.set_xlim(left=0)
    axes.set_xlabel("SNR")
    legend(figure)
    return figure


def mean_map_snr(names: Sequence[str], debiased: Sequence[float], members: int) -> "Figure":
    """What averaging brings: the SNR of a mean map over m members, sqrt(m) times the debiased one."""
    figure, axes = sheet(WIDTH, 1.3 + max(6, len(names)) * ROW)
    grid = np.geomspace(1, 8 * members, 60)
    for place, (name, value) in enumerate(zip(names, debiased, strict=True)):
        colour, stroke = _colour(place), STROKES[place // len(CATEGORIES) % len(STROKES)]
        axes.plot(grid, np.sqrt(grid) * value, color=colour, linewidth=2, linestyle=stroke, label=name)
        axes.plot([members], [np.sqrt(members) * value], "o", color=colour, markersize=7)
    axes.axvline(members, color=INK, linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"members (dashed: this run's {members})")
    axes.set_ylabel("SNR of the mean map")
    legend(figure)
    return figure


def ssim_by_snr(
    names: Sequence[str], snr: Sequence[Estimate], ssim: Sequence[float], label: str = "SNR at 30 members"
) -> "Figure":
    """SSIM to the mean map against SNR, one named dot per method (Woerl et al., Fig. 5).

    Lines are the intervals of the SNR, which `label` names.
    """
    figure, axes = sheet(WIDTH, 3.8)
    for place, (estimate, height) in enumerate(zip(snr, ssim, strict=True)):
        _whisker(axes, estimate, height, _colour(place))
        axes.plot([estimate.value], [height], "o", color=_colour(place), markersize=8)
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(label)
    axes.set_ylabel("SSIM to the mean map")
    shown = [place for place, e in enumerate(snr) if np.isfinite(e.value) and np.isfinite(ssim[place])]
    label_dots(figure, [(snr[place], ssim[place]) for place in shown], [names[place] for place in shown])
    return figure


def grouped(
    names: Sequence[str],
    groups: Mapping[str, Sequence[Estimate]],
    paper: Mapping[str, Sequence[float | None]] | None = None,
    label: str = "SNR",
) -> "Figure":
    """One row per name, one dot with its interval per group: a table of methods by networks as a chart.

    `paper` holds numbers to compare with, as crosses: beside the dots of the group of the same name, else in the middle
    of the row. What is unknown, NaN or None, is not drawn.
    """
    figure, axes = sheet(WIDTH, 1.2 + ROW * max(1.0, 0.55 * len(groups)) * max(3, len(names)))
    places = dict(zip(groups, _lanes(len(groups)), strict=True))
    for place, (group, estimates) in enumerate(groups.items()):
        rows = np.arange(len(names)) + places[group]
        for row, estimate in zip(rows, estimates, strict=True):
            _whisker(axes, estimate, row, _colour(place))
        axes.plot([e.value for e in estimates], rows, "o", color=_colour(place), markersize=7, label=group)
    for place, (group, values) in enumerate((paper or {}).items()):
        known = np.array([np.nan if value is None else value for value in values], float)
        told = group if group not in places else "paper" if place == 0 else None
        axes.plot(known, np.arange(len(names)) + places.get(group, 0.0), "x", color=INK, markersize=7, label=told)
    name_rows(axes, names, LONGEST)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]) if _reaches_below_0(groups) else 0.0)
    axes.set_xlabel(label)
    legend(figure)
    return figure


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[Estimate]],
    x_label: str,
    *,
    dashed: Collection[str] = (),
    log2: bool = False,
    y_label: str = "SNR",
) -> "Figure":
    """SNR, or another number, against a property, one line with error bars per series (Woerl et al., Fig. 6).

    Every series has one estimate per value of `x`; a NaN is left out of its line. Those named in `dashed` are dashed.
    Series whose names differ only there are told apart by the stroke: colours go by place in their kind.
    """
    figure, axes = sheet(WIDTH, 3.2 + 0.22 * len(series) / columns_for(series))
    x_all, kinds = np.asarray(x, float), {True: 0, False: 0}
    for name, estimates in series.items():
        is_dashed = name in dashed
        colour, kinds[is_dashed] = _colour(kinds[is_dashed]), kinds[is_dashed] + 1
        values = np.array([estimate.value for estimate in estimates], float)
        ends = np.array([(estimate.low, estimate.high) for estimate in estimates], float)
        known = np.isfinite(values)
        axes.plot(
            x_all[known], values[known], color=colour, linewidth=2, linestyle="--" if is_dashed else "-", marker="o",
            markersize=5, markerfacecolor="none" if is_dashed else colour, label=name,
        )  # fmt: skip
        axes.vlines(x_all[known], *ends[known].T, color=colour, linewidth=1.5, alpha=0.6)
    if log2:
        axes.set_xscale("log", base=2)
    axes.set_xticks(x_all, [f"{value:g}" for value in x_all])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    legend(figure)
    return figure


def _whisker(axes: "Axes", estimate: Estimate, height: float, colour: str) -> None:
    axes.plot(
        [estimate.low, estimate.high], [height, height], color=colour, linewidth=2.5, alpha=0.55, solid_capstyle="butt"
    )


def _lanes(count: int) -> np.ndarray:
    """Heights of `count` groups within their row, around 0."""
    return SHARE * (np.arange(count) - (count - 1) / 2) / max(1, count)


def _reaches_below_0(groups: Mapping[str, Sequence[Estimate]]) -> bool:
    return any(e.low < 0 or e.value < 0 for estimates in groups.values() for e in estimates)


def _colour(place: int) -> str:
    return CATEGORIES[place % len(CATEGORIES)]
