"""The numbers of a finished run that studies are made of."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.report.facts import leave_one_out
from salcore.statistics import PAPER_MEMBERS, Estimate, jackknife

if TYPE_CHECKING:
    from salcore.runs import Run


def rows_of(run: "Run") -> dict[str, dict[str, Any]]:
    """The run's summary by method, in the spec's order."""
    found = {row["method"]: row for row in run.summary.to_pylist()}
    return {method: found[method] for method in run.methods if method in found}


def estimate(row: Mapping[str, Any], name: str) -> Estimate:
    """A number of the summary with its interval."""
    return Estimate(value=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"])


def at_30(row: Mapping[str, Any]) -> Estimate:
    """SNR expected of 30 members; of 30 members the SNR itself, as in the paper."""
    return estimate(row, "snr" if row["members"] == PAPER_MEMBERS else "snr_at_30")


def debiased(row: Mapping[str, Any]) -> Estimate:
    """SNR of infinitely many members."""
    return estimate(row, "snr_debiased")


def lead(run: "Run", first: str, second: str) -> Estimate:
    """Debiased SNR of one method of a run less that of another, its interval paired over the members they share."""
    found = rows_of(run)
    value = found[first]["snr_debiased"] - found[second]["snr_debiased"]
    without = leave_one_out(run, first, second)
    return jackknife(value, without[0] - without[1])


def accuracy(run: "Run") -> float:
    """Mean accuracy of the members on the evaluation samples; NaN without labels."""
    labels, logits = run.logits()
    known = labels >= 0
    return float((logits[:, known].argmax(-1) == labels[known]).mean()) if known.any() else np.nan


def bootstrapped(values: np.ndarray, seed: int = 0) -> Estimate:
    """Median of finite values `(N,)`, with the 95 % percentile interval of a bootstrap over samples."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(value=np.nan, low=np.nan, high=np.nan)
    drawn = np.random.default_rng(seed).choice(values, (1000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Estimate(value=float(np.median(values)), low=float(low), high=float(high))
