"""Rows of the claims, and the page that they are written to."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = """# What the papers claim, tried again

Written by `make claims` (one claim: `python -m tests.claims guided`). Small runs on real data, so the direction of a
claim is tested, not its size. Intervals are 95 %: over members where nothing else is said (a jackknife, or t over pairs
of equal seeds), over samples, classes or methods where a row or its section says so.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim: what is said where, the number given there, ours with its interval, and whether it holds."""

    claim: str
    paper: str
    ours: str
    interval: str
    holds: bool | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """The rows of one experiment, and how it was run."""

    name: str
    title: str
    setting: str
    rows: tuple[Row, ...]
    minutes: float


def verdict(row: Row) -> str:
    """The word in the table."""
    return {True: "yes", False: "**no**", None: ""}[row.holds]


def interval(low: float, high: float, form: str = ".3f") -> str:
    """Both ends in brackets."""
    return f"[{low:{form}}, {high:{form}}]"


def markdown(section: Section) -> str:
    """A section as it stands on the page, between marks by which it is found again."""
    columns = ("claim", "paper", "ours", "interval", "holds", "why")
    lines = [f"## {section.title}", "", f"{section.setting} {_made(section)}", ""]
    lines += [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [
        f"| {' | '.join((row.claim, row.paper, row.ours, row.interval, verdict(row), row.why))} |"
        for row in section.rows
    ]
    return "\n".join([_mark(section.name), *lines, ""])


def record(sections: Sequence[Section], path: Path = RESULTS) -> None:
    """Put sections on the page; one replaces the earlier one of its name."""
    known = _read(path.read_text()) if path.exists() else {}
    known |= {section.name: markdown(section) for section in sections}
    path.write_text("\n".join([_HEAD, *(known[name] for name in sorted(known))]))


def _made(section: Section) -> str:
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return f"{date}, the last command took {section.minutes:.0f} minutes, torch {version('torch')}."


def _mark(name: str) -> str:
    return f"<!-- {name} -->"


def _read(text: str) -> dict[str, str]:
    """Sections by name."""
    found = {}
    for block in text.split("<!-- ")[1:]:
        name, _, rest = block.partition(" -->")
        found[name] = f"{_mark(name)}{rest.rstrip()}\n"
    return found
