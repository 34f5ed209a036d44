"""The accuracy that is left when what a map calls important is removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from salcore.faithfulness.curves import Curve, answers, from_zero, right
from salcore.faithfulness.ranking import Ranking, rankings
from salcore.faithfulness.removal import Fill
from salcore.faithfulness.samples import Samples

if TYPE_CHECKING:
    from salcore.data.part import Kind

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def accuracy_drop(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    attributions: Tensor | None,
    *,
    kind: Kind = "images",
    fractions: Sequence[float] = TENTHS,
    fill: Fill = "background",
    ranking: Ranking = "magnitude",
    valid: Tensor | None = None,
    query: Tensor | None = None,
    seed: int = 0,
    draws: int = 5,
    batch_size: int = 128,
) -> Curve:
    """Accuracy after the floor(fraction * positions) positions of highest saliency are filled, from fraction 0.

    Inputs (N, C, H, W), (N, F, T) or (N, T, E) by `kind`, labels (N,), attributions as in `ranking.reduced`; None is
    the mean of `draws` random rankings. As published, |mean over channels| is ranked once and the top share removed at
    once. The fills of the paper's Fig. 4: `background` (IID, as in Fig. 3) and `mean` (OOD); `removal` has them all.
    A lower area, so a steeper drop, is better.

    Raises ValueError for inputs, labels, attributions, fractions or a fill that do not fit, naming them.

    Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), section 5.1.
    """
    samples = Samples(inputs=inputs, kind=kind, valid=valid, query=query, batch_size=batch_size)
    samples.check_labels(labels)
    samples.check(attributions)
    points = from_zero(fractions)
    found = [
        answers(model, samples, labels, scores, right, fractions=points, fill=fill, seed=seed).mean(1)
        for scores in rankings(attributions, kind, ranking, positions=samples.positions, seed=seed, draws=draws)
    ]
    return Curve(fractions=points, accuracy=tuple(torch.stack(found).mean(0).tolist()))
