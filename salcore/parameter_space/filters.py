"""The filters of a network: what each number of a profile belongs to."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Kind = Literal["convolution", "transposed convolution", "linear"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One weight and its filters, one for each output channel: the slices that make one channel of the output.

    `name` is the module's, or the parameter's own where no module holds it as its `weight`. `depth` is the layer's
    place in the order in which the forward pass first runs the layers, from 0; None: the output does not depend on it.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    filters: int
    depth: int | None


@dataclass(frozen=True, kw_only=True)
class FilterTable:
    """The layers of a network in the order of its parameters; the P columns of a profile are their filters in order.

    >>> conv = Layer(name="stem", kind="convolution", shape=(2, 3, 5, 5), filters=2, depth=0)
    >>> FilterTable(layers=(conv,)).columns()
    {'layer': ['stem', 'stem'], 'filter': [0, 1], 'depth': [0, 0]}
    """

    layers: tuple[Layer, ...]

    def __len__(self) -> int:
        return sum(layer.filters for layer in self.layers)

    @property
    def linear(self) -> bool:
        """Whether linear layers are among them."""
        return any(layer.kind == "linear" for layer in self.layers)

    def slices(self) -> dict[str, slice]:
        """The columns of each layer in a profile, by its name."""
        ends = list(accumulate((layer.filters for layer in self.layers), initial=0))
        return {layer.name: slice(*pair) for layer, *pair in zip(self.layers, ends, ends[1:], strict=False)}

    def columns(self) -> dict[str, list]:
        """Layer, index of the filter in its layer, and depth of all P filters, as the columns of a table."""
        rows = [(layer, index) for layer in self.layers for index in range(layer.filters)]
        return {
            "layer": [layer.name for layer, _ in rows],
            "filter": [index for _, index in rows],
            "depth": [layer.depth for layer, _ in rows],
        }


def layer_name(parameter: str) -> str:
    """The name of the layer that a parameter is the weight of: `layer1.0.conv1.weight` is layer1.0.conv1."""
    return parameter.removesuffix(".weight")


def module_layers(model: nn.Module, *, linear: bool) -> dict[nn.Parameter, tuple[Kind, int]]:
    """Kind and number of filters by weight, for each module that is a convolution, or linear where that is asked for.

    A module whose weight is computed, as by weight normalisation, holds no weight.
    """
    found: dict[nn.Parameter, tuple[Kind, int]] = {}
    for module in model.modules():
        if (weight := dict(module.named_parameters(recurse=False)).get("weight")) is None:
            continue
        if isinstance(module, _ConvNd):
            found[weight] = "transposed convolution" if module.transposed else "convolution", module.out_channels
        elif linear and isinstance(module, nn.Linear):
            found[weight] = "linear", module.out_features
    return found


def layer_weights(model: nn.Module, table: FilterTable) -> list[nn.Parameter]:
    """The weight of each layer of the table. Raises ValueError for the table of another network."""
    weights = {layer_name(name): parameter for name, parameter in model.named_parameters()}
    for layer in table.layers:
        if layer.name not in weights or tuple(weights[layer.name].shape) != layer.shape:
            raise ValueError(f"`table`: expected the table of this network's filters, got one with {layer.name!r}")
    return [weights[layer.name] for layer in table.layers]


def filters_of(weight: Tensor, layer: Layer, numbers: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A view of a layer's weight, or of its gradient, and an index: view[index] (K, ...) are the filters of `numbers`.

    The view is (G, F / G, ...): filter k makes output k % (F / G) of group k // (F / G). A transposed convolution's
    weight (C, F / G, ...) holds G groups of inputs, each with its own filters; other weights (F, ...) count as one.

    >>> import torch
    >>> layer = Layer(name="up", kind="transposed convolution", shape=(2, 2, 1), filters=4, depth=0)
    >>> view, index = filters_of(torch.arange(4).view(2, 2, 1), layer, torch.tensor([3, 0]))
    >>> view[index].flatten().tolist()
    [3, 0]
    """
    transposed = layer.kind == "transposed convolution"
    groups = layer.filters // weight.shape[1] if transposed else 1
    view = weight.unflatten(0, (groups, -1))
    view = view.transpose(1, 2) if transposed else view
    return view, (numbers // view.shape[1], numbers % view.shape[1])
