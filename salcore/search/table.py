"""A search's trials as a table: for `search.parquet`, and as lines for a terminal."""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from salcore.figures.signs import number
from salcore.search.goal import Outcome, drop
from salcore.search.record import METRICS, Record
from salcore.search.settings import STANDARD, layers_text
from salcore.statistics import Estimate

HEAD = ("trial", "accuracy", "drop", "debiased SNR", "faithfulness", "95 % interval", "")
_SCHEMA = pa.schema(
    [
        ("trial", pa.string()),
        ("mask_fraction", pa.float64()),
        ("weight", pa.float64()),
        ("layers", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("members", pa.int64()),
        *((f"{name}{end}", pa.float64()) for name in METRICS for end in ("", "_low", "_high")),
        ("accuracy_drop", pa.float64()),
        ("on_front", pa.bool_()),
        ("chosen", pa.bool_()),
    ]
)


def table(records: Sequence[Record], found: Outcome) -> pa.Table:
    """One row per trial, in order: its setting, how it ended, and its metrics.

    The setting is null for standard training, and layers where none are searched.

    accuracy, snr_debiased and faithfulness with the ends of their intervals over members; accuracy_drop against
    standard training, as a share; whether it is on the Pareto front, and whether it is the chosen one.
    """
    standard = standard_of(records)
    return pa.Table.from_pylist([_row(record, standard, found) for record in records], schema=_SCHEMA)


def printed(records: Sequence[Record], found: Outcome) -> str:
    """The table as aligned text."""
    rows = [HEAD, *(cells(record, standard_of(records), found) for record in records)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    ends = (0, len(HEAD) - 1)
    return "\n".join(
        "  ".join(
            text.ljust(width) if place in ends else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def cells(record: Record, standard: Record | None, found: Outcome) -> tuple[str, ...]:
    """One trial as texts, in the order of `HEAD`."""
    said = {"failed": f"failed: {record.reason}", "stopped": f"stopped after {len(record.members)} members"}
    marks = ["chosen"] * (record.name == found.chosen) + ["front"] * (record.name in found.front)
    return (
        record.name,
        number(record.accuracy.value, 3),
        number(drop(record, standard), 3),
        number(record.snr_debiased.value, 3),
        number(record.faithfulness.value, 3),
        interval(record.faithfulness),
        said.get(record.state, ", ".join(marks)),
    )


def interval(estimate: Estimate) -> str:
    """The ends of an interval; nothing where there is none."""
    if math.isnan(estimate.low):
        return ""
    return f"{number(estimate.low, 3)} to {number(estimate.high, 3)}"


def standard_of(records: Sequence[Record]) -> Record | None:
    """Standard training, where it is over and did not fail."""
    return next((record for record in records if record.name == STANDARD and record.state == "finished"), None)


def _row(record: Record, standard: Record | None, found: Outcome) -> dict[str, Any]:
    metrics = {name: record.metric(name) for name in METRICS}
    return {
        "trial": record.name,
        "mask_fraction": record.setting and record.setting.mask_fraction,
        "weight": record.setting and record.setting.weight,
        "layers": record.setting and record.setting.layers and layers_text(record.setting.layers),
        "state": record.state,
        "reason": record.reason,
        "members": len(record.members),
        **{name: metric.value for name, metric in metrics.items()},
        **{f"{name}_low": metric.low for name, metric in metrics.items()},
        **{f"{name}_high": metric.high for name, metric in metrics.items()},
        "accuracy_drop": drop(record, standard),
        "on_front": record.name in found.front,
        "chosen": record.name == found.chosen,
    }
