"""Input-space saliency: which pixels make the filters salient that are to blame for a loss."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from salcore.calls import Calls
from salcore.network import require_integers
from salcore.parameter_space.filters import Layer
from salcore.parameter_space.graph import Call, Graph
from salcore.parameter_space.kernel import Use, filter_means
from salcore.parameter_space.owners import rows_of_samples
from salcore.parameter_space.recording import losses_of, read_layers, recorded, require_same
from salcore.parameter_space.slopes import slopes
from salcore.parameter_space.statistics import ProfileStatistics
from salcore.settings import Within

_TINY = torch.finfo(torch.float64).tiny


def input_space_saliency(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    statistics: ProfileStatistics,
    filters: Annotated[int, Within(1)] = 10,
    boost: Annotated[float, Within(1)] = 100.0,
) -> Tensor:
    """S(x) = d D(s^(x, y), s') / d x, by which pixels the most salient filters become more salient still.

        s^ = (s(x, y) - mean) / deviation        D(s^, s') = 1 - <s^, s'> / (|s^| |s'|)

    s(x, y) is the profile (`filter_profiles`) of the loss at target y, mean and deviation are the `statistics` of a
    held-out set, and s' is s^ with its `filters` largest entries multiplied by `boost`, a constant. Signed: where it is
    negative, more of the pixel brings the profile nearer to the boosted one. The paper shows its magnitude. Zero where
    s^ is.

    Inputs (N, ...), targets (N,) integers; returns the inputs' shape. ReLU has no second derivative. Costs a pass
    forward and one back, both once more backwards, and four products per layer: a sample's weight gradient is made
    twice, one layer at a time, the second time for its signs alone. Attention runs in torch's plain kernel, the only
    one that is differentiated twice.

    Raises ValueError as `filter_profiles` does, for a network that torch does not differentiate twice, for statistics
    of another network, for as many filters as there are or more, and for a boost that is not above 1.

    Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), Eq. 3 and 4.
    """
    _require_fitting(statistics, filters, boost)
    require_integers("targets", targets, inputs)
    with recorded(model, inputs) as inputs, sdpa_kernel(SDPBackend.MATH), Calls({"hardsigmoid": _hardsigmoid}):
        inputs.requires_grad_()
        losses = losses_of(model(inputs.clone()), targets, "targets")
        graph, layers = read_layers(model, losses, linear=statistics.table.linear)
        require_same(statistics.table, layers.values(), model, "statistics")
        if not len(losses):
            return inputs.detach()
        return _derivative(inputs, losses, graph, layers, statistics, filters, boost)


def boosted(standardised: Tensor, filters: int, boost: float) -> Tensor:
    """The profiles (N, P) with their `filters` largest entries multiplied by `boost`; of equal ones the first count.

    >>> boosted(torch.tensor([[0.5, -3.0, 2.0]]), 2, 100.0)
    tensor([[ 50.,  -3., 200.]])
    """
    largest = standardised.argsort(dim=1, descending=True, stable=True)[:, :filters]
    return standardised.scatter(1, largest, boost * standardised.gather(1, largest))


def _derivative(
    inputs: Tensor,
    losses: Tensor,
    graph: Graph,
    layers: dict[nn.Parameter, Layer],
    statistics: ProfileStatistics,
    filters: int,
    boost: float,
) -> Tensor:
    """The map, from the gradient that D has at each layer's input and at the gradient at its output."""
    gradients = dict(zip(graph.calls, graph.gradients(losses), strict=True))
    uses = _uses(graph, gradients, losses)
    columns = statistics.table.slices()
    profiles = torch.zeros(len(losses), len(statistics.table), dtype=torch.float64, device=losses.device)
    for weight, each in uses.items():
        profiles[:, columns[layers[weight].name]] = filter_means(each, len(losses)).double()
    standardised = statistics.standardise(profiles)
    slope = _distance_slope(standardised, boosted(standardised, filters, boost))
    slope /= torch.as_tensor(statistics.deviation, device=slope.device)
    places: list[Tensor] = []
    starts: list[Tensor] = []
    for weight, each in uses.items():
        factors = slope[:, columns[layers[weight].name]] * (layers[weight].filters / weight.numel())
        for use, found in zip(each, slopes(each, factors), strict=True):
            both = zip((gradients[use.call], use.call.source), found, strict=True)
            wanted = [(place, start) for place, start in both if place is not None and place.requires_grad]
            places += [place for place, _ in wanted]
            starts += [start for _, start in wanted]
    return _pulled_back(places, starts, inputs)


def _pulled_back(places: list[Tensor], starts: list[Tensor], inputs: Tensor) -> Tensor:
    """The gradient at the inputs, from those at some places."""
    try:
        saliency = torch.autograd.grad(places, inputs, starts, allow_unused=True)[0] if places else None
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise ValueError(f"`model`: expected a network that torch differentiates twice, got one ({error})") from None
    if saliency is None:
        raise ValueError("`model`: expected a loss that can be differentiated by the inputs, got one without them")
    return saliency


def _uses(graph: Graph, gradients: dict[Call, Tensor | None], losses: Tensor) -> dict[nn.Parameter, list[Use]]:
    """The uses of each weight that the losses depend on."""
    rows = rows_of_samples(graph, losses)
    uses: dict[nn.Parameter, list[Use]] = {}
    for call, gradient in gradients.items():
        if gradient is not None:
            uses.setdefault(call.weight, []).append(Use(call=call, gradient=gradient.detach(), rows=rows[call]))
    return uses


def _distance_slope(standardised: Tensor, constant: Tensor) -> Tensor:
    """(cos s / |s| - s' / |s'|) / |s| = d D(s, s') / d s of rows (N, P), s' constant; 0 where s is 0."""
    one, other = (functional.normalize(each, dim=1, eps=_TINY) for each in (standardised, constant))
    cosine = (one * other).sum(1, keepdim=True)
    return (cosine * one - other) / standardised.norm(dim=1, keepdim=True).clamp_min(_TINY)


def _hardsigmoid(function: Callable[..., Tensor], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """Of operations that torch differentiates twice, unlike its own."""
    x = arguments[0] if arguments else keywords["input"]
    return functional.relu6(x + 3) / 6


def _require_fitting(statistics: object, filters: int, boost: float) -> None:
    if not isinstance(statistics, ProfileStatistics):
        raise ValueError(f"`statistics`: expected ProfileStatistics, got {type(statistics).__name__}")
    if not 1 <= filters < len(statistics.table):  # all of them: no change of direction
        there = len(statistics.table)
        raise ValueError(f"`filters`: expected 1 or more, and fewer than the network's {there}, got {filters}")
    if not boost > 1:
        raise ValueError(f"`boost`: expected a factor above 1, got {boost}")
