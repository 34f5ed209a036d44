"""What parameter-space saliency asks of a network, checked and completed before any work."""

from typing import Any

from torch import nn

from salcore import models
from salcore.blame.splits import part_of
from salcore.data import Data
from salcore.data.batches import inputs_of
from salcore.errors import UserError
from salcore.parameter_space import FilterTable, filter_table
from salcore.seeds import forked
from salcore.spec import MethodSpec, Spec
from salcore.spec.parameters import ParametersSpec


def table(spec: Spec, data: Data, model: nn.Module) -> FilterTable:
    """The filters of a network. Raises UserError for one whose filters cannot be read."""
    parameters = spec.parameters
    assert parameters is not None
    part = part_of(data, parameters.held_out)
    sample, _ = inputs_of(part, part.index[:1], data)
    try:
        return filter_table(model, sample, linear=parameters.linear)
    except Exception as error:  # whatever a user's network raises is told in one line
        raise UserError("model.name", f"a network whose filters can be read ({error})", spec.model.name) from None


def completed(spec: Spec, data: Data) -> Spec:
    """The spec with numbers of filters that its network has, where none are given; itself without `parameters`.

    Raises UserError for more filters than there are.
    """
    if spec.parameters is None:
        return spec
    with forked(0):
        model = models.build(spec.model, input_shape=data.shape, classes=len(data.classes), start=False)
    filters = len(table(spec, data, model))
    parameters = _within(spec.parameters, filters, spec.model.name)
    if data.kind != "images":  # which masking is of
        kept = tuple(each for each in parameters.experiments if each != "masking")
        parameters = parameters.model_copy(update={"experiments": kept})
    methods = tuple(_boosting(method, parameters) for method in spec.attribution.methods)
    attribution = spec.attribution.model_copy(update={"methods": methods})
    return spec.model_copy(update={"parameters": parameters, "attribution": attribution})


def _within(parameters: ParametersSpec, filters: int, network: str) -> ParametersSpec:
    """The section for a network of so many filters: defaults are cut to what there is."""
    given = parameters.model_fields_set
    changes: dict[str, Any] = {}
    for key in ("pruned", "tuned"):
        counts = getattr(parameters, key)
        if key not in given:
            changes[key] = tuple(count for count in counts if count <= filters)
        elif counts[-1] > filters:
            raise UserError(f"parameters.{key}", f"at most the {filters} filters of {network}", counts[-1])
    if "boosted" not in given:
        changes["boosted"] = min(parameters.boosted, max(1, filters - 1))
    elif parameters.boosted >= filters:
        raise UserError("parameters.boosted", f"fewer than the {filters} filters of {network}", parameters.boosted)
    return parameters.model_copy(update=changes)


def _boosting(method: MethodSpec, parameters: ParametersSpec) -> MethodSpec:
    """The method with as many filters as are boosted elsewhere, where it does not say how many."""
    if method.name != "input_space_saliency" or "filters" in method.settings:
        return method
    return MethodSpec.model_validate({**method.model_dump(by_alias=True), "filters": parameters.boosted})
