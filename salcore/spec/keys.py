"""The keys of a spec: what `--help` tells of them, and what is said of one that is wrong."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from salcore.errors import UserError
from salcore.spec.sections import MethodSpec, Spec


def describe(model: type[BaseModel] = Spec, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key with its default, unit and meaning, in order: what `--help` prints."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = _section(field)
        if inner is None or field.default is None:
            yield key, _default(field, prefix.rstrip(".")), _unit(field), field.description or ""
        if inner is not None:
            yield from describe(inner, f"{key}.")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one or null."""
    kinds = [each for each in get_args(field.annotation) if each is not type(None)] or [field.annotation]
    (kind, *others) = kinds
    return kind if not others and isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo, section: str) -> str:
    if field.is_required():
        return f"(required where {section} is given)"
    value = field.default
    if isinstance(value, tuple):
        items = ", ".join(item.folder if isinstance(item, MethodSpec) else str(item) for item in value)
        return f"[{items}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


_WORDS = {
    "attribution.target": "a class number or one of label, ensemble, prediction",
    "ensemble.until": "a width, or a mapping {width, method, first, step}",
    "parameters": "a mapping of parameters.* keys, such as {}",
    "training.threads": "a number of 1 or more, or auto",
    "sallm": "a mapping of sallm.* keys, such as {}",
}
"""What is expected where pydantic would list the branches of a union."""


def explained(error: ValidationError) -> UserError:
    """The first complaint of pydantic in the words of the command line, a misspelt key before what it leaves out."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    location = [part for part in first["loc"] if isinstance(part, int) or part in _parts()]
    if first["type"] == "extra_forbidden":
        unknown = str(first["loc"][-1])
        return UserError(
            ".".join(map(str, first["loc"])), f"a known key ({_nearest(unknown, first['loc'][:-1])})", unknown
        )
    key = ".".join(map(str, location)) or "spec"
    if first["type"] == "value_error":
        return UserError(key, str(first["ctx"]["error"]))
    if first["type"] == "missing":
        return UserError(key, "a value", None)
    expected = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return UserError(key, _WORDS.get(key, expected), first["input"])


def _parts() -> set[str]:
    """Every word that occurs in a key: pydantic also puts names of union branches into a location."""
    keys = {part for key, *_ in describe() for part in key.split(".")}
    return keys | set(Spec.model_fields) | {"as", "samples"}


def _nearest(unknown: str, location: Sequence[Any]) -> str:
    """A hint at the key that was meant: this one in another section, or the closest in spelling, or all there are."""
    elsewhere = [key for key, *_ in describe() if key.rsplit(".", 1)[-1] == unknown]
    model: type[BaseModel] = Spec
    for part in location:
        model = _section(model.model_fields[str(part)]) or model
    siblings = [field.alias or name for name, field in model.model_fields.items()]
    near = elsewhere or difflib.get_close_matches(unknown, siblings, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"one of {', '.join(siblings)}"
