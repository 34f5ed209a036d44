"""Which member's maps are least, and which most like those of the others, and whether one falls out of the row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.runs import Run

FEWEST = 6
"""Members below which nobody is called an outlier: the rule needs a spread to hold one against."""
REACH = 3.5
LEAST = 0.02
"""Difference in cosine below which nobody is called an outlier, however alike the members are: it is seen by none."""
SCALED = 1.4826
"""The median absolute deviation times this is the standard deviation of a normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Outlying:
    """Mean cosine of each member's map to the mean map of the others; `least` and `most` are a member and its cosine.

    `outliers` are the members that lie further than 3.5 scaled median absolute deviations, and 0.02 at least, below the
    `median`.
    """

    cosines: dict[int, float]
    least: tuple[int, float]
    most: tuple[int, float]
    median: float
    outliers: tuple[int, ...]


def outlying(cosines: Mapping[int, float]) -> Outlying | None:
    """The extremes of cosines by member; None for fewer than 2 members of known cosine.

    Of normally spread members without an outlier, one is named in about 1 of 10 sets of 6 to 10, in 1 of 20 sets of 30.

    Source of the rule: How to Detect and Handle Outliers (Iglewicz, Hoaglin, 1993), section 3.

    >>> outlying({0: 0.50, 1: 0.52, 2: 0.51, 3: 0.49, 4: 0.50, 5: 0.10}).outliers
    (5,)
    """
    known = {member: value for member, value in cosines.items() if np.isfinite(value)}
    if len(known) < 2:
        return None
    values = np.array(list(known.values()))
    median = float(np.median(values))
    spread = SCALED * float(np.median(np.abs(values - median)))
    limit = median - max(REACH * spread, LEAST)
    return Outlying(
        cosines=known,
        least=min(known.items(), key=lambda each: each[1]),
        most=max(known.items(), key=lambda each: each[1]),
        median=median,
        outliers=tuple(m for m, value in known.items() if value < limit) if len(known) >= FEWEST else (),
    )


def member_cosines(run: "Run", method: str) -> dict[int, float]:
    """Mean cosine over samples of each member's map to the mean map of the others; NaN where none is defined."""
    tables = [read_stats(run.store, name).members for name in run.stats_files(method)]
    column = {
        name: np.sum([table.column(name).to_numpy() for table in tables], axis=0) for name in ("cosine", "samples")
    }
    with np.errstate(invalid="ignore"):
        means = np.divide(column["cosine"], column["samples"])
    return dict(zip(tables[0].column("member").to_pylist(), means.tolist(), strict=True))
