"""What a search looks for: which trials may be chosen, how they compare, and which one it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salcore.faithfulness import MEASURES
from salcore.search.front import nearest_ideal, pareto
from salcore.search.record import Record
from salcore.search.settings import STANDARD
from salcore.spec import SearchSpec

REFUSED = -1000.0
"""Score of a trial that loses just as much accuracy as is allowed: below that of any that may be chosen."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the trials of a search come to: the names on the Pareto front, and the chosen one, None if there is none."""

    front: tuple[str, ...]
    chosen: str | None


def sign(objective: str, search: SearchSpec) -> int:
    """1 where a larger value of an objective is better, -1 where a smaller one is."""
    return -1 if objective == "faithfulness" and MEASURES[search.faithfulness].better == "lower" else 1


def values(record: Record, search: SearchSpec) -> tuple[float, ...]:
    """A trial's objectives, signed so that larger is better."""
    return tuple(sign(name, search) * record.metric(name).value for name in search.objectives)


def drop(record: Record, standard: Record | None) -> float:
    """Accuracy that a trial loses against standard training, as a share; NaN where one of the two is not known.

    The mean over the trial's members, each against the one of the same seeds: a trial that was stopped has fewer.
    """
    theirs = {} if standard is None else {row.member: row.accuracy for row in standard.members}
    lost = [theirs.get(row.member, math.nan) - row.accuracy for row in record.members]
    return math.fsum(lost) / len(lost) if lost else math.nan


def score(record: Record, standard: Record | None, search: SearchSpec) -> float:
    """One number to compare the trials of a single objective by, larger is better.

    The objective itself; of a trial that loses too much accuracy a number below all others, the smaller the more it
    loses. Where the loss is not known it does not count.
    """
    (value,) = values(record, search)
    lost = drop(record, standard)
    if search.accuracy_drop_at_most is None or not lost > search.accuracy_drop_at_most:
        return value
    return REFUSED - lost


def outcome(records: Sequence[Record], search: SearchSpec) -> Outcome:
    """Front and choice among the finished trials. Standard training is one of them.

    One objective: the best score, the higher accuracy where two are equal; none if all of them lose too much accuracy.
    Several: the member of the Pareto front that is nearest to the ideal point (`front.nearest_ideal`).
    """
    finished = [record for record in records if record.state == "finished"]
    found = np.array([values(record, search) for record in finished]).reshape(len(finished), len(search.objectives))
    front = tuple(finished[place].name for place in np.flatnonzero(pareto(found)))
    if len(search.objectives) == 1:
        return Outcome(front=front, chosen=_best(finished, search))
    place = nearest_ideal(found, np.array([record.accuracy.value for record in finished]))
    return Outcome(front=front, chosen=None if place is None else finished[place].name)


def _best(finished: Sequence[Record], search: SearchSpec) -> str | None:
    named: Mapping[str, Record] = {record.name: record for record in finished}
    scores = {name: score(record, named.get(STANDARD), search) for name, record in named.items()}
    known = [name for name, value in scores.items() if not math.isnan(value) and value > REFUSED]
    return max(known, key=lambda name: (scores[name], named[name].accuracy.value), default=None)
