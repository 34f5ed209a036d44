"""What a command prints, and tells MLflow, when it is done."""

import math
from pathlib import Path
from typing import Literal

import salcore
from jobs.prepare import Plan
from jobs.records import redacted
from salcore import layout
from salcore.report import Facts, gather
from salcore.statistics import Estimate


def facts(plan: Plan) -> Facts | None:
    """The run's numbers; None while it has no statistics."""
    return gather(salcore.open(plan.store.uri)) if plan.store.exists(layout.SUMMARY) else None


def table(found: Facts | None) -> str:
    """One line per method: accuracy, SNR with its interval over members, debiased SNR."""
    if found is None:
        return "no statistics yet"
    accuracy = math.nan if found.accuracy is None else found.accuracy.ensemble.value
    lines = [f"{'method':<24} {'accuracy':>9} {'SNR':>7} {'95 % interval':>17} {'debiased SNR':>13}"]
    lines += [
        f"{method.name:<24} {_number(accuracy):>9} {_number(method.snr.value):>7} {_interval(method.snr):>17} "
        f"{_number(method.debiased.value):>13}"
        for method in found.methods
    ]
    if found.accuracy is not None:
        alone = found.accuracy.members.values()
        lines.append(
            f"accuracy is that of {len(alone)} members together on {found.accuracy.samples} evaluation samples; "
            f"alone they reach {min(alone):.3f} to {max(alone):.3f}"
        )
    lines += [f"{left}: they are left out" for left in found.left_out]
    return "\n".join(lines)


def metrics(found: Facts | None) -> dict[str, float]:
    """The run's own numbers, as MLflow names them; what is not defined is left out."""
    if found is None:
        return {}
    values = {f"snr/{method.name}": method.snr.value for method in found.methods}
    values |= {f"snr_debiased/{method.name}": method.debiased.value for method in found.methods}
    if found.accuracy is not None:
        values["ensemble/accuracy"] = found.accuracy.ensemble.value
    values |= {f"non_finite/{left.method}": float(left.maps) for left in found.left_out}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def mlflow_status(plan: Plan) -> Literal["FINISHED", "FAILED"]:
    """How the run stands in MLflow when its command is done: one failed member fails it."""
    return "FAILED" if plan.failures() else "FINISHED"


def stopped(plan: Plan) -> str:
    """In how many members `ensemble.until` had its way, as the end of a sentence; nothing where it had not."""
    decision = plan.decision
    if decision is None or not decision.reached:
        return ""
    return f", enough for ensemble.until; at most {plan.spec.ensemble.members}"


def where(plan: Plan, uri: str) -> str:
    """Where the report and the MLflow pages are."""
    lines = [f"run      {plan.store}"]
    if plan.store.exists(layout.REPORT):
        lines.append(f"report   {plan.store.path(layout.REPORT)}")
    if plan.spec.parameters is not None and plan.store.exists(layout.BLAME):
        lines.append(f"filters  {plan.store.path(layout.BLAME)}")
    default = f"sqlite:///{Path('runs', 'mlflow.db').absolute()}"
    server = "make ui" if uri == default else f"mlflow ui --host 127.0.0.1 --backend-store-uri {redacted(uri)}"
    lines.append(f"MLflow   {redacted(uri) if uri.startswith('http') else f'{server}, then http://127.0.0.1:5000'}")
    return "\n".join(lines)


def _interval(estimate: Estimate) -> str:
    return f"{_number(estimate.low)} to {_number(estimate.high)}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
