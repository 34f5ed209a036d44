"""The maps that are in none of the numbers, because they hold NaN or infinity, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.runs import Run

NAMED = 5
"""Members, or samples, that a sentence names; it counts the rest."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Maps of one method that are not finite, out of `total`: how many, and of which members and samples."""

    method: str
    maps: int
    total: int
    members: tuple[int, ...]
    samples: tuple[int, ...]

    def __str__(self) -> str:
        of = f"{listed('member', self.members)}; {listed('sample', self.samples)}"
        return f"{self.method}: {self.maps} of {self.total} maps {'is' if self.maps == 1 else 'are'} not finite ({of})"


def left_out(run: "Run", row: dict[str, Any]) -> LeftOut | None:
    """What a method's row of the summary leaves out; None where that is nothing, as in summaries of older runs."""
    if not row.get("non_finite"):
        return None
    method, total = row["method"], row["members"] * row["samples"]
    tables = [read_stats(run.store, name).members for name in run.stats_files(method)]
    counts = np.sum([table.column("non_finite").to_numpy() for table in tables], axis=0)
    members = np.array(run.metadata(method)["members"])[counts > 0]
    samples = run.column(method, "sample")[run.column(method, "count") < row["members"]]
    return LeftOut(
        method=method,
        maps=row["non_finite"],
        total=total,
        members=tuple(members.tolist()),
        samples=tuple(samples.tolist()),
    )


def listed(noun: str, numbers: Sequence[int]) -> str:
    """Numbers in words: the first five, and how many more.

    >>> listed("sample", [4]), listed("sample", [4, 7, 9]), listed("sample", range(12))
    ('sample 4', 'samples 4, 7 and 9', 'samples 0, 1, 2, 3, 4 and 7 more')
    """
    rest = len(numbers) - NAMED
    named = [*map(str, numbers[:NAMED]), *([f"{rest} more"] if rest > 0 else [])]
    if len(named) == 1:
        return f"{noun} {named[0]}"
    return f"{noun}s {', '.join(named[:-1])} and {named[-1]}"
