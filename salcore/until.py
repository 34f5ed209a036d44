"""Adaptive stopping: how many members an ensemble needs for the wanted precision of its mean SNR.

An ensemble is looked at with its first `first` members, then with `step` more each time, and with all
`ensemble.members` at last. It is done at the first look at which the 95 % jackknife interval of the mean SNR of one
method is narrower than asked. Which members a look is at depends on the spec alone, and the interval on their maps
alone: the number is the same for any number of slots, and a run that stops at 14 members is the first 14 of 30.

The looks taken lie in `<run>/until.json`. They are measurements, so another `ensemble.until` decides anew on them.

>>> from salcore.spec import parse
>>> ensemble = parse("ensemble: {members: 8, until: {width: 0.1, first: 3, step: 2}}").ensemble
>>> list(looks(ensemble))
[3, 5, 7, 8]
>>> decide([], ensemble)
Decision(members=3, settled=False, reached=False)
>>> decide([Round(members=3, value=0.60, low=0.56, high=0.64)], ensemble)
Decision(members=3, settled=True, reached=True)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from salcore import members
from salcore.errors import UserError
from salcore.spec import EnsembleSpec, MethodSpec, Spec
from salcore.statistics import projected_members
from salcore.storage import Store

FILE = "until.json"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One look: the mean SNR of the first `members` members but those that `failed`, with its 95 % interval."""

    members: int
    value: float
    low: float
    high: float
    failed: tuple[int, ...] = ()

    @property
    def width(self) -> float:
        """Of the interval; NaN where it is not defined."""
        return self.high - self.low


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The members to look at next or, where it is `settled`, those that the run is of.

    `reached`: settled because the interval is narrow enough, not because there are no more members.
    """

    members: int
    settled: bool
    reached: bool


def looks(ensemble: EnsembleSpec) -> Iterator[int]:
    """Numbers of members at which an ensemble with `until` is looked at, in order."""
    assert ensemble.until is not None
    yield from range(ensemble.until.first, ensemble.members, ensemble.until.step)
    yield ensemble.members


def decide(rounds: Sequence[Round], ensemble: EnsembleSpec) -> Decision:
    """What the looks taken so far say. Those at other numbers than this ensemble's own do not count."""
    assert ensemble.until is not None
    taken = {each.members: each for each in rounds}
    for count in looks(ensemble):
        if count not in taken:
            return Decision(members=count, settled=False, reached=False)
        if taken[count].width < ensemble.until.width:
            return Decision(members=count, settled=True, reached=True)
    return Decision(members=ensemble.members, settled=True, reached=False)


def method(spec: Spec) -> MethodSpec:
    """The method whose SNR decides. Raises UserError if the run has no such method."""
    name = spec.ensemble.until and spec.ensemble.until.method
    found = {each.folder: each for each in spec.attribution.methods}
    if name is not None and name not in found:
        raise UserError("ensemble.until.method", f"a folder name of attribution.methods ({', '.join(found)})", name)
    return spec.attribution.methods[0] if name is None else found[name]


def read(store: Store, spec: Spec, recipe: str) -> tuple[Round, ...]:
    """The looks that were taken of this very run, by members; `recipe` is the fingerprint of what members share.

    Raises Damaged for a file that is not as it was written.
    """
    if not store.exists(FILE):
        return ()
    content = store.read_as(FILE, _Rounds)
    if content.fingerprint != _fingerprint(spec, recipe):
        return ()
    return tuple(
        Round(members=row.members, failed=row.failed, value=float(row.value), low=float(row.low), high=float(row.high))
        for row in content.rounds
    )


def write(store: Store, spec: Spec, recipe: str, rounds: Sequence[Round]) -> None:
    """Write the looks that were taken."""
    rows = [
        {"members": each.members, "failed": each.failed, **{key: _plain(getattr(each, key)) for key in _NUMBERS}}
        for each in sorted(rounds, key=lambda each: each.members)
    ]
    content = {"fingerprint": _fingerprint(spec, recipe), "method": method(spec).folder, "rounds": rows}
    store.write_json(FILE, content)


def planned(store: Store, spec: Spec, recipe: str) -> int:
    """The members that a run is of: where `until` has settled it that number, else `ensemble.members`."""
    if spec.ensemble.until is None:
        return spec.ensemble.members
    decision = decide(read(store, spec, recipe), spec.ensemble)
    return decision.members if decision.settled else spec.ensemble.members


def told(look: Round, ensemble: EnsembleSpec) -> str:
    """A look in one line: SNR, interval, what was asked, and how many members that is likely to take."""
    assert ensemble.until is not None
    most, asked, snr = ensemble.members, ensemble.until.width, f"{look.members} members: SNR {look.value:.3f}"
    if math.isnan(look.width):
        return f"{snr}, no interval ({_why_none(look)}); {asked:g} asked" + _going_on(look, most)
    found = f"{snr} ({look.low:.3f} to {look.high:.3f}), interval {look.width:.3g} wide"
    if look.width < asked:
        return f"{found}, narrower than the {asked:g} asked"
    needed = projected_members(look.width, asked, look.members - len(look.failed))
    beyond = f", more than the at most {most} of ensemble.members" if needed > most else ""
    return f"{found}; {asked:g} asked, {_about(needed)} projected" + (beyond and beyond + _going_on(look, most))


def unreached(rounds: Sequence[Round], ensemble: EnsembleSpec) -> str | None:
    """That all members did not do, and how many may; None unless it came so."""
    if ensemble.until is None or not (decision := decide(rounds, ensemble)).settled or decision.reached:
        return None
    return "ensemble.until is not reached: " + told(next(r for r in rounds if r.members == ensemble.members), ensemble)


_NUMBERS = ("value", "low", "high")
_Number = float | Literal["nan", "inf", "-inf"]


class _Row(BaseModel):
    members: int
    failed: tuple[int, ...]
    value: _Number
    low: _Number
    high: _Number


class _Rounds(BaseModel):
    """What `until.json` holds."""

    fingerprint: str
    method: str
    rounds: tuple[_Row, ...]


def _why_none(look: Round) -> str:
    """Why a look has no interval. Of how many members maps are finite it knows no more than how many failed."""
    if math.isinf(look.value):
        return "a sample has no noise"
    if look.members - len(look.failed) < 3:
        return "fewer than 3 of them have finite maps"
    return "it is infinite or not defined without one of them"


def _going_on(look: Round, most: int) -> str:
    return f": training goes on to {most}" if look.members < most else ""


def _about(needed: float) -> str:
    return f"about {needed:,.0f} members" if math.isfinite(needed) else "no number of members"


def _fingerprint(spec: Spec, recipe: str) -> str:
    """Of all that a look depends on beside its number of members: what they are, and what is explained and how."""
    attribution = spec.attribution.model_dump(mode="json", by_alias=True, exclude={"methods"})
    chosen = method(spec).model_dump(mode="json", by_alias=True)
    held_out = spec.parameters  # what a method may be standardised over
    more = [] if held_out is None else [held_out.held_out, held_out.linear]
    return members.fingerprint(recipe, attribution, chosen, spec.data.eval_samples, spec.data.split_seed, *more)


def _plain(value: float) -> float | str:
    """A number for JSON, which has neither NaN nor infinity: a word."""
    return value if math.isfinite(value) else str(value)
