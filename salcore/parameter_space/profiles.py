"""Filter profiles: how strongly the loss on a sample depends on each filter of a network."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.attribution.autograd import evaluated
from salcore.parameter_space.filters import FilterTable, Kind, Layer, layer_name, module_layers
from salcore.parameter_space.graph import Call, Graph
from salcore.parameter_space.kernel import Use, filter_means
from salcore.parameter_space.owners import rows_of_samples

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def filter_profiles(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, linear: bool = False, table: FilterTable | None = None
) -> Tensor:
    """s(x, y)_k = mean of |dL(x, y) / dw| over the weights w of filter k, with L the cross-entropy loss.

    Inputs (N, ...), labels (N,) integers; returns (N, P) in float32, or in float64 for such a model: a column for each
    filter of `filter_table`, of convolutions in parameter order, if `linear` also of linear layers. A given `table`
    says which, and fixes the columns for networks that do not always call the same functions. Filters that the output
    does not depend on have zeros. Biases do not count; the uses of a filter add up before the magnitude.

    Costs a forward pass, a backward pass without weight gradients, and a product per layer, tile by tile: the samples'
    weight gradients are never in memory. A network that folds other axes into the batch, such as the tokens that linear
    layers see, costs a further backward pass, and one more for each factor of 16 in N. The model runs in evaluation
    mode, in its own dtype and on its device, and is left as it was.

    Raises ValueError for a network without convolutions, or whose filters are not parameters, are used in other ways,
    or see several samples at once; for outputs other than logits (N, K), labels out of range, and a loss that is NaN
    or infinite.

    Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), Eq. 1.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    >>> model[0].weight.data[:] = 0.0
    >>> filter_profiles(model, torch.tensor([3.0, -4.0]).view(2, 1, 1, 1), torch.tensor([0, 1]))
    tensor([[1.5000, 1.5000],
            [2.0000, 2.0000]])
    """
    _require_labelled(inputs, labels)
    with _recorded(model, inputs) as inputs:
        losses = _losses(model(inputs), labels)
        graph, layers = _read(model, losses, linear=linear if table is None else table.linear)
        if table is None:
            table = FilterTable(layers=tuple(layers.values()))
        _require_same(table, layers.values(), model)
        dtype = torch.promote_types(losses.dtype, torch.float32)
        profiles = torch.zeros(len(losses), len(table), dtype=dtype, device=losses.device)
        columns = {weight: table.slices()[layer.name] for weight, layer in layers.items() if layer.depth is not None}
        rows = rows_of_samples(graph, losses)
        calls_left = Counter(call.weight for call in graph.calls)
        uses: dict[nn.Parameter, list[Use]] = {weight: [] for weight in calls_left}

        def visit(call: Call, gradient: Tensor | None) -> None:
            if gradient is not None and len(call.given):
                uses[call.weight].append(Use(call=call, gradient=gradient, rows=rows[call]))
            calls_left[call.weight] -= 1
            if not calls_left[call.weight] and (complete := uses.pop(call.weight)):
                profiles[:, columns[call.weight]] = filter_means(complete, len(losses))

        graph.backward(losses, visit)
        return profiles


def filter_table(model: nn.Module, inputs: Tensor, *, linear: bool = False) -> FilterTable:
    """The layers whose filters are the columns of `filter_profiles`, in parameter order; one sample is enough.

    Raises ValueError as `filter_profiles` does.
    """
    with _recorded(model, inputs) as inputs:
        logits = _logits(model(inputs), len(inputs))
        return FilterTable(layers=tuple(_read(model, logits, linear=linear)[1].values()))


@contextmanager
def _recorded(model: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """The inputs as the model takes them, in a block where it is evaluated and autograd records all its parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    if any(parameter.is_inference() for parameter in parameters):
        raise ValueError("`model`: expected parameters that autograd records, got some made in inference mode")
    with evaluated(model), torch.inference_mode(False), torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        like = parameters[0] if parameters else inputs
        # A copy, so that a model whose first layer works in place does not write to the caller's tensor.
        yield inputs.detach().clone().to(like.device, like.dtype)


def _require_labelled(inputs: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless there is one integer for each of the inputs."""
    for name, value in (("inputs", inputs), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise ValueError(f"`{name}`: expected a tensor, got {type(value).__name__}")
    if labels.shape != inputs.shape[:1] or labels.dtype not in _INTEGERS:
        got = f"{tuple(labels.shape)} of {labels.dtype}"
        raise ValueError(f"`labels`: expected one integer for each of the inputs {tuple(inputs.shape)}, got {got}")


def _logits(output: object, samples: int) -> Tensor:
    """The output, if it is logits (N, K)."""
    if not isinstance(output, Tensor):
        raise ValueError(f"`model`: expected logits as one tensor (N, K), got {type(output).__name__}")
    if output.ndim != 2 or len(output) != samples:
        raise ValueError(f"`model`: expected logits of shape ({samples}, K), got {tuple(output.shape)}")
    return output


def _losses(output: object, labels: Tensor) -> Tensor:
    """The cross-entropy of each sample, (N,)."""
    logits = _logits(output, len(labels))
    classes = logits.shape[1]
    labels = labels.to(logits.device, torch.int64, copy=True)  # one made in inference mode takes no part in autograd
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        got = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"`labels`: expected classes from 0 to {classes - 1}, got {got}")
    losses = functional.cross_entropy(logits, labels, reduction="none")
    if not bool((finite := losses.isfinite()).all()):
        first = int((~finite).nonzero()[0])
        raise ValueError(f"`model`: expected a finite loss for every sample, got {losses[first].item()} for {first}")
    return losses


def _read(model: nn.Module, output: Tensor, *, linear: bool) -> tuple[Graph, dict[nn.Parameter, Layer]]:
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


def _require_same(table: FilterTable, layers: Collection[Layer], model: nn.Module) -> None:
    """Raise ValueError unless the layers are in the table, and the table's others are parameters that did not run."""
    shapes = {layer_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    known = {layer.name: replace(layer, depth=None) for layer in table.layers}
    strange = [layer.name for layer in table.layers if shapes.get(layer.name) != layer.shape]
    missing = [layer.name for layer in layers if known.get(layer.name) != replace(layer, depth=None)]
    if strange or missing:
        got = f"one with {strange[0]!r}" if strange else f"one without {missing[0]!r}"
        raise ValueError(f"`table`: expected the table of this network's filters, got {got}")
