"""Labelled series one by one, of one length or not, and what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salcore.data.sequences import padded
from salcore.data.source import Labelled, Source
from salcore.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """One split: series `(F, t_n)`, their classes by name, and where they are from."""

    values: Sequence[np.ndarray]
    labels: Sequence[str]
    origin: str

    def place(self, number: int) -> str:
        """How to call a case; the first one is 1."""
        return f"case {number + 1} of {self.origin}"


def series_source(train: Cases, test: Cases, *, classes: tuple[str, ...], length: int | None) -> Source:
    """A source of series `(N, F, T)`, float32. Raises UserError naming the case that does not fit."""
    both = train, test
    for cases in both:
        if not cases.values:
            raise UserError("data.name", f"cases in {cases.origin}", "none")
        _refuse_other_features(cases, len(train.values[0]), train.place(0))
    if length is None:
        _refuse_other_lengths(both)
    steps = length or train.values[0].shape[-1]
    found = [_labelled(cases, classes, steps) for cases in both]
    return Source(train=found[0], test=found[1], classes=classes, kind="series")


def _labelled(cases: Cases, classes: tuple[str, ...], steps: int) -> Labelled:
    numbers = {name: number for number, name in enumerate(classes)}
    for number, label in enumerate(cases.labels):
        if label not in numbers:
            raise UserError("data.name", f"one of {', '.join(classes)} as the class of {cases.place(number)}", label)
    values, lengths = padded([_finite(case, cases.place(number)) for number, case in enumerate(cases.values)], steps)
    labels = np.array([numbers[label] for label in cases.labels], np.int64)
    return Labelled(values=values, labels=labels, lengths=lengths if (lengths < steps).any() else None)


def _finite(case: np.ndarray, place: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused
        case = case.astype(np.float32)
    if not np.isfinite(case).all():
        raise UserError("data.name", f"finite values in {place}", "NaN" if np.isnan(case).any() else "infinite ones")
    return case


def _refuse_other_features(cases: Cases, features: int, first: str) -> None:
    for number, case in enumerate(cases.values):
        if len(case) != features:
            raise UserError("data.name", f"{features} features, as in {first}, in {cases.place(number)}", len(case))


def _refuse_other_lengths(both: Sequence[Cases]) -> None:
    steps = both[0].values[0].shape[-1]
    for cases in both:
        for number, case in enumerate(cases.values):
            if case.shape[-1] != steps:
                expected = "a number of steps to pad or cut to, as the series differ in length"
                told = f"{both[0].place(0)} with {steps} steps, {cases.place(number)} with {case.shape[-1]}"
                raise UserError("data.length", expected, told)
