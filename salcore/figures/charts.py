"""Charts of samples, members and runs: arrays in, a matplotlib figure out. Those of methods: `method_charts`."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.canvas import BLUE, CATEGORIES, INK, MUTED, RED, ROW, WIDTH, legend, name_rows, sheet
from salcore.statistics import Estimate, null

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 20
MOST_DOTS = 1500
"""Vector dots of one chart; of more, dots are drawn as one embedded picture."""
GOLDEN = 0.6180339887


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
    name_rows(axes, [class_name(classes, c) for c in present])
    axes.set_xlim(left=0)
    axes.set_xlabel("SNR of a sample")
    legend(figure)
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
    legend(figure)
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
    legend(figure)
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
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.6), min(max(high, low + 5), 100.6))  # room for half a dot, and no share that there is not
    axes.set_xlabel("accuracy on the evaluation samples (%)")
    legend(figure, columns=3)
    return figure


def likeness_of_members(
    names: Sequence[str], cosines: Sequence[Mapping[int, float]], outliers: Sequence[Collection[int]]
) -> "Figure":
    """Cosine of every member's maps to the others' mean map, a row per method; outliers are red and numbered."""
    figure, axes = sheet(WIDTH, 1.2 + ROW * max(3, len(names)))
    told = {BLUE: "a member", RED: "an outlier, with its number"}
    for row, (values, outside) in enumerate(zip(cosines, outliers, strict=True)):
        for colour, members in ((BLUE, [m for m in values if m not in outside]), (RED, sorted(outside))):
            found = [values[member] for member in members]
            label = told.pop(colour, None) if members else None
            axes.plot(found, [row] * len(found), "o", color=colour, alpha=0.7, markeredgewidth=0, label=label)
        for member in outside:
            dot = values[member], row
            axes.annotate(str(member), dot, (0, 6), textcoords="offset points", ha="center", color=INK, fontsize=9.5)
    name_rows(axes, names)
    axes.set_xlabel("cosine to the mean map of the others")
    legend(figure)
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
    name_rows(axes, names)
    axes.set_xlabel(label)
    legend(figure)
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


def _spread(count: int) -> np.ndarray:
    """Heights in [-1, 1] that keep dots apart, the same every time: multiples of the golden ratio."""
    return 2 * np.modf(np.arange(count) * GOLDEN)[0] - 1
