"""How stable is what is to blame across seeds? In no paper.

Filters of different members do not correspond: the seventh of one network's layer is not the seventh of another's. What
does correspond are layers, samples and pixels. So members are compared by how their profiles spread over layers, by
which samples they hold for neighbours, and by the maps of `input_space_saliency`, which the usual reducers take.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from salcore.blame.results import Blame, column


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike two members are on the same sample, on different ones, and over how many pairs that is."""

    same: float
    different: float
    pairs: int


def layers(blame: Blame) -> Agreement:
    """Correlation over layers of two members' standardised profiles of a sample, each its mean by layer.

    The mean over all held-out samples and pairs of members; `different` is with the sample one place further on.
    """
    tables = [column(blame.table("layers", member), "layers") for member in blame.members]
    same, different = [], []
    for one, two in combinations(tables, 2):
        same.append(_correlations(one, two).mean())
        different.append(_correlations(one, np.roll(two, 1, axis=0)).mean())
    return Agreement(same=_mean(same), different=_mean(different), pairs=len(same))


def neighbours(blame: Blame) -> Agreement:
    """Share of a mistake's neighbours that another member has for the same mistake, by all filters.

    `different` is with a mistake of the other member's that this one's list is not of. Over pairs of members that share
    a mistake.
    """
    lists = [_lists(blame, member) for member in blame.has("neighbours")]
    same, different = [], []
    for one, two in combinations(lists, 2):
        shared = [sample for sample in one if sample in two]
        strangers = [*shared[1:], *shared[:1]]
        same += [_overlap(one[sample], two[sample]) for sample in shared]
        different += [_overlap(one[a], two[b]) for a, b in zip(shared, strangers, strict=True) if a != b]
    return Agreement(same=_mean(same), different=_mean(different), pairs=len(same))


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


def _correlations(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the rows of two (N, L); 0 where a row does not vary."""
    one, two = (each - each.mean(1, keepdims=True) for each in (one, two))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return (one * two).sum(1) / np.where(norms > 0, norms, 1)


def _mean(values: list) -> float:
    return float(np.mean(values)) if values else float("nan")
