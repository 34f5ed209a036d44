"""Statistics files, and the one row per method that sums them up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from salcore import shards, statistics
from salcore.reduce import Reduced
from salcore.sealed import read_sealed, sealed
from salcore.storage import Store

MEMBERS = b"salcore.members"
"""Schema metadata key of the per-member table: in the same file, so that both appear at once."""


def write_stats(store: Store, name: str, reduced: Reduced) -> None:
    """Write the statistics of one range as an Arrow IPC file; its bytes are a function of its content."""
    members = {column: _plain(reduced.members.column(column)) for column in reduced.members.column_names}
    header = {
        shards.METADATA: json.dumps(reduced.metadata, sort_keys=True).encode(),
        MEMBERS: json.dumps(members).encode(),
    }
    rows = shards.default_batch_rows(tuple(reduced.stats.schema.field("mean").type.shape))
    store.write(name, shards.serialise(sealed(reduced.stats.replace_schema_metadata(header)), rows))


def read_stats(store: Store, name: str) -> Reduced:
    """Read what `write_stats` wrote, memory-mapped where it is local. Raises CorruptShard, FileNotFoundError."""
    stats = read_sealed(store, name)
    about, columns = (shards.header(stats.schema, key) for key in (shards.METADATA, MEMBERS))
    if not isinstance(about, dict) or not isinstance(columns, dict) or "mean" not in stats.column_names:
        raise shards.CorruptShard(f"{store.path(name)} is an Arrow file but no statistics file")
    integers = ("member", "samples", "non_finite")
    types = {column: pa.int64() if column in integers else pa.float64() for column in columns}
    members = pa.table({column: _column(values, types[column]) for column, values in columns.items()})
    return Reduced(stats=stats.replace_schema_metadata(None), members=members, metadata=about)


def summarise(parts: Iterable[Reduced]) -> pa.Table:
    """One row per method, in order of first appearance, from the statistics of all its ranges.

    snr: mean over the samples, where defined (`undefined` counts the others: no signal and no noise, or fewer than 2
    finite maps), with the 95 % interval of a jackknife over the members that are in any sample's statistics.
    snr_debiased and snr_at_30: root of a ratio of means, with intervals. negatives: samples of negative signal2.
    snr_scale_free, significant_share and the likenesses: means over the samples where they are defined. non_negative:
    no map is negative anywhere, so that noise alone lifts the SNR. null: SNR of pure noise, mean over the samples.
    residual_max: largest completeness residual, NaN where none is promised. non_finite: maps that are in none of these
    numbers. Raises ValueError for ranges of one method with different members.
    """
    by_method: dict[str, list[Reduced]] = {}
    for part in parts:
        by_method.setdefault(part.metadata["method"], []).append(part)
    return pa.Table.from_pylist([_row(method, ranges) for method, ranges in by_method.items()], schema=_SUMMARY)


_MEANS = (
    *("snr_scale_free", "ssim_to_mean", "cosine_to_mean"),
    *("ssim_pairwise", "spearman_to_mean", "sign_agreement", "top_overlap", "significant_share"),
)
_NUMBERS = (
    *("snr", "snr_low", "snr_high", "snr_debiased", "snr_debiased_low", "snr_debiased_high"),
    *("snr_at_30", "snr_at_30_low", "snr_at_30_high", *_MEANS),
)
_SUMMARY = pa.schema(
    [
        ("method", pa.string()),
        ("members", pa.int32()),
        ("samples", pa.int64()),
        *((name, pa.float64()) for name in _NUMBERS),
        ("negatives", pa.int64()),
        ("undefined", pa.int64()),
        ("non_negative", pa.bool_()),
        ("null", pa.float64()),
        ("residual_max", pa.float64()),
        ("non_finite", pa.int64()),
    ]
)


def _row(method: str, parts: Sequence[Reduced]) -> dict[str, Any]:
    members = parts[0].metadata["members"]
    if any(part.metadata["members"] != members for part in parts):
        raise ValueError(f"`parts`: expected all ranges of {method} to be of the same members")
    column = {
        name: np.concatenate([part.stats.column(name).to_numpy() for part in parts])
        for name in ("count", "snr", "signal2", "noise2", *_MEANS)
    }
    sums = {
        name: np.sum([part.members.column(name).to_numpy() for part in parts], axis=0)
        for name in ("samples", "snr", "snr_samples", "signal2", "noise2", "non_finite")
    }
    without = {name: values[sums["samples"] > 0] for name, values in sums.items()}  # members that count anywhere
    signal2, noise2 = np.nansum(column["signal2"]), np.nansum(column["noise2"])
    snr = statistics.jackknife(_mean(column["snr"]), _divide(without["snr"], without["snr_samples"]))
    row: dict[str, Any] = {name: _mean(column[name]) for name in _MEANS}
    row |= {"snr": snr.value, "snr_low": snr.low, "snr_high": snr.high}
    for name, at in (("snr_debiased", np.inf), ("snr_at_30", statistics.PAPER_MEMBERS)):
        estimate = statistics.debiased_summary(signal2, noise2, without["signal2"], without["noise2"], at)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    residuals = np.concatenate([part.members.column("residual_max").to_numpy() for part in parts])
    lowest = [part.members.column("lowest").to_numpy().min() for part in parts]
    return row | {
        "method": method,
        "members": len(members),
        "samples": len(column["snr"]),
        "negatives": int((column["signal2"] < 0).sum()),
        "undefined": int(np.isnan(column["snr"]).sum()),
        "non_negative": bool(0 <= min(lowest) < np.inf),
        "null": _null(column["count"], column["snr"], len(members)),
        "residual_max": float(np.fmax.reduce(residuals)),
        "non_finite": int(sums["non_finite"].sum()),
    }


def _null(count: np.ndarray, snr: np.ndarray, members: int) -> float:
    """Mean SNR of pure noise over the samples that have one: each has that of its own number of maps."""
    if (count == members).all():
        return statistics.null(members)
    return _mean(np.where(np.isnan(snr), np.nan, np.maximum(count, 1.0) ** -0.5))


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; NaN of nothing."""
    defined = values[~np.isnan(values)]
    return float(_divide(defined.sum(), np.float64(len(defined))))


def _divide(numerator: np.ndarray | np.float64, denominator: np.ndarray | np.float64) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(numerator, denominator)


def _plain(column: pa.ChunkedArray) -> list[float | str | None]:
    """Values for JSON, which has neither NaN nor infinity: the one is null, the other a word."""
    return [None if value != value else value if abs(value) != np.inf else str(value) for value in column.to_pylist()]


def _column(values: list[Any], dtype: pa.DataType) -> pa.Array:
    return pa.array([float("nan") if v is None else float(v) if isinstance(v, str) else v for v in values], dtype)
