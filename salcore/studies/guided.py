"""What the studies of saliency guided training share: an ensemble trained either way, compared seed by seed."""

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.errors import UserError
from salcore.faithfulness import Measured, measures, over_members
from salcore.statistics import Estimate
from salcore.studies.row import UNKNOWN, Row, claimed, measured

if TYPE_CHECKING:
    from salcore.runs import Run

STANDARD, GUIDED = "standard", "guided"
GUIDANCE = {"mode": "eval", "of": "log_probability"}
"""As the published code trains; signed ranking and the kind's own fill are the defaults."""
ADADELTA: dict[str, Any] = {"optimizer": "adadelta", "schedule": "constant", "learning_rate": 1.0}
"""How the published code steps on MNIST."""


def either_way(values: Mapping[str, Any], guidance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Spec values of an ensemble trained with the standard loss, and of the same seeds trained guided.

    `guidance` adds to `GUIDANCE`.
    """
    guided = {**values["training"], "objective": "guided", "guidance": {**GUIDANCE, **guidance}}
    return {STANDARD: dict(values), GUIDED: {**values, "training": guided}}


def named(prefix: str, pair: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pair under names that begin with what they are of."""
    return {f"{prefix}-{name}": values for name, values in pair.items()}


def pairs(runs: "Mapping[str, Run]") -> "dict[str, tuple[Run, Run]]":
    """The two runs of each pair by what they are of, standard first.

    Raises UserError for runs of which other members are trained: members of equal seeds are compared.
    """
    names = [name.removesuffix(f"-{STANDARD}") for name in runs if name.endswith(f"-{STANDARD}")]
    found = {name: (runs[f"{name}-{STANDARD}"], runs[f"{name}-{GUIDED}"]) for name in names}
    for name, (standard, guided) in found.items():
        if standard.members != guided.members:
            got = f"{list(standard.members)} and {list(guided.members)}"
            raise UserError("study", f"the same members of {name} trained either way (try --retry-failed)", got)
    return found


@cache  # rows and figures are made of the same numbers, which take minutes
def faithfulness(run: "Run", *names: str, random: bool = False) -> dict[tuple[str | None, str], Measured]:
    """Measures of each method of a run, and with `random` of random rankings, by (method, measure).

    All are of the samples that every method explains; random rankings are one per member.
    """
    samples = min(len(run.column(method, "sample")) for method in run.methods)
    settings = {name: {"draws": 1} for name in names} if random else None
    data = run.data()
    found: dict[tuple[str | None, str], Measured] = {}
    for method in [*run.methods, None] if random else run.methods:
        began = time.perf_counter()
        found |= measures(run, [method], names, samples=samples, data=data, settings=None if method else settings)
        took = time.perf_counter() - began
        print(f"measure  {', '.join(names)} of {method or 'random rankings'} in {took:.0f} s, {run.store}", flush=True)
    return found


def own(found: Measured) -> np.ndarray:
    """The value `(M,)` of each member's own maps."""
    return np.array(found.own)


def accuracies(run: "Run") -> np.ndarray:
    """Accuracy `(M,)` of each member on the evaluation samples."""
    labels, logits = run.logits()
    return (logits.argmax(-1) == labels).mean(1)


def told(what: str, values: Sequence[float] | np.ndarray, *, paper: float | None = None, note: str = "") -> Row:
    """A row of a number that each member has."""
    return measured(what, over_members(list(values)), paper=paper, note=note)


def gained(
    what: str,
    standard: np.ndarray,
    guided: np.ndarray,
    *,
    sign: int = 1,
    names: tuple[str, str] = (STANDARD, GUIDED),
    above: float | None = 0.0,
    papers: Sequence[float] | None = None,
) -> Row:
    """A row of guided less standard (with a sign of -1, of what it takes off), claimed to be above a number if any.

    `papers` are the paper's two numbers; `names` are for two others that are compared. Members of equal seeds are
    compared, and the interval is over them.
    """
    found = _paired(sign * standard, sign * guided)
    paper = None if papers is None else sign * (papers[1] - papers[0])
    note = f"{names[0]} {standard.mean():.3f}, {names[1]} {guided.mean():.3f}"
    if above is None:
        return measured(what, found, paper=paper, note=note)
    return claimed(what, found, above=above, paper=paper, note=note)


def missing(what: str, paper: float | None, why: str) -> Row:
    """A row of the paper's that is not had."""
    return measured(what, UNKNOWN, paper=paper, note=why)


def _paired(standard: np.ndarray, guided: np.ndarray) -> Estimate:
    return over_members(list(guided - standard)) if len(standard) == len(guided) else UNKNOWN
