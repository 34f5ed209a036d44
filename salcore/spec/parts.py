"""What the sections of a spec are made of: fields that `--help` tells of, and short ways to write a section."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue


def told(description: str, unit: str = "", **limits: Any) -> Any:
    """A field with what `--help` says of it."""
    return Field(description=description, json_schema_extra={"unit": unit}, **limits)


def listed(value: Any) -> Any:
    """A list as a tuple, since specs are frozen."""
    return tuple(value) if isinstance(value, list) else value


class Part(BaseModel):
    """A section that knows all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Open(BaseModel):
    """A part that also holds the settings of whatever it names, checked by that one's signature."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]  # what YAML and JSON both hold, so that it is written and read back

    @property
    def settings(self) -> dict[str, Any]:
        """The other keys."""
        return dict(self.__pydantic_extra__ or {})


def named(value: Any) -> Any:
    """A bare name stands for the part of that name with every default: `data=folder:PATH`, `model=resnet18`."""
    return {"name": value} if isinstance(value, str) else value


def wide(value: Any) -> Any:
    """A bare number stands for the part of that width with every default: `ensemble.until=0.1`."""
    return {"width": value} if isinstance(value, int | float) and not isinstance(value, bool) else value
