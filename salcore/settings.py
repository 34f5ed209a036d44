"""Settings that a spec gives to a function, held against that function's signature.

The signature is the one place where a setting's name, type, range and default are written: a model builder or an
attribution method declares `width: Annotated[int, Within(1)] = 16`, and a spec that says `width: 0` is refused. Nothing
but the standard library is needed for it, so that networks and methods run without the packages that read specs.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Within:
    """The range of a number: `low` <= value <= `high`, or value < `below`; for `Annotated`."""

    low: float
    high: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and value < self.below

    def __str__(self) -> str:
        if self.below < math.inf:
            return f"from {self.low} to below {self.below}"
        return f"from {self.low} to {self.high}" if self.high < math.inf else f"of {self.low} or more"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One setting that a function does not take: its name, what was expected, and what was got."""

    setting: str
    expected: str
    got: object


def nearest(name: str, known: Collection[str], limit: int = 1) -> str:
    """The known names closest to a mistyped one, as text to end a message with; empty if none is close.

    >>> nearest("widht", ["width", "depth"])
    ' (nearest: width)'
    """
    close = difflib.get_close_matches(name, list(known), n=limit)
    return f" (nearest: {', '.join(close)})" if close else ""


def settings_of(function: Callable, reserved: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a function that are not `reserved`, in order."""
    parameters = inspect.signature(function).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in reserved
    }


def find_mistake(function: Callable, settings: Mapping[str, object], reserved: Collection[str] = ()) -> Mistake | None:
    """The first of the settings that the function's signature refuses, by name, type or range; None if all are right.

    >>> def blur(image, *, sigma: float = 1.0): ...
    >>> find_mistake(blur, {"sigma": "wide"})
    Mistake(setting='sigma', expected='a number', got='wide')
    """
    known = settings_of(function, reserved)
    for name, value in settings.items():
        if name not in known:
            names = ", ".join(known) or "no settings"
            return Mistake(setting=name, expected=f"one of {names}{nearest(name, known)}", got=value)
        if expected := _refusal(known[name].annotation, value):
            return Mistake(setting=name, expected=expected, got=value)
    return None


def taken(parameter: inspect.Parameter) -> str:
    """What a parameter takes in a spec, in words.

    >>> def blur(image, *, sigma: Annotated[float, Within(0)] | None = None): ...
    >>> taken(settings_of(blur)["sigma"])
    'a number of 0 or more or null'
    """
    return _refusal(parameter.annotation, object()) or "anything"


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    NoneType: "null",
}


def _refusal(annotation: Any, value: object) -> str:
    """What a parameter's annotation wants instead of the value; empty if it takes it.

    Strict: "3" is no number and true is no 1, but 1 is a float.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, inspect.Parameter.empty):
        return ""
    if origin is Annotated:
        kind, limits = arguments
        wanted = f"{_refusal(kind, object())} {limits}"
        return "" if not _refusal(kind, value) and value in limits else wanted
    if origin is Literal:
        return (
            "" if any(type(value) is type(choice) and value == choice for choice in arguments) else _either(arguments)
        )
    if origin in (Union, UnionType):
        refusals = {choice: _refusal(choice, value) for choice in arguments}
        told = dict.fromkeys(text for choice, text in refusals.items() if not _unwritable(choice))
        return " or ".join(told) if all(refusals.values()) else ""
    kind = origin or annotation
    accepted = (int, float) if kind is float else kind
    right = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    return "" if right else _WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _unwritable(annotation: Any) -> bool:
    """Whether it is a class that no spec can hold a value of, such as a tensor: only Python callers give those."""
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and kind not in (*_WORDS, list, dict, Annotated)


def _either(choices: Collection[object]) -> str:
    return " or ".join(repr(choice) for choice in choices)
