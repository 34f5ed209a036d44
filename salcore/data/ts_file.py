"""Series with class labels in the `.ts` format of the UEA archive and sktime."""

from pathlib import Path

import numpy as np

from salcore.data.cases import Cases
from salcore.errors import UserError


def read_ts(path: Path) -> tuple[Cases, tuple[str, ...]]:
    """The cases of a file and the classes that its header names.

    After `#` comments, `@` headers and `@data` comes a case per line: channels between colons, values between commas,
    and the class last. Raises UserError naming the file or the case.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError("data.name", "readable .ts files", str(error)) from error
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    start = next((place for place, line in enumerate(lines) if line.lower() == "@data"), None)
    if start is None:
        raise UserError("data.name", f"a line @data in {path}", "none")
    classes = _classes(lines[:start], path)
    cases = [_case(line, f"case {number} of {path.name}") for number, line in enumerate(lines[start + 1 :], start=1)]
    return Cases(
        values=[values for values, _ in cases], labels=[label for _, label in cases], origin=path.name
    ), classes


def _classes(header: list[str], path: Path) -> tuple[str, ...]:
    for line in header:
        tag, *values = line.split()
        if tag.lower() == "@classlabel" and values and values[0].lower() == "true":
            return tuple(values[1:])
    raise UserError("data.name", f"a line @classLabel true, with the classes, in {path}", "none")


def _case(line: str, place: str) -> tuple[np.ndarray, str]:
    """Values `(F, T)`, float64, and the class."""
    if "?" in line:
        raise UserError("data.name", f"all values of {place}", "a missing one (?)")
    if "(" in line:
        raise UserError("data.name", f"values without time stamps in {place}", line[:20])
    *channels, label = line.split(":")
    try:
        values = [[float(value) for value in channel.split(",")] for channel in channels]
    except ValueError as error:
        raise UserError("data.name", f"numbers in {place}", str(error)) from error
    lengths = sorted({len(channel) for channel in values})
    if len(lengths) != 1:
        raise UserError("data.name", f"channels of one length, and a class, in {place}", f"lengths {lengths}")
    return np.array(values), label.strip()
