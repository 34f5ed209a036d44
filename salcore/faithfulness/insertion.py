"""Insertion and deletion: the label's probability as its most important positions come or go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, Unpack

import torch
from torch import Tensor, nn

from salcore.faithfulness.curves import answers, area, probability
from salcore.faithfulness.ranking import Ranking, rankings
from salcore.faithfulness.removal import Fill
from salcore.faithfulness.samples import Samples

if TYPE_CHECKING:
    from salcore.data.part import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Probabilities:
    """The label's probability (S, N) at each fraction from 0 to 1, for each sample."""

    fractions: tuple[float, ...]
    probability: Tensor

    @property
    def areas(self) -> Tensor:
        """Area under each sample's curve, (N,), from 0 to 1."""
        return area(self.fractions, self.probability)

    @property
    def area(self) -> float:
        """The mean of the samples' areas."""
        return float(self.areas.mean())


class Settings(TypedDict, total=False):
    """Keywords of `insertion` and `deletion`; those of `accuracy_drop`, but for `steps`, 32, and `fill`, zero."""

    kind: Kind
    steps: int
    fill: Fill
    ranking: Ranking
    valid: Tensor | None
    query: Tensor | None
    seed: int
    draws: int
    batch_size: int


def deletion(
    model: nn.Module, inputs: Tensor, labels: Tensor, attributions: Tensor | None, **settings: Unpack[Settings]
) -> Probabilities:
    """The label's probability as the top 0, 1/steps, ..., all positions are filled: a lower area is better.

    Arguments and errors as in `accuracy_drop`. The paper deletes to zero, 224 pixels at a step of 224 x 224, and
    explains the predicted class: give that as `labels` where it is asked for.

    RISE: Randomized Input Sampling for Explanation of Black-box Models (Petsiuk et al., 2018), section 4.2.
    """
    return _probabilities(model, inputs, labels, attributions, insert=False, **settings)


def insertion(
    model: nn.Module, inputs: Tensor, labels: Tensor, attributions: Tensor | None, **settings: Unpack[Settings]
) -> Probabilities:
    """The label's probability as the top 0, 1/steps, ..., all positions enter the fill: a higher area is better.

    As `deletion`. The paper inserts into a blurred image: for that, give the blurred inputs as `fill`.
    """
    return _probabilities(model, inputs, labels, attributions, insert=True, **settings)


def _probabilities(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    attributions: Tensor | None,
    *,
    insert: bool,
    kind: Kind = "images",
    steps: int = 32,
    fill: Fill = "zero",
    ranking: Ranking = "magnitude",
    valid: Tensor | None = None,
    query: Tensor | None = None,
    seed: int = 0,
    draws: int = 5,
    batch_size: int = 128,
) -> Probabilities:
    if steps < 1:
        raise ValueError(f"`steps`: expected at least 1, got {steps}")
    samples = Samples(inputs=inputs, kind=kind, valid=valid, query=query, batch_size=batch_size)
    samples.check_labels(labels)
    samples.check(attributions)
    points = tuple(step / steps for step in range(steps + 1))
    found = [
        answers(model, samples, labels, scores, probability, fractions=points, fill=fill, seed=seed, insert=insert)
        for scores in rankings(attributions, kind, ranking, positions=samples.positions, seed=seed, draws=draws)
    ]
    return Probabilities(fractions=points, probability=torch.stack(found).mean(0))
