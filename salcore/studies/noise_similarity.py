"""Does structural similarity rank methods as the SNR does? Fig. 5 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures import canvas, method_charts
from salcore.report.correlation import spearman
from salcore.statistics import Estimate
from salcore.studies.networks import FULL, SMALL, ensembles
from salcore.studies.row import Picture, Row, claimed, measured
from salcore.studies.summaries import at_30, rows_of

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Structural similarity against SNR"
SOURCE = "Woerl et al. (CVPR 2023), Fig. 5"
ABOUT = (
    "SSIM of a member's map to the mean map of the others, against the SNR at 30 members, by method. The paper finds "
    "the same ranking, but for LIME, whose SSIM is worse than its SNR. It computes both on four images; here on all "
    "samples that a method explains."
)
PRESETS = {"small": SMALL, "full": FULL}


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """SSIM of each method, and the correlation of the two rankings."""
    for name, run in runs.items():
        found = rows_of(run)
        for method, row in found.items():
            value = Estimate(value=row["ssim_to_mean"], low=np.nan, high=np.nan)
            note = f"SNR at 30 members {row['snr_at_30']:.3f}; between two members {row['ssim_pairwise']:.3f}"
            yield measured(f"{name}: SSIM to the mean, {method}", value, note=note)
        snr, ssim = (np.array([row[key] for row in found.values()]) for key in ("snr_at_30", "ssim_to_mean"))
        ranking = spearman(snr, ssim)
        note = f"Spearman, interval over {len(found)} methods as if independent, though some are alike"
        yield claimed(f"{name}: SSIM ranks methods as the SNR does", ranking, note=note)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """One dot a method."""
    for name, run in runs.items():
        found = rows_of(run)
        ssim = [row["ssim_to_mean"] for row in found.values()]
        figure = method_charts.ssim_by_snr(list(found), [at_30(row) for row in found.values()], ssim)
        yield Picture(caption=f"{name}: SSIM against SNR", content=canvas.svg(figure, f"ssim-{name}"))
