"""How fast do mean and standard deviation settle as members are added? Fig. 3 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures import canvas, charts
from salcore.studies.networks import FULL, SMALL, ensembles
from salcore.studies.row import Picture, Row, claimed, measured
from salcore.studies.summaries import bootstrapped

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Convergence over members"
SOURCE = "Woerl et al. (CVPR 2023), Fig. 3"
ABOUT = (
    "Norms of the mean gradient and of its standard deviation after the first m members, as shares of what they are "
    "at the start and at the end: the median over samples, with the interval of a bootstrap over samples (the members "
    "are these). Noise that members do not share falls out of the mean as 1 / sqrt(m); a signal stays, and the norm "
    "levels off at it."
)
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Norms at some numbers of members, then the two statements."""
    for name, run in runs.items():
        yield from _rows(name, run)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Norms and SNR against the number of members, of every ensemble."""
    for name, run in runs.items():
        members, norms = run.convergence_members(METHOD), _norms(run)
        drawn = {"norms": charts.convergence_norms, "SNR": charts.convergence_snr}
        for what, draw in drawn.items():
            yield Picture(
                caption=f"{name}: {what}", content=canvas.svg(draw(members, *norms), f"{what}-{name}".lower())
            )


def _norms(run: "Run") -> tuple[np.ndarray, np.ndarray]:
    return run.column(METHOD, "mean_norm"), run.column(METHOD, "sigma_norm")


def _rows(name: str, run: "Run") -> Iterator[Row]:
    members = np.array(run.convergence_members(METHOD))
    mean, sigma = _norms(run)
    with np.errstate(divide="ignore", invalid="ignore"):
        fallen, settled = mean / mean[:, :1], sigma / sigma[:, -1:]
    for place in _places(members):
        yield measured(f"{name}: norm of the mean, {members[place]} members / 1", bootstrapped(fallen[:, place]))
        if members[place] > 1:
            label = f"{name}: norm of the standard deviation, {members[place]} members / {members[-1]}"
            yield measured(label, bootstrapped(settled[:, place]))
    if len(members) < 4:
        return
    half = int(np.argmin(np.abs(members - members[-1] / 2)))
    slower = np.log(members[-1] / members[half]) / 2 - np.log(mean[:, half] / mean[:, -1])
    yield claimed(f"{name}: the norm of the mean falls (1 - last / first)", bootstrapped(1 - fallen[:, -1]))
    yield claimed(
        f"{name}: it levels off (log fall of 1 / sqrt(m) from {members[half]} to {members[-1]} members, less ours)",
        bootstrapped(slower),
        note="noise without a signal falls as 1 / sqrt(m)",
    )


def _places(members: np.ndarray) -> list[int]:
    """Places of 1, 2, 5, 10, 30 and the last number of members."""
    chosen = {int(np.argmin(np.abs(members - wanted))) for wanted in (1, 2, 5, 10, 30)}
    return sorted({*chosen, len(members) - 1})
