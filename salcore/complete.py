"""A spec with the defaults of the networks and methods that it names written out.

What a run is must not change when a default does: a directory that was begun with `depth` left out says which depth.
"""

from collections.abc import Callable, Mapping
from typing import Any

from salcore.attribution import METHODS
from salcore.data.part import Kind
from salcore.models import builder
from salcore.objectives import fill_for
from salcore.settings import settings_of
from salcore.spec import MethodSpec, Spec, TrainingSpec

GIVEN = ("input_shape", "classes")


def complete(spec: Spec, kind: Kind = "images") -> Spec:
    """The spec with every setting of network, methods and guidance; a user's own network keeps what it was given.

    `kind` is that of the data: it decides what takes the place of masked features.

    >>> from salcore.spec import parse
    >>> complete(parse("model: {name: small_cnn, width: 4}")).model.settings["depth"]
    2
    """
    spec = spec.model_copy(update={"training": _guided(spec.training, kind)})
    attribution = spec.attribution.model_copy(update={"methods": tuple(map(_method, spec.attribution.methods))})
    if spec.model.name.startswith("python:"):
        return spec.model_copy(update={"attribution": attribution})
    model = spec.model.model_validate(
        {**spec.model.model_dump(), **_filled(builder(spec.model.name), spec.model.settings)}
    )
    return spec.model_copy(update={"attribution": attribution, "model": model})


def _guided(training: TrainingSpec, kind: Kind) -> TrainingSpec:
    guidance = training.guidance.model_copy(update={"fill": fill_for(kind, training.guidance.fill)})
    return training.model_copy(update={"guidance": guidance})


def _method(method: MethodSpec) -> MethodSpec:
    settings = _filled(METHODS[method.name], method.settings)
    if isinstance(of := settings.get("of"), Mapping):
        settings["of"] = {"name": of["name"], **_filled(METHODS[of["name"]], of)}
    elif of is not None:
        settings = {**_filled(METHODS[of], {}), **settings}
    return MethodSpec.model_validate({**method.model_dump(by_alias=True), **settings})


def _filled(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {
        name: parameter.default
        for name, parameter in settings_of(function, reserved=GIVEN).items()
        if parameter.default is not parameter.empty
    }
    return {**defaults, **settings}
