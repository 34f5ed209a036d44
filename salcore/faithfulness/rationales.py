"""Comprehensiveness and sufficiency: does the prediction need the rationale, and does the rationale suffice for it?

A rationale is the ceil(share * countable) words of the highest saliency, anywhere in the text, in their order. Both
scores compare the probability p_j of the class j that is predicted on the full text x:

    comprehensiveness = p_j(x) - p_j(x without the rationale)        higher is better
    sufficiency       = p_j(x) - p_j(the rationale only)             lower is better

Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), Eq. 5 and 6; ERASER: A
Benchmark to Evaluate Rationalized NLP Models (DeYoung et al., 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from salcore.evaluated import evaluated
from salcore.faithfulness.ranking import Ranking, Scores, rankings
from salcore.faithfulness.removal import deleted
from salcore.faithfulness.samples import Batch, Samples, logits, placed

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
Remove = Literal["delete", "zero"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Erasure:
    """The score of each text at each share, (N, S) float64; NaN for texts without a word that counts."""

    shares: tuple[float, ...]
    values: Tensor

    @property
    def per_instance(self) -> Tensor:
        """Each text's plain mean over the shares, (N,)."""
        return self.values.mean(1)

    @property
    def by_share(self) -> tuple[float, ...]:
        """The mean over texts at each share."""
        return tuple(self.values.nanmean(0).tolist())

    @property
    def aopc(self) -> float:
        """Area over the perturbation curve: the plain mean over shares and texts, as the benchmark's scorer takes it.

        The benchmark's paper divides the sum over S shares by S + 1, for an empty first one: S / (S + 1) of this.
        """
        return float(self.per_instance.nanmean())


class Settings(TypedDict, total=False):
    """Keywords of both scores: see `comprehensiveness`."""

    valid: Tensor | None
    query: Tensor | None
    shares: Sequence[float]
    remove: Remove
    ranking: Ranking
    seed: int
    draws: int
    batch_size: int


def comprehensiveness(
    model: nn.Module, inputs: Tensor, attributions: Tensor | None, **settings: Unpack[Settings]
) -> Erasure:
    """p_j(x) - p_j(x without the rationale), for each text and share: Eq. 5.

    Embedded texts (N, T, E); attributions (N, T), or (N, T, E), which are summed over E; None is the mean of `draws`
    (10) random rankings. `valid` (N, T) tells words from padding; the first `query` (N,) words, or those of a mask
    (N, T), are kept and not counted. `shares` are 1, 5, 10, 20 and 50 %. `remove`: words are deleted (`delete`), so the
    text gets shorter, or their vectors are 0 (`zero`). `ranking`: `signed` as in the guided paper, which sorts by the
    sum of the gradient, or `magnitude` as in the benchmark's baselines. `seed`, `batch_size` (64).

    Raises ValueError for what does not fit, naming it.
    """
    return _erasure(model, inputs, attributions, without=True, **settings)


def sufficiency(model: nn.Module, inputs: Tensor, attributions: Tensor | None, **settings: Unpack[Settings]) -> Erasure:
    """p_j(x) - p_j(the rationale, and the query, only), for each text and share: Eq. 6. As `comprehensiveness`."""
    return _erasure(model, inputs, attributions, without=False, **settings)


def _erasure(
    model: nn.Module,
    inputs: Tensor,
    attributions: Tensor | None,
    *,
    without: bool,
    valid: Tensor | None = None,
    query: Tensor | None = None,
    shares: Sequence[float] = SHARES,
    remove: Remove = "delete",
    ranking: Ranking = "signed",
    seed: int = 0,
    draws: int = 10,
    batch_size: int = 64,
) -> Erasure:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"`shares`: expected numbers above 0, up to 1, got {tuple(shares)}")
    if remove not in {"delete", "zero"}:
        raise ValueError(f"`remove`: expected delete or zero, got {remove!r}")
    samples = Samples(inputs=inputs, kind="text", valid=valid, query=query, batch_size=batch_size)
    samples.check(attributions)
    found = [
        _differences(model, samples, scores, shares, remove, without)
        for scores in rankings(attributions, "text", ranking, positions=samples.positions, seed=seed, draws=draws)
    ]
    return Erasure(shares=tuple(shares), values=torch.stack(found).mean(0))


def _differences(
    model: nn.Module, samples: Samples, scores: Scores, shares: Sequence[float], remove: Remove, without: bool
) -> Tensor:
    """p_j(x) - p_j(what is left of x) by one ranking, (N, S)."""
    found = []
    with evaluated(model), torch.no_grad():
        for batch in samples.ranked(scores, *placed(model, samples.inputs)):
            nothing = torch.zeros_like(batch.counted)
            full = logits(model, *_left(batch, nothing, remove)).softmax(1)  # cut to the batch's longest, too
            predicted = full.argmax(1, keepdim=True)
            columns = []
            for share in shares:
                rationale = batch.at_least(share)
                gone = rationale if without else batch.counted & ~rationale
                left = logits(model, *_left(batch, gone, remove)).softmax(1)
                columns.append((full.double() - left.double()).gather(1, predicted))
            values = torch.cat(columns, 1)
            found.append(values.masked_fill(batch.countable[:, None] == 0, torch.nan).cpu())
    return torch.cat(found)


def _left(batch: Batch, gone: Tensor, remove: Remove) -> tuple[Tensor, Tensor | None]:
    """The texts without these words (n, T), and which of their steps count."""
    if remove == "zero":
        return batch.replaced(gone, torch.zeros_like(batch.inputs)), batch.valid
    return deleted(batch.inputs, ~gone if batch.valid is None else batch.valid & ~gone)
