"""Which rows of a call belong to which sample, found out where a network folds other axes into the batch.

Scaling a loss by a power of two scales every gradient that comes from it by exactly that. So the samples' losses are
scaled by the digits of their numbers, and each row of a gradient tells the number of its sample, in whatever order.
"""

import torch
from torch import Tensor

from salcore.parameter_space.graph import Call, Graph

_BASE = 16
"""Of the digits: 2^15 does not overflow in half precision."""

_ROUNDING = 1e-3
"""How far log2 of a ratio of norms may be from a whole number, in a row of one sample."""


def rows_of_samples(graph: Graph, losses: Tensor) -> dict[Call, Tensor | None]:
    """For each call the numbers (N, R) of the rows of each sample, -1 where it has fewer; None where row n is sample n.

    Costs nothing where each call has one row per sample, else two or more backward passes.

    Raises ValueError where a row depends on several samples.
    """
    samples = len(losses)
    if all(len(call.given) == samples for call in graph.calls):
        return dict.fromkeys(graph.calls)
    owners = _owners(graph, losses)
    return {call: _by_sample(owners[call], samples) for call in graph.calls}


def _owners(graph: Graph, losses: Tensor) -> dict[Call, Tensor]:
    """The sample of each row, (B,), -1 for rows whose gradient is zero."""
    numbers = torch.arange(len(losses), device=losses.device)
    plain = _norms(graph, losses, torch.ones_like(losses))
    owners = {call: torch.where(norms > 0, 0, -1) for call, norms in plain.items()}
    place = 1
    while place < len(losses):
        scaled = _norms(graph, losses, torch.exp2(numbers // place % _BASE).to(losses.dtype))
        for call, norms in scaled.items():
            known = owners[call] >= 0
            digits = torch.log2(norms[known] / plain[call][known])
            if not bool(((digits - digits.round()).abs() < _ROUNDING).all()):
                raise ValueError(
                    f"`model`: expected every row of a layer's input to belong to one sample, got a {call.kind} over "
                    f"{tuple(call.given.shape)} where a row depends on several of the {len(losses)} samples"
                )
            owners[call][known] += digits.round().long() * place
        place *= _BASE
    return owners


def _norms(graph: Graph, losses: Tensor, weights: Tensor) -> dict[Call, Tensor]:
    """The norm of each row of the gradient at the output of each call, (B,), in float64."""
    found: dict[Call, Tensor] = {}

    def keep(call: Call, gradient: Tensor | None) -> None:
        rows = torch.zeros(len(call.given), 1, device=losses.device) if gradient is None else gradient.flatten(1)
        found[call] = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)

    graph.backward(losses, keep, weights, keep=True)
    return found


def _by_sample(owners: Tensor, samples: int) -> Tensor:
    """The numbers of the rows of each sample, (N, R), filled up with -1.

    >>> _by_sample(torch.tensor([1, 0, -1, 1]), 3).tolist()
    [[1, -1], [0, 3], [-1, -1]]
    """
    order = torch.argsort(owners, stable=True)
    order = order[owners[order] >= 0]
    counts = torch.bincount(owners[order], minlength=samples)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(order), device=owners.device) - starts[owners[order]]
    rows = owners.new_full((samples, max(1, int(counts.max()))), -1)
    rows[owners[order], place] = order
    return rows
