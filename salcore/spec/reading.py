"""Reading a spec: YAML text, changed by the `key.sub=value` of a command line."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from salcore.errors import UserError
from salcore.spec.keys import explained
from salcore.spec.parts import named, wide
from salcore.spec.sections import ModelSpec, Spec


def parse(text: str | bytes, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a YAML text, changed by `key.sub=value` overrides whose values are YAML too.

    Raises UserError that names the key. The section `fingerprints` of a resolved spec is passed over.
    """
    values = value_of("spec", text)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError("spec", "a mapping of keys", values)
    values.pop("fingerprints", None)
    for override in sorted(overrides, key=_names_first):
        _set(values, override)
    return from_dict(values)


def fingerprints(text: str | bytes) -> dict[str, str]:
    """The section `fingerprints` of a resolved spec; empty where it has none. Raises UserError for what is none."""
    values = value_of("spec", text)
    found = (values.get("fingerprints") if isinstance(values, dict) else None) or {}
    if not isinstance(found, dict) or not all(isinstance(word, str) for word in (*found, *found.values())):
        raise UserError("fingerprints", "those that were written here, or none", found)
    return found


def from_dict(values: dict[str, Any]) -> Spec:
    """The spec of plain values. Raises UserError that names the first wrong key, with the nearest known one."""
    try:
        return _with_tokenizer(Spec.model_validate(values))
    except ValidationError as error:
        raise explained(error) from None


def _with_tokenizer(spec: Spec) -> Spec:
    """The spec with a language model's own tokenizer; one from scratch has a wordpiece of the training texts."""
    name, data = spec.model.name, spec.data
    if not name.startswith("transformers:") or data.vectors is not None:
        return spec
    from salcore.models import encoders  # here, as it takes seconds to know which names are types

    scratch = encoders.origin(name) == "scratch"
    if data.tokenizer == "wordpiece" and not scratch:
        expected = f"null, for the tokenizer that {name} was trained with"
        raise UserError("data.tokenizer", expected, data.tokenizer)
    tokenizer = data.tokenizer or ("wordpiece" if scratch else name.removeprefix(encoders.PREFIX))
    return spec.model_copy(update={"data": data.model_copy(update={"tokenizer": tokenizer})})


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(override, "key.sub=value")
    value = value_of(key, text)
    _start_anew(values, key, value)
    *folders, last = key.split(".")
    for folder in folders:
        inner = values.get(folder)
        inner = {} if inner is None else wide(inner) if folder == "until" else named(inner)
        if not isinstance(inner, dict):
            raise UserError(key, f"a key below a mapping; {folder} holds a value", inner)
        values[folder] = inner
        values = inner
    values[last] = value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the numbers of YAML 1.2: 1e-3 is one."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def value_of(key: str, text: str | bytes) -> Any:
    """The value of a YAML text. Raises UserError with `key`."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets through what its constructors meet, such as ValueError for the date 2020-13-45.
        raise UserError(key, f"YAML ({' '.join(str(error).split())})", text[:80]) from None


def _start_anew(values: dict[str, Any], key: str, value: Any) -> None:
    """Drop what another value of a key makes meaningless: settings of another network, a number of files."""
    model, ensemble = named(values.get("model")), values.get("ensemble")
    if key == "model.name" and isinstance(model, dict) and model.get("name", ModelSpec().name) != value:
        values["model"] = {}
    if key in ("ensemble.weights", "ensemble.start") and isinstance(ensemble, dict) and isinstance(value, list):
        ensemble.pop("members", None)


def _names_first(override: str) -> bool:
    """Sorts `model=...` and `model.name=...` before the settings of that model, in whatever order they are given."""
    key = override.partition("=")[0]
    return (
        "." in key and not key.endswith(".name") and key not in {"ensemble.weights", "ensemble.start", "ensemble.until"}
    )
