"""How stable is what is to blame across seeds? In no paper.

Filters of different members do not correspond: the seventh of one network's layer is not the seventh of another's. What
does correspond are layers, samples and pixels. So members are compared by how their profiles spread over layers, by
which samples they hold for neighbours, and by the maps of `input_space_saliency`, which the usual reducers take.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from salcore.blame.results import Blame, column


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike two members are on a mistake that both make, and on different ones; over so many shared mistakes."""

    same: float
    different: float
    shared: int


@cache
def layers(blame: Blame) -> Agreement:
    """Correlation over layers of two members' standardised profiles of a mistake, each its mean by layer.

    The mean over pairs of members and the mistakes that they share; strangers are drawn at random among these.
    """
    rows = []
    for member in blame.members:
        table = blame.table("layers", member)
        wrong = column(table, "label") != column(table, "prediction")
        numbers = column(table, "sample")[wrong].tolist()
        rows.append(dict(zip(numbers, column(table, "layers")[wrong], strict=True)))
    return _compared(rows, _correlation)


@cache
def neighbours(blame: Blame) -> Agreement:
    """Share of a mistake's neighbours that another member has for the same mistake, by all filters.

    The mean over pairs of members and the mistakes that they share; strangers are drawn at random among these.
    """
    return _compared([_lists(blame, member) for member in blame.has("neighbours")], _overlap)


def _compared(members: Sequence[Mapping[int, Any]], alike: Callable[[Any, Any], float]) -> Agreement:
    """The agreement of members, each with something for some samples."""
    same, different = [], []
    for one, two in combinations(members, 2):
        shared = [sample for sample in one if sample in two]
        order = np.random.default_rng(0).permutation(len(shared))
        same += [alike(one[sample], two[sample]) for sample in shared]
        if len(shared) > 1:
            pairs = zip(order, np.roll(order, 1), strict=True)
            different += [alike(one[shared[a]], two[shared[b]]) for a, b in pairs]
    return Agreement(same=_mean(same), different=_mean(different), shared=len(same))


def _lists(blame: Blame, member: int) -> dict[int, set[int]]:
    """The neighbours of each mistake of a member, by their numbers."""
    table = blame.table("neighbours", member)
    keep = column(table, "layers") == "all"
    found: dict[int, set[int]] = {}
    for sample, neighbour in zip(column(table, "sample")[keep], column(table, "neighbour")[keep], strict=True):
        found.setdefault(int(sample), set()).add(int(neighbour))
    return found


def _overlap(one: set[int], two: set[int]) -> float:
    return len(one & two) / max(1, min(len(one), len(two)))


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Pearson's correlation of two rows (L,); 0 where one does not vary."""
    one, two = one - one.mean(), two - two.mean()
    norm = np.linalg.norm(one) * np.linalg.norm(two)
    return float(one @ two / norm) if norm > 0 else 0.0


def _mean(values: list) -> float:
    return float(np.mean(values)) if values else float("nan")
