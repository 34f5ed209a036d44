"""What a network says as more and more of its inputs' top positions are replaced, and the area under it.

Everything that replaces positions is one call of `answers`: rank once per sample, replace the top share, ask the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from salcore.evaluated import evaluated
from salcore.faithfulness.ranking import Scores
from salcore.faithfulness.removal import Fill, filler
from salcore.faithfulness.samples import Samples, logits, placed

Read = Callable[[Tensor, Tensor], Tensor]
"""What is read off logits (n, K) for labels (n,): one number per sample (n,)."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy against the fraction of positions removed, the first of which is 0."""

    fractions: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def area(self) -> float:
        """Area under the accuracy by the trapezoid rule over the range: a mean accuracy, lower for a steeper drop."""
        return float(area(self.fractions, torch.tensor(self.accuracy, dtype=torch.float64)))


def area(fractions: Sequence[float], values: Tensor) -> Tensor:
    """sum_i (x_(i+1) - x_i) (y_i + y_(i+1)) / 2 / (x_S - x_1), of values (S, ...) over their first axis.

    >>> float(area((0.0, 0.5, 1.0), torch.tensor([1.0, 0.5, 0.0])))
    0.5
    """
    points = torch.tensor(fractions, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, points, dim=0) / (points[-1] - points[0])


def answers(
    model: nn.Module,
    samples: Samples,
    labels: Tensor,
    scores: Scores,
    read: Read,
    *,
    fractions: Sequence[float],
    fill: Fill,
    seed: int,
    insert: bool = False,
) -> Tensor:
    """What is read off the model at each fraction, (S, N) float64 on the CPU.

    Of a sample, its floor(fraction * countable) top positions are filled; with `insert` those are all that is left of
    its countable positions. A sample's fill is the same at each fraction. The model is evaluated, and left as it was.
    """
    replacement, found = filler(fill, samples, seed), []
    with evaluated(model), torch.no_grad():
        for batch in samples.ranked(scores, *placed(model, samples.inputs)):
            filled, truth = replacement(batch), labels[batch.rows].to(batch.inputs.device, torch.int64)
            points = []
            for fraction in fractions:
                top = batch.top(fraction)
                inputs = batch.replaced(batch.counted & ~top if insert else top, filled)
                points.append(read(logits(model, inputs, batch.valid), truth))
            found.append(torch.stack(points))
    return torch.cat(found, 1).to("cpu", torch.float64)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the class of the largest logit is the label, (n,)."""
    _check_classes(logits, labels)
    return logits.argmax(1) == labels


def probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the label, (n,)."""
    _check_classes(logits, labels)
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def from_zero(fractions: Sequence[float]) -> tuple[float, ...]:
    """The fractions with 0 before them. Raises ValueError unless they ascend within 0 to 1, the last above 0."""
    given = tuple(float(value) for value in fractions)
    ascending = all(low < high for low, high in pairwise(given))
    if not given or not ascending or not (0 <= given[0] and 0 < given[-1] <= 1):
        raise ValueError(f"`fractions`: expected ascending numbers from 0 to 1, one above 0 at least, got {given}")
    return given if given[0] == 0 else (0.0, *given)


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"`labels`: expected classes from 0 to {logits.shape[1] - 1}, got {int(labels.max())}")
