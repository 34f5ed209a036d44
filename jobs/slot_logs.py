"""What slots are at, and how fast they are: told from the ends of their logs in the run directory (`cluster.train`)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from salcore.storage import Store

TAIL = 1 << 16
"""Bytes of a log's end that are read first: an epoch is a line, and the last few hundred tell the pace."""

_LINE = re.compile(r"(\d{4}-\S+) (?:process (\d+ on \S+),|member (\d+) (begins|\{|is trained|failed))")
_NAME = re.compile(r"logs/train-slot-(\d+)\.log")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A slot as its log tells: the member that it trains (None: it is over), where, and how its epochs went.

    `epochs` were done in `seconds` of training. `heard` is when the last line was written, in seconds since 1970.
    """

    number: int
    member: int | None
    process: str
    heard: float
    epochs: int
    seconds: float


def slots(store: Store, since: float = 0.0) -> Iterator[Slot]:
    """Every slot that has written since then. Times are in seconds since 1970."""
    for name in store.files("logs"):
        if match := _NAME.fullmatch(name):
            found = _read(_end(store, name), int(match.group(1)), since)
            if found is not None:
                yield found


def _read(lines: list[str], number: int, since: float) -> Slot | None:
    """What the lines say from `since` on: time counts from line to line of one member, not between members."""
    member, process, heard, epochs, seconds = None, "a process that is not known", 0.0, 0, 0.0
    for line in lines:
        match = _LINE.match(line)
        if match is None or (time := _seconds(match.group(1))) < since:
            continue
        stood, event = match.group(3), match.group(4)
        if stood is None:
            process, heard = f"process {match.group(2)}", time
            continue
        if event != "begins" and member == int(stood):
            seconds += time - heard
            epochs += event == "{"
        member, heard = (int(stood) if event in ("begins", "{") else None), time
    if not heard:
        return None
    return Slot(number=number, member=member, process=process, heard=heard, epochs=epochs, seconds=seconds)


def _end(store: Store, name: str) -> list[str]:
    """The last lines of a log, back to where a member begins."""
    with store.open(name) as stream:
        size = wanted = stream.size()
        if size > TAIL:
            wanted = TAIL
        while True:
            stream.seek(size - wanted)
            text = stream.read(wanted).decode(errors="replace")
            if wanted == size or re.search(r"\n\S+ process .*\n\S+ member \d+ begins\n", text):
                return text.splitlines()
            wanted = min(size, 8 * wanted)


def _seconds(stamp: str) -> float:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:  # a line that was cut
        return 0.0
