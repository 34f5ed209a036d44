"""Remove and retrain: is what a map calls important needed by a network that never saw it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from salcore import seeds
from salcore.faithfulness.curves import Curve, answers, from_zero, right
from salcore.faithfulness.ranking import Ranking, Scores, rankings
from salcore.faithfulness.removal import Fill, filler
from salcore.faithfulness.samples import Samples

if TYPE_CHECKING:
    from salcore.data.part import Kind

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Fractions of Hooker et al."""
Retrain = Callable[[Tensor, Tensor, int], nn.Module]
"""(inputs (N, ...), labels (N,), number of the fraction, 0 for none) -> a network trained from scratch on them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """Samples with labels (N,) and attributions, as `accuracy_drop` takes them; None is one random ranking."""

    inputs: Tensor
    labels: Tensor
    attributions: Tensor | None
    valid: Tensor | None = None
    query: Tensor | None = None


def remove_and_retrain(
    train: Explained,
    evaluation: Explained,
    retrain: Retrain,
    *,
    kind: Kind = "images",
    fractions: Sequence[float] = LEVELS,
    fill: Fill | None = None,
    ranking: Ranking = "magnitude",
    seed: int = 0,
    batch_size: int = 128,
) -> Curve:
    """Accuracy of networks trained and evaluated without the floor(fraction * positions) top positions, from 0 (ROAR).

    At each fraction the top positions of every training and every evaluation input are filled, `retrain` gives a
    network, and its accuracy on the evaluation inputs is taken. `fill` None is one constant per channel, feature or
    embedding dimension: its mean over the training inputs; a tensor broadcasts to both parts. A lower area is better,
    and it says something where it is below that of random rankings.

    Published: entries are ranked by the squared saliency, each channel's for itself; here a position with all of its
    channels, as everywhere in this package. Networks from several seeds are averaged there: call this once for each.

    Raises ValueError as `accuracy_drop` does.

    A Benchmark for Interpretability Methods in Deep Neural Networks (Hooker et al., 2019), section 3.
    """
    points = from_zero(fractions)
    own = _Part(train, kind=kind, ranking=ranking, batch_size=batch_size, seed=seeds.derive(seed, 0))
    other = _Part(evaluation, kind=kind, ranking=ranking, batch_size=batch_size, seed=seeds.derive(seed, 1))
    constant = _mean(own.samples) if fill is None else fill
    accuracy = []
    for index, fraction in enumerate(points):
        model = retrain(own.without(fraction, constant), train.labels, index)
        accuracy.append(other.accuracy(model, fraction, constant))
    return Curve(fractions=points, accuracy=tuple(accuracy))


class _Part:
    """The training or the evaluation samples, checked."""

    def __init__(self, given: Explained, *, kind: Kind, ranking: Ranking, batch_size: int, seed: int) -> None:
        self._given, self._ranking, self._seed = given, ranking, seed
        self.samples = Samples(
            inputs=given.inputs, kind=kind, valid=given.valid, query=given.query, batch_size=batch_size
        )
        self.samples.check_labels(given.labels)
        self.samples.check(given.attributions)

    def without(self, fraction: float, fill: Fill) -> Tensor:
        """The inputs, their top positions filled."""
        inputs, replacement = self.samples.inputs, filler(fill, self.samples, self._seed)
        batches = self.samples.ranked(self._scores(), inputs.device, inputs.dtype)
        return torch.cat([batch.replaced(batch.top(fraction), replacement(batch)) for batch in batches])

    def accuracy(self, model: nn.Module, fraction: float, fill: Fill) -> float:
        """A network's accuracy on the inputs, their top positions filled."""
        scores, labels = self._scores(), self._given.labels
        read = answers(model, self.samples, labels, scores, right, fractions=(fraction,), fill=fill, seed=self._seed)
        return float(read.mean())

    def _scores(self) -> Scores:
        """The ranking from its beginning: a random one is the same at each fraction, so that the sets are nested."""
        attributions, kind, positions = self._given.attributions, self.samples.kind, self.samples.positions
        return next(rankings(attributions, kind, self._ranking, positions=positions, seed=self._seed, draws=1))


def _mean(samples: Samples) -> Tensor:
    """The mean of each channel, feature or embedding dimension over all samples and their valid steps."""
    inputs, axes = samples.inputs.double(), (0, *samples.axes)
    if samples.valid is None:
        return inputs.mean(axes, keepdim=True)
    valid = samples.valid.to(inputs.device)
    mask = (valid[:, None] if samples.kind == "series" else valid[..., None]).expand_as(inputs)
    return torch.where(mask, inputs, 0).sum(axes, keepdim=True) / mask.sum(axes, keepdim=True)
