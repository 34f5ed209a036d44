"""Which positions of an input matter most: one score per position, and its place in the descending order.

A position is what is removed at once: a pixel with all its channels, a cell (feature, time step) of a series, a token
with its whole embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from salcore import seeds

if TYPE_CHECKING:
    from salcore.data.part import Kind

Ranking = Literal["magnitude", "signed"]
"""Whether the largest magnitudes come first or the largest values."""
Scores = Callable[[slice], Tensor]
"""The scores (n, P) of some samples, which are asked for in order."""

ROUND_OFF = 2**-51
"""A product such as 0.29 * 100 lies a rounding error under the integer that is meant, 0.07 * 100 one above."""


def reduced(attributions: Tensor, kind: Kind) -> Tensor:
    """One signed number per position: the mean over channels (N, H, W), each cell (N, F, T), the sum over E (N, T).

    Attributions (N, C, H, W), (N, F, T), and (N, T, E) or (N, T) of texts; float32 at least.
    """
    values = attributions.to(torch.promote_types(attributions.dtype, torch.float32))
    if kind == "images":
        return values.mean(1)
    return values.sum(2) if kind == "text" and values.ndim == 3 else values


def scores(attributions: Tensor, kind: Kind, ranking: Ranking = "magnitude") -> Tensor:
    """What positions are ranked by, (N, P): the `reduced` attribution or its magnitude, positions in memory order."""
    values = reduced(attributions, kind).flatten(1)
    return values.abs() if ranking == "magnitude" else values


def ranks(scores: Tensor, counted: Tensor | None = None) -> Tensor:
    """Each position's place in the descending order of its scores, (N, P) -> (N, P) int64, 0 for the largest.

    Of equal scores the earlier position comes first. Positions that are not `counted` (N, P) come last. So the top n
    of a sample are its positions of rank below n, for every n by one sorting.

    >>> ranks(torch.tensor([[1.0, 3.0, 1.0, 2.0]])).tolist()
    [[2, 0, 3, 1]]
    """
    if counted is not None:
        scores = scores.masked_fill(~counted, -math.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def at_most(share: float, positions: Tensor) -> Tensor:
    """floor(share * positions), int64, of the decimal that was written: 29 of 100 at 0.29."""
    return torch.floor(positions.double() * share * (1 + ROUND_OFF)).long()


def at_least(share: float, positions: Tensor) -> Tensor:
    """ceil(share * positions), int64, of the decimal that was written: 7 of 100 at 0.07."""
    return torch.ceil(positions.double() * share * (1 - ROUND_OFF)).long()


def rankings(
    attributions: Tensor | None, kind: Kind, ranking: Ranking, *, positions: int, seed: int, draws: int
) -> Iterator[Scores]:
    """The scores of the attributions; or, of None, `draws` random rankings, each of its own seed below `seed`.

    Raises ValueError for an unknown ranking and for less than one draw.
    """
    if ranking not in {"magnitude", "signed"}:
        raise ValueError(f"`ranking`: expected magnitude or signed, got {ranking!r}")
    if draws < 1:
        raise ValueError(f"`draws`: expected at least 1, got {draws}")
    if attributions is not None:
        yield lambda rows: scores(attributions[rows], kind, ranking)
        return
    for draw in range(draws):
        yield _random(seeds.generator(seed, 0, draw), positions)


def _random(generator: torch.Generator, positions: int) -> Scores:
    def drawn(rows: slice) -> Tensor:  # float64, in which there are no ties
        shape = rows.stop - rows.start, positions
        return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")

    return drawn
