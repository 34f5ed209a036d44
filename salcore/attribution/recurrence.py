"""DeepLIFT's multipliers for recurrent networks, whose fused kernels are taken apart into their elementary operations.

Learning Important Features Through Propagating Activation Differences (Shrikumar et al., 2017).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from salcore.attribution.rescale import NoRule, Rule, Values, elementwise, is_active, product


def lstm(
    function: Callable[..., Any], arguments: Values, keywords: dict[str, Any], kept: Values
) -> tuple[Tensor, Tensor, Tensor]:
    """What `nn.LSTM` calls, step by step by the rules of sigmoid, tanh and product: states, last states, last cells.

    Raises NoRule for packed sequences, projections, and initial states that depend on the input.
    """
    x, start, weights, biases, layers, _, _, both, batch_first = arguments
    if isinstance(start, Tensor):  # the sizes of the batch at each step stand there
        raise NoRule("an LSTM over packed sequences (a padded one, its states taken by gather, has one)")
    each = 4 if biases else 2
    directions = 2 if both else 1
    if len(weights) != each * layers * directions:
        raise NoRule("an LSTM with projections")
    if any(map(is_active, start)):
        raise NoRule("an LSTM whose initial states depend on the input")
    pair = (x, kept[0]) if batch_first else (x.transpose(0, 1), kept[0].transpose(0, 1))
    ends: list[tuple[Tensor, Tensor]] = []
    for _ in range(layers):
        found = []
        for backwards in (False, True)[:directions]:
            own = weights[each * len(ends) : each * (len(ends) + 1)]
            initial = [(given[len(ends)], given0[len(ends)]) for given, given0 in zip(start, kept[1], strict=True)]
            states, end = _direction(pair, initial, own, backwards)
            found.append(states)
            ends.append(end)
        pair = torch.cat([states for states, _ in found], 2), torch.cat([states0 for _, states0 in found], 2)
    states = pair[0] if batch_first else pair[0].transpose(0, 1)
    hidden, cells = (torch.stack(each_end) for each_end in zip(*ends, strict=True))
    return states, hidden, cells


Pair = tuple[Tensor, Tensor]
"""A value at the input and at the baseline."""


def _direction(pair: Pair, initial: list[Pair], weights: list[Tensor], backwards: bool) -> tuple[Pair, Pair]:
    """One layer over (N, T, F) in one direction: states (N, T, H), also at the baseline; last state and cell."""
    given, recurrent, *biases = weights
    bias = biases[0] + biases[1] if biases else None
    inputs, inputs0 = (functional.linear(value, given, bias).unbind(1) for value in pair)
    steps = list(zip(inputs, inputs0, strict=True))
    state, cell = initial
    states: list[Pair] = []
    for step in reversed(steps) if backwards else steps:
        gates, gates0 = (value + before @ recurrent.T for value, before in zip(step, state, strict=True))
        state, cell = _cell((gates, gates0), cell)
        states.append(state)
    ordered = states[::-1] if backwards else states
    stacked, stacked0 = (torch.stack(values, 1) for values in zip(*ordered, strict=True))
    return (stacked, stacked0), (state[0], cell[0])


def _cell(gates: Pair, cell: Pair) -> tuple[Pair, Pair]:
    """Next state o tanh(c) and cell c = f `cell` + i g: i, f, o the sigmoid, g the tanh of a quarter of the gates."""
    i, f, _, o = zip(*(value.chunk(4, 1) for value in _changed(torch.sigmoid, gates)), strict=True)
    _, _, g, _ = zip(*(value.chunk(4, 1) for value in gates), strict=True)
    kept, added = _times(f, cell), _times(i, _changed(torch.tanh, g))
    cell = kept[0] + added[0], kept[1] + added[1]
    return _times(o, _changed(torch.tanh, cell)), cell


def _changed(function: Callable[[Tensor], Tensor], pair: Pair) -> Pair:
    x, x0 = pair
    return elementwise(function, (x,), {}, (x0,), smooth=True), function(x0)


def _times(a: Pair, b: Pair) -> Pair:
    return product(torch.mul, (a[0], b[0]), {}, (a[1], b[1])), a[1] * b[1]


def _unruled(name: str) -> Rule:
    def refuse(*_: Any) -> Any:
        raise NoRule(f"{name} (nn.LSTM has one)")

    return refuse


RECURRENT: dict[str, Rule] = {
    "lstm": lstm,
    "gru": _unruled("nn.GRU"),
    "rnn_tanh": _unruled("nn.RNN"),
    "rnn_relu": _unruled("nn.RNN"),
}
"""Rules by the plain name of the function that a module calls."""
