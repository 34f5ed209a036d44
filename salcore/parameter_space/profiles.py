"""Filter profiles: how strongly the loss on a sample depends on each filter of a network."""

from collections import Counter

import torch
from torch import Tensor, nn

from salcore.network import logits_of, require_integers
from salcore.parameter_space.filters import FilterTable
from salcore.parameter_space.graph import Call
from salcore.parameter_space.kernel import Use, filter_means
from salcore.parameter_space.owners import rows_of_samples
from salcore.parameter_space.recording import (
    losses_of,
    read_layers,
    recorded,
    require_same,
)


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
    return profiled(model, inputs, labels, linear=linear, table=table)[0]


def profiled(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, linear: bool = False, table: FilterTable | None = None
) -> tuple[Tensor, Tensor]:
    """The `filter_profiles` (N, P) and, from the same pass, the logits (N, K)."""
    require_integers("labels", labels, inputs)
    with recorded(model, inputs) as inputs:
        logits = model(inputs)
        losses = losses_of(logits, labels)
        graph, layers = read_layers(model, losses, linear=linear if table is None else table.linear)
        if table is None:
            table = FilterTable(layers=tuple(layers.values()))
        require_same(table, layers.values(), model)
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
        return profiles, logits.detach()


def filter_table(model: nn.Module, inputs: Tensor, *, linear: bool = False) -> FilterTable:
    """The layers whose filters are the columns of `filter_profiles`, in parameter order; one sample is enough.

    Raises ValueError as `filter_profiles` does.
    """
    with recorded(model, inputs) as inputs:
        logits = logits_of(model(inputs), len(inputs))
        return FilterTable(layers=tuple(read_layers(model, logits, linear=linear)[1].values()))
