"""A network's output as autograd recorded it: the losses, and the layers that they come from."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.evaluated import evaluated
from salcore.network import following, logits_of, require_classes
from salcore.parameter_space.filters import FilterTable, Kind, Layer, layer_name, module_layers
from salcore.parameter_space.graph import Graph


@contextmanager
def recorded(model: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """The inputs as the model takes them, in a block where it is evaluated and autograd records all its parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    if any(parameter.is_inference() for parameter in parameters):
        raise ValueError("`model`: expected parameters that autograd records, got some made in inference mode")
    with evaluated(model), torch.inference_mode(False), torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        # A copy, so that a model whose first layer works in place does not write to the caller's tensor.
        yield following(model, inputs, copy=True)


def losses_of(output: object, labels: Tensor, name: str = "labels") -> Tensor:
    """The cross-entropy of each sample, (N,)."""
    logits = logits_of(output, len(labels))
    labels = labels.to(logits.device, torch.int64, copy=True)  # one made in inference mode takes no part in autograd
    require_classes(name, labels, logits.shape[1])
    losses = functional.cross_entropy(logits, labels, reduction="none")
    if not bool((finite := losses.isfinite()).all()):
        first = int((~finite).nonzero()[0])
        raise ValueError(f"`model`: expected a finite loss for every sample, got {losses[first].item()} for {first}")
    return losses


def read_layers(model: nn.Module, output: Tensor, *, linear: bool) -> tuple[Graph, dict[nn.Parameter, Layer]]:
    """The graph of an output and the layers by their weights, in the order of the parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    kinds = module_layers(model, linear=linear)
    graph = Graph(output, names, kinds, linear=linear)
    depths: dict[nn.Parameter, int] = {}
    used: dict[nn.Parameter, tuple[Kind, int]] = {}
    for call in graph.calls:
        depths.setdefault(call.weight, len(depths))
        if used.setdefault(call.weight, (call.kind, call.filters)) != (call.kind, call.filters):
            raise ValueError(f"`model`: expected {names[call.weight]!r} to be used in one way, got several")
    kinds |= used
    layers = {
        weight: Layer(
            name=layer_name(name),
            kind=kinds[weight][0],
            shape=tuple(weight.shape),
            filters=kinds[weight][1],
            depth=depths.get(weight),
        )
        for weight, name in names.items()
        if weight in kinds
    }
    if not depths:
        what = "convolutions or linear layers" if linear else "convolutions"
        got = "none" if not layers else f"{len(layers)} that it does not depend on"
        raise ValueError(f"`model`: expected {what} that the output depends on, got {got}")
    return graph, layers


def require_same(table: FilterTable, layers: Collection[Layer], model: nn.Module, name: str = "table") -> None:
    """Raise ValueError unless the layers are in the table, and the table's others are parameters that did not run."""
    shapes = {layer_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    known = {layer.name: replace(layer, depth=None) for layer in table.layers}
    strange = [layer.name for layer in table.layers if shapes.get(layer.name) != layer.shape]
    missing = [layer.name for layer in layers if known.get(layer.name) != replace(layer, depth=None)]
    if strange or missing:
        got = f"one with {strange[0]!r}" if strange else f"one without {missing[0]!r}"
        raise ValueError(f"`{name}`: expected the table of this network's filters, got {got}")
