"""What a study is told in: rows that stand beside the paper's numbers, and pictures."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from salcore.figures.signs import DASH, number
from salcore.statistics import Estimate

UNKNOWN = Estimate(value=math.nan, low=math.nan, high=math.nan)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a study: what was measured, the paper's number, ours with its 95 % interval.

    `paper` is None where the paper gives no number. `holds` says whether the paper's claim came out (None where nothing
    is claimed, or where the interval decides nothing); `note` says what the interval is over, and why.
    """

    what: str
    paper: float | None
    ours: float
    low: float
    high: float
    holds: bool | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of a study's page: an `<svg>` element, or the bytes of a PNG."""

    caption: str
    content: str | bytes


def measured(what: str, ours: Estimate, *, paper: float | None = None, note: str = "") -> Row:
    """A row that claims nothing."""
    return Row(what=what, paper=paper, ours=ours.value, low=ours.low, high=ours.high, note=note)


def claimed(what: str, ours: Estimate, *, above: float = 0.0, paper: float | None = None, note: str = "") -> Row:
    """A row of the claim that a number lies above another: it holds if the whole interval does, and is open if part."""
    holds = True if ours.low > above else False if ours.high < above else None
    if math.isnan(ours.low) or math.isnan(ours.high):
        why = "no interval: it takes 3 members, and a signal"
    else:
        why = "" if holds is not None else f"undecided: the interval includes {above:g}"
    told = "; ".join(filter(None, (why, note)))
    return Row(what=what, paper=paper, ours=ours.value, low=ours.low, high=ours.high, holds=holds, note=told)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """The second less the first of two independent ensembles; ends of intervals add in quadrature, side by side."""
    value = second.value - first.value
    low = value - math.hypot(second.value - second.low, first.high - first.value)
    high = value + math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(value=value, low=low, high=high)


def table(rows: tuple[Row, ...]) -> pa.Table:
    """The rows as they stand in `study.parquet`: what, paper, ours, low, high, holds, note."""
    kinds = {"what": pa.string(), "paper": pa.float64(), "ours": pa.float64(), "low": pa.float64()}
    schema = pa.schema([*kinds.items(), ("high", pa.float64()), ("holds", pa.bool_()), ("note", pa.string())])
    return pa.Table.from_pylist([vars(row) for row in rows], schema=schema)


def interval(row: Row) -> str:
    """Both ends of a row's interval, a dash where there is none."""
    return f"{number(row.low, 3)} to {number(row.high, 3)}" if np.isfinite([row.low, row.high]).all() else DASH


def verdict(row: Row) -> str:
    """Whether a row's claim holds, in a word."""
    return {True: "yes", False: "no", None: ""}[row.holds]
