"""Where a network applies its filters, read off the graph that autograd recorded.

Nothing escapes the graph as calls can escape hooks: a functional convolution, one inside TorchScript and each use of a
module that is used several times are nodes of it, with what they were given, their strides and their paddings.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from salcore.network import MIXED
from salcore.parameter_space.filters import Kind

_CONVOLUTIONS = ("ConvolutionBackward", "ConvolutionOverrideableBackward")
_PRODUCTS = ("AddmmBackward", "MmBackward")
_BATCH_NORMS = ("NativeBatchNormBackward", "CudnnBatchNormBackward", "MiopenBatchNormBackward")
_CAST, _TRANSPOSITION = "ToCopyBackward", "TBackward"
_ONCE = "torch::autograd::Error"
"""What stands in the graph of a gradient for what was not recorded of it; a pass that does not need it passes it by."""

Visit = Callable[["Call", Tensor | None], None]
"""Gets a call and the gradient at its output, None where an operation tells autograd that there is none."""

_Edge = tuple[Node, int]
"""An operation, and the place of one of its arguments."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One application of a weight to `given`: (B, C, *S) with B rows, for a linear layer (B, C).

    `windows` holds stride, padding and dilation of each of the dimensions S.
    """

    node: Node
    weight: nn.Parameter
    kind: Kind
    given: Tensor
    groups: int = 1
    windows: tuple[tuple[int, int, int], ...] = ()

    @property
    def source(self) -> Tensor:
        """What is `given`, with the history that it is differentiated through."""
        return _source(self.node)

    @property
    def filters(self) -> int:
        """The number of channels of the output."""
        return self.weight.shape[1] * self.groups if self.kind == "transposed convolution" else self.weight.shape[0]


class Graph:
    """The calls of parameters as filters of convolutions, if `linear` also of linear layers, that an output depends on.

    `names` are those of all parameters, `layers` the weights of modules that are such layers. The calls stand in the
    order of the forward pass.

    Raises ValueError, with its name, for a filter that is no parameter or that is used in another way too, as its
    gradient would be wrong; and for batch-norm by the statistics of the batch, which mixes its samples.
    """

    def __init__(
        self, output: Tensor, names: Mapping[nn.Parameter, str], layers: Collection[nn.Parameter], *, linear: bool
    ) -> None:
        self._names = names
        self._nodes = _nodes(output)
        _require_apart(self._nodes)
        self._edges: set[_Edge] = set()
        found = [self._call(node, linear) for node in self._nodes]
        self.calls = sorted((call for call in found if call), key=lambda call: call.node._sequence_nr())
        self._require_seen({*layers, *(call.weight for call in self.calls)})

    def backward(self, losses: Tensor, visit: Visit, weights: Tensor | None = None, *, keep: bool = False) -> None:
        """One backward pass from the sum of the losses (N,), weighted or not, that visits every call once.

        The gradients of the weights are not computed. `keep` leaves the graph to a later pass.
        """
        lowest = self._lowest()
        hooks = [
            call.node.register_prehook(partial(_shown, call=call, visit=visit))
            for call in self.calls
            if call not in lowest
        ]
        try:
            # The pass ends at the lowest calls, whose own hooks would not run.
            places = [GradientEdge(call.node, 0) for call in lowest]
            start = torch.ones_like(losses) if weights is None else weights
            gradients = torch.autograd.grad(losses, places, start, retain_graph=keep, allow_unused=True)
        finally:
            for hook in hooks:  # a hook holds its call, and so its node, which holds the hook
                hook.remove()
        for call, gradient in zip(lowest, gradients, strict=True):
            visit(call, gradient)

    def gradients(self, losses: Tensor) -> list[Tensor | None]:
        """The gradient of the sum of the losses (N,) at each call's output, to be differentiated again.

        The gradients of the weights are not computed. Raises ValueError where a second derivative would be passed over.
        """
        places = [GradientEdge(call.node, 0) for call in self.calls]
        found = torch.autograd.grad(losses.sum(), places, create_graph=True, allow_unused=True)
        starts = [gradient.grad_fn for gradient in found if gradient is not None and gradient.grad_fn is not None]
        if any(node.name() == _ONCE for node in _above(*starts)):
            raise ValueError(
                "`model`: expected a network that torch differentiates twice, got one with a function of its own that "
                "is once_differentiable"
            )
        return list(found)

    def _lowest(self) -> list[Call]:
        """The calls whose input depends on no other call."""
        own = {call.node for call in self.calls}
        above: dict[Node, bool] = {}
        for node in self._nodes:
            above[node] = any(source in own or above[source] for source in _sources(node))
        return [call for call in self.calls if not above[call.node]]

    def _call(self, node: Node, linear: bool) -> Call | None:
        """What the node applies, if it applies a parameter as a filter."""
        if node.name().startswith(_CONVOLUTIONS):
            path, source = _origin(node, 1)
            if source is None:  # a constant, such as a fixed blur
                return None
            if (weight := _variable(source)) is None:
                raise ValueError(self._computed(source))
        elif linear and node.name().startswith(_PRODUCTS):
            path, source = _origin(node, len(node.next_functions) - 1)
            weight = _variable(source)
            if sum(step.name().startswith(_TRANSPOSITION) for step, _ in path) != 1:  # F.linear is x W^T
                return None
        else:
            return None
        if weight not in self._names:
            return None
        self._edges.update(path)
        return _read(node, weight)

    def _computed(self, source: Node) -> str:
        """What is wrong with filters that are the output of a node."""
        parts = self._parameters(source)
        of = ", ".join(map(repr, parts[:2])) + (f" and {len(parts) - 2} more" if len(parts) > 2 else "")
        return (
            "`model`: expected convolutions whose filters are parameters, got one whose filters are computed from "
            f"{of}; torch.nn.utils.parametrize.remove_parametrizations may make them a parameter"
        )

    def _require_seen(self, layers: Collection[nn.Parameter]) -> None:
        """Raise ValueError where a layer's weight goes into anything but the calls that were found."""
        steps = {node for node, _ in self._edges} - {call.node for call in self.calls}  # casts and transpositions
        for node in self._nodes:
            for place, (source, _) in enumerate(node.next_functions):
                if source is None or (node, place) in self._edges:
                    continue
                if source in steps or _variable(source) in layers:
                    (name,) = self._parameters(source)
                    raise ValueError(
                        f"`model`: expected {name!r} to be the weight of convolutions or linear layers and no more, "
                        f"got a use by {node.name()}"
                    )

    def _parameters(self, node: Node) -> list[str]:
        """The names of the parameters that a node depends on."""
        return [self._names[leaf] for leaf in map(_variable, _above(node)) if leaf in self._names]


def _read(node: Any, weight: nn.Parameter) -> Call:
    """The call of a node whose weight is known. Node attributes are those of torch's derivatives.yaml."""
    given = _source(node).detach()
    if not node.name().startswith(_CONVOLUTIONS):
        return Call(node=node, weight=weight, kind="linear", given=given)
    each = [node._saved_stride, node._saved_padding, node._saved_dilation]
    windows = tuple(zip(*(values * (given.ndim - 2) if len(values) == 1 else values for values in each), strict=True))
    kind: Kind = "transposed convolution" if node._saved_transposed else "convolution"
    return Call(node=node, weight=weight, kind=kind, given=given, groups=node._saved_groups, windows=windows)


def _source(node: Any) -> Tensor:
    if node.name().startswith(_CONVOLUTIONS):
        return node._saved_input
    return node._saved_mat1 if node.name().startswith("Addmm") else node._saved_self


def _shown(gradients: tuple[Tensor | None, ...], *, call: Call, visit: Visit) -> None:
    visit(call, gradients[0])


def _origin(node: Node, place: int) -> tuple[list[_Edge], Node | None]:
    """The edges from an argument up through casts and transpositions, and the node that they end in."""
    path: list[_Edge] = [(node, place)]
    source = node.next_functions[place][0]
    while source is not None and source.name().startswith((_CAST, _TRANSPOSITION)):
        path.append((source, 0))
        source = source.next_functions[0][0]
    return path, source


def _require_apart(nodes: Collection[Any]) -> None:
    """Raise ValueError for a batch-norm over several samples' statistics; instance-norm is one over a single row."""
    for node in nodes:
        if node.name().startswith(_BATCH_NORMS) and node._saved_training and len(node._saved_input) > 1:
            raise ValueError(MIXED)


def _nodes(output: Tensor) -> list[Node]:
    """All nodes of the output's graph, each after those that it depends on."""
    return [] if output.grad_fn is None else _above(output.grad_fn)


def _above(*nodes: Node) -> list[Node]:
    """The nodes and all that they depend on, each after what it depends on itself."""
    ordered: list[Node] = []
    entered: set[Node] = set()
    for node in nodes:
        if node not in entered:
            entered.add(node)
            ordered += _entered_from(node, entered)
    return ordered


def _entered_from(node: Node, entered: set[Node]) -> list[Node]:
    """The node and all that it depends on that is not `entered` yet, each after what it depends on itself."""
    ordered: list[Node] = []
    waiting: list[tuple[Node, Iterator[Node]]] = [(node, _sources(node))]
    while waiting:
        current, rest = waiting[-1]
        following = next((source for source in rest if source not in entered), None)
        if following is None:
            ordered.append(current)
            waiting.pop()
        else:
            entered.add(following)
            waiting.append((following, _sources(following)))
    return ordered


def _sources(node: Node) -> Iterator[Node]:
    return (source for source, _ in node.next_functions if source is not None)


def _variable(node: Node | None) -> Any:
    """The leaf that a node accumulates the gradient of, None for other nodes."""
    return getattr(node, "variable", None)
