"""What a command prints when it is done."""

import math

import numpy as np

import salcore
from jobs.prepare import Plan
from salcore import layout


def table(plan: Plan) -> str:
    """One line per method: accuracy, SNR with its interval over members, debiased SNR."""
    if not plan.store.exists(layout.SUMMARY):
        return "no statistics yet"
    run = salcore.open(plan.store.uri)
    members, ensemble = accuracies(run)
    lines = [f"{'method':<24} {'accuracy':>9} {'SNR':>7} {'95 % interval':>17} {'debiased SNR':>13}"]
    for row in run.summary.to_pylist():
        interval = f"{_number(row['snr_low'])} to {_number(row['snr_high'])}"
        debiased = _number(row["snr_debiased"])
        lines.append(f"{row['method']:<24} {ensemble:>9.3f} {_number(row['snr']):>7} {interval:>17} {debiased:>13}")
    spread = f"{min(members):.3f} to {max(members):.3f}" if len(members) else "-"
    lines.append(
        f"accuracy is that of {len(members)} members together on the evaluation samples; alone they reach {spread}"
    )
    return "\n".join(lines)


def where(plan: Plan) -> str:
    """Where the report and the MLflow pages are."""
    lines = [f"run      {plan.store}"]
    if plan.store.exists(layout.REPORT):
        lines.append(f"report   {plan.store.path(layout.REPORT)}")
    lines.append("MLflow   make ui, then http://127.0.0.1:5000")
    return "\n".join(lines)


def accuracies(run: "salcore.runs.Run") -> tuple[np.ndarray, float]:
    """Accuracy of every member `(M,)` and of the ensemble (mean of the members' probabilities) on the evaluation
    samples.
    """
    labels, logits = run.logits()
    members = (logits.argmax(2) == labels).mean(1)
    shifted = np.exp(logits - logits.max(2, keepdims=True))
    probabilities = (shifted / shifted.sum(2, keepdims=True)).mean(0)
    return members, float((probabilities.argmax(1) == labels).mean())


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
