"""What a command prints when it is done."""

import math
from pathlib import Path
from typing import Literal

import numpy as np

import salcore
from jobs.prepare import Plan
from jobs.records import redacted
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


def metrics(plan: Plan) -> dict[str, float]:
    """The run's own numbers, as MLflow names them; what is not defined is left out."""
    if not plan.store.exists(layout.SUMMARY):
        return {}
    run = salcore.open(plan.store.uri)
    values = {}
    for row in run.summary.to_pylist():
        values[f"snr/{row['method']}"] = row["snr"]
        values[f"snr_debiased/{row['method']}"] = row["snr_debiased"]
    if plan.spec.attribution.target != "ensemble" or (plan.data.evaluation.labels >= 0).all():
        values["ensemble/accuracy"] = accuracies(run)[1]
    return {name: value for name, value in values.items() if math.isfinite(value)}


def mlflow_status(plan: Plan) -> Literal["FINISHED", "FAILED"]:
    """How the run stands in MLflow when its command is done: one failed member fails it."""
    return "FAILED" if plan.failures() else "FINISHED"


def where(plan: Plan, uri: str) -> str:
    """Where the report and the MLflow pages are."""
    lines = [f"run      {plan.store}"]
    if plan.store.exists(layout.REPORT):
        lines.append(f"report   {plan.store.path(layout.REPORT)}")
    local = f"mlflow ui --host 127.0.0.1 --backend-store-uri {redacted(uri)}"
    page = f"{'make ui' if uri == default_database() else local}, then http://127.0.0.1:5000"
    lines.append(f"MLflow   {redacted(uri) if uri.startswith('http') else page}")
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


def default_database() -> str:
    """The database of runs that name no server."""
    return f"sqlite:///{Path('runs', 'mlflow.db').absolute()}"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
