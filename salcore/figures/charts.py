"""Charts of an ensemble's numbers: arrays in, a matplotlib figure out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.canvas import BLUE, CATEGORIES, INK, MUTED, RED, sheet
from salcore.statistics import Estimate, null

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0
"""Inches, 480 CSS pixels: wide enough to read on a phone's 360, small enough for two beside each other."""
ROW = 0.34
MOST_CLASSES = 20
MOST_DOTS = 1500
"""Vector dots of one chart; of more, dots are drawn as one embedded picture."""
GOLDEN = 0.6180339887


def method_snr(names: Sequence[str], debiased: Sequence[Estimate], raw: Sequence[float], members: int) -> "Figure":
    """Debiased SNR of each method with its 95 % interval over members, beside the raw SNR and that of pure noise."""
    figure, axes = sheet(WIDTH, 1.3 + ROW * max(6, len(names)))
    rows = np.arange(len(names))
    for row, estimate in zip(rows, debiased, strict=True):
        axes.plot(
            [estimate.low, estimate.high], [row, row], color=BLUE, linewidth=2.5, alpha=0.55, solid_capstyle="butt"
        )
    axes.plot([e.value for e in debiased], rows, "o", color=BLUE, markersize=8, label="debiased, with 95 % interval")
    axes.plot(raw, rows, "o", color=MUTED, markerfacecolor="none", markersize=7, label="raw")
    axes.axvline(null(members), color=MUTED, linestyle="--", linewidth=1, label=f"raw, pure noise: {null(members):.2f}")
    _rows(axes, names)
    axes.set_xlim(left=0)
    axes.set_xlabel("SNR")
    _legend(figure)
    return figure


def mean_map_snr(names: Sequence[str], debiased: Sequence[float], members: int) -> "Figure":
    """What averaging brings: the SNR of a mean map over m members, sqrt(m) times the debiased one."""
    figure, axes = sheet(WIDTH, 1.3 + max(6, len(names)) * ROW)
    grid = np.geomspace(1, 8 * members, 60)
    for place, (name, value) in enumerate(zip(names, debiased, strict=True)):
        colour = CATEGORIES[place % len(CATEGORIES)]
        axes.plot(grid, np.sqrt(grid) * value, color=colour, linewidth=2, label=name)
        axes.plot([members], [np.sqrt(members) * value], "o", color=colour, markersize=7)
    axes.axvline(members, color=INK, linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"members (dashed: this run's {members})")
    axes.set_ylabel("SNR of the mean map")
    _legend(figure)
    return figure


def snr_by_class(snr: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> "Figure":
    """SNR of every sample by class, with the mean over all samples as a dashed line (Woerl et al., Fig. 4).

    `snr` and `labels` are `(N,)`; a label of -1 is unlabelled. Of more than 20 classes the ten of lowest and the ten of
    highest median are shown, as boxes from the first to the third quartile.
    """
    present = [int(c) for c in np.unique(labels) if np.isfinite(snr[labels == c]).any()]
    groups = {c: snr[(labels == c) & np.isfinite(snr)] for c in present}
    if len(present) > MOST_CLASSES:
        ranked = sorted(present, key=lambda c: float(np.median(groups[c])))
        present = ranked[: MOST_CLASSES // 2] + ranked[-MOST_CLASSES // 2 :]
        draw = _boxes
    else:
        draw = _dots
    figure, axes = sheet(WIDTH, 1.2 + ROW * max(1, len(present)))
    draw(axes, [groups[c] for c in present], [CATEGORIES[c % len(CATEGORIES)] for c in present])
    if np.isfinite(snr).any():
        mean = float(np.mean(snr[np.isfinite(snr)]))
        axes.axvline(mean, color=INK, linestyle="--", linewidth=1.2, label=f"mean of all samples: {mean:.2f}")
    _rows(axes, [class_name(classes, c) for c in present])
    axes.set_xlim(left=0)
    axes.set_xlabel("SNR of a sample")
    _legend(figure)
    return figure


def snr_by_confidence(confidence: np.ndarray, snr: np.ndarray, labels: np.ndarray) -> "Figure":
    """SNR of every sample against the ensemble's confidence in it, both `(N,)`, in the colours of the classes."""
    figure, axes = sheet(WIDTH, 4.6)
    colours = [CATEGORIES[int(label) % len(CATEGORIES)] for label in labels]
    axes.scatter(confidence, snr, s=14, c=colours, alpha=0.75, linewidths=0, rasterized=len(snr) > MOST_DOTS)
    axes.set_xlabel("confidence: mean softmax probability over members")
    axes.set_ylabel("SNR of a sample")
    axes.set_ylim(bottom=0)
    return figure


def convergence_norms(members: Sequence[int], mean_norm: np.ndarray, sigma_norm: np.ndarray) -> "Figure":
    """||mu|| and ||sigma|| against the number of members (Woerl et al., Fig. 3): median and quartiles of `(N, G)`."""
    figure, axes = sheet(WIDTH, 3.2)
    _band(axes, members, mean_norm, RED, "norm of the mean map")
    _band(axes, members, sigma_norm, BLUE, "norm of the standard deviation")
    _members_axis(axes, members)
    axes.set_ylabel("norm (the maps' units)")
    axes.set_ylim(bottom=0)
    _legend(figure)
    return figure


def convergence_snr(members: Sequence[int], mean_norm: np.ndarray, sigma_norm: np.ndarray) -> "Figure":
    """SNR against the number of members, beside that of pure noise: median and quartiles over samples."""
    figure, axes = sheet(WIDTH, 3.2)
    with np.errstate(divide="ignore", invalid="ignore"):
        _band(axes, members, mean_norm / sigma_norm, RED, "SNR")
    known = [m for m in members if m > 1]
    axes.plot(known, [null(m) for m in known], color=MUTED, linestyle="--", linewidth=1.2, label="pure noise: 1 / √M")
    _members_axis(axes, members)
    axes.set_ylabel("SNR")
    axes.set_ylim(bottom=0)
    _legend(figure)
    return figure


def accuracies(members: Mapping[int, float], ensemble: float, chance: float) -> "Figure":
    """Accuracy of every member as a dot, of the ensemble as a line, of guessing as a dashed line; takes shares."""
    figure, axes = sheet(WIDTH, 1.9)
    values = 100 * np.fromiter(members.values(), float)
    heights = _spread(len(values)) if len(values) > 12 else np.zeros(len(values))
    axes.axvline(100 * ensemble, color=RED, linewidth=2, label="ensemble")
    axes.plot(values, heights, "o", color=BLUE, alpha=0.7, markersize=8, markeredgewidth=0, label="a member")
    if np.isfinite(chance) and values.min(initial=np.inf) < 100 * chance + 15:
        axes.axvline(100 * chance, color=MUTED, linestyle="--", linewidth=1.2, label="guessing")
    axes.set_ylim(-0.8, 0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.12)
    axes.set_xlabel("accuracy on the evaluation samples (%)")
    _legend(figure, columns=3)
    return figure


def training(histories: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> "Figure":
    """Validation accuracy (a share) by epoch, one line per member."""
    figure, axes = sheet(WIDTH, 3.2)
    for epochs, accuracy in histories.values():
        axes.plot(epochs, 100 * np.asarray(accuracy), color=BLUE, linewidth=1.2, alpha=0.6, marker="o", markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy on the validation part (%)")
    _whole_numbers(axes)
    return figure


def differences(
    names: Sequence[str], members: Sequence[Estimate], samples: Sequence[tuple[float, float]], label: str, scale: float
) -> "Figure":
    """Differences between two runs with intervals over members (thick) and over samples (thin), times `scale`."""
    figure, axes = sheet(WIDTH, 1.3 + 0.45 * len(names))
    rows = np.arange(len(names))
    for row, (estimate, ends) in enumerate(zip(members, samples, strict=True)):
        thick, thin = scale * np.array([estimate.low, estimate.high]), scale * np.array(ends)
        names_once = ("over members", "over samples") if row == 0 else (None, None)
        axes.plot(thick, [row, row], color=BLUE, linewidth=3, alpha=0.55, label=names_once[0])
        axes.plot(thin, [row + 0.2] * 2, color=MUTED, linewidth=1.5, label=names_once[1])
    axes.plot([scale * e.value for e in members], rows, "o", color=BLUE, markersize=8)
    axes.axvline(0, color=INK, linestyle="--", linewidth=1.2)
    _rows(axes, names)
    axes.set_xlabel(label)
    _legend(figure)
    return figure


def class_name(classes: Sequence[str], label: int) -> str:
    """Name of a class; "unlabelled" for -1."""
    return "unlabelled" if label < 0 else str(classes[label]) if label < len(classes) else f"class {label}"


def _dots(axes: "Axes", groups: Sequence[np.ndarray], colours: Sequence[str]) -> None:
    total = sum(map(len, groups))
    for row, (values, colour) in enumerate(zip(groups, colours, strict=True)):
        heights = row + 0.35 * _spread(len(values))
        axes.scatter(values, heights, s=14, color=colour, alpha=0.75, linewidths=0, rasterized=total > MOST_DOTS)


def _boxes(axes: "Axes", groups: Sequence[np.ndarray], colours: Sequence[str]) -> None:
    for row, (values, colour) in enumerate(zip(groups, colours, strict=True)):
        low, first, middle, third, high = np.percentile(values, [0, 25, 50, 75, 100])
        axes.plot([low, high], [row, row], color=colour, linewidth=1)
        axes.barh(row, third - first, left=first, height=0.55, color=colour, alpha=0.6)
        axes.plot([middle, middle], [row - 0.28, row + 0.28], color=INK, linewidth=1.5)


def _band(axes: "Axes", members: Sequence[int], values: np.ndarray, colour: str, label: str) -> None:
    shown = np.isfinite(values).any(axis=0)
    if not shown.any():
        return
    x = np.asarray(members)[shown]
    first, middle, third = np.nanpercentile(
        np.where(np.isfinite(values), values, np.nan)[:, shown], [25, 50, 75], axis=0
    )
    axes.fill_between(x, first, third, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, middle, color=colour, linewidth=2, marker="o", markersize=3.5, label=label)


def _members_axis(axes: "Axes", members: Sequence[int]) -> None:
    axes.set_xlabel("members")
    axes.set_xlim(left=min(members, default=1) - 0.4)
    _whole_numbers(axes)


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [name if len(name) <= 22 else f"{name[:21]}…" for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _legend(figure: "Figure", columns: int = 2) -> None:
    """Above the axes, from the left edge of the figure: as wide as the figure, whatever the labels beside the axes."""
    if figure.axes[0].get_legend_handles_labels()[0]:
        figure.legend(
            loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5, labelcolor=INK, handlelength=1.4,
            columnspacing=1.4, borderpad=0.1,
        )  # fmt: skip


def _spread(count: int) -> np.ndarray:
    """Heights in [-1, 1] that keep dots apart, the same every time: multiples of the golden ratio."""
    return 2 * np.modf(np.arange(count) * GOLDEN)[0] - 1
