"""Precision and recall of a saliency map against the cells that were made to tell the class, weighted by saliency.

Benchmarking Deep Learning Interpretability in Time Series Predictions (Ismail et al., 2020), as its code has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salcore import seeds
from salcore.faithfulness.samples import check_finite

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a sample's saliency mass. 0 and 1 are not used, so that the largest area is 0.8."""
SLACK = 1e-12
"""Of a level's mass, so that rounding in sums of equal values takes no cell too many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Areas:
    """Precision and recall (N, 9) of each sample at each level; NaN where the sample has no share in them."""

    precision: Tensor
    recall: Tensor

    @property
    def aup(self) -> float:
        """Area under the precision, averaged over samples: the trapezoid rule over 0.1 to 0.9, from 0 to 0.8."""
        return _area(self.precision)

    @property
    def aur(self) -> float:
        """Area under the recall, from 0 to 0.8; 0.4 for a map that is 1 on the informative cells and 0 elsewhere."""
        return _area(self.recall)

    @property
    def counted(self) -> int:
        """Samples that the areas are over."""
        return int((~self.recall.isnan().any(1)).sum())


@dataclass(frozen=True, kw_only=True)
class AboveRandom:
    """AUP and AUR less those of random rankings: Diff(AUP) and Diff(AUR) of Eq. 7 and 8."""

    aup: float
    aur: float
    random_aup: float
    random_aur: float


def precision_recall_areas(saliency: Tensor, informative: Tensor, *, valid: Tensor | None = None) -> Areas:
    """Weighted precision and recall at nine levels of saliency mass, and their areas AUP and AUR.

    Saliency (N, F, T), signed: its magnitude is scaled to [0, 1] per sample, s. At level d, P is the shortest prefix of
    the descending ranking of s that holds d of its sum, B the informative (N, F, T) cells:

        precision = sum of s over P and B / sum of s over P        recall = sum of s over P and B / sum of s over B

    Cells that are not `valid` (N, T) are padding. A sample without informative cells, or with equal saliency
    everywhere, is left out; one with no saliency on its informative cells has a precision, 0, and no recall.

    Raises ValueError for shapes that differ and for saliency that is not finite, naming the sample.
    """
    return _areas(*_scaled(saliency, informative, valid))


def areas_above_random(
    saliency: Tensor,
    informative: Tensor,
    *,
    valid: Tensor | None = None,
    permuted: Literal["cells", "features"] = "cells",
    draws: int = 10,
    seed: int = 0,
) -> AboveRandom:
    """AUP and AUR of a saliency, less the mean of theirs over `draws` random permutations of it.

    `permuted`: the valid `cells` of each sample among themselves, or `features`, one permutation of them for all
    samples and time steps, as in the benchmark's code. The values differ: the latter keeps what saliency there is in
    time. Errors as in `precision_recall_areas`.
    """
    if permuted not in {"cells", "features"}:
        raise ValueError(f"`permuted`: expected cells or features, got {permuted!r}")
    if draws < 1:
        raise ValueError(f"`draws`: expected at least 1, got {draws}")
    scaled, truth, counted = _scaled(saliency, informative, valid)
    own, random = _areas(scaled, truth, counted), []
    for draw in range(draws):
        generator = seeds.generator(seed, draw)
        if permuted == "cells":
            other = _shuffled(scaled, counted, generator)
        else:
            order = torch.randperm(saliency.shape[1], generator=generator, device="cpu").to(scaled.device)
            other = scaled.unflatten(1, saliency.shape[1:])[:, order].flatten(1)
        random.append(_areas(other, truth, counted))
    aup, aur = (sum(getattr(each, name) for each in random) / draws for name in ("aup", "aur"))
    return AboveRandom(aup=own.aup - aup, aur=own.aur - aur, random_aup=aup, random_aur=aur)


def _scaled(saliency: Tensor, informative: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled magnitudes (N, P) float64, 0 on padding, then the informative and the counted cells (N, P) bool."""
    if saliency.ndim != 3 or not saliency.numel():
        raise ValueError(f"`saliency`: expected (N, F, T), none of them 0, got {tuple(saliency.shape)}")
    if informative.shape != saliency.shape or informative.dtype != torch.bool:
        got = f"{tuple(informative.shape)} of {informative.dtype}"
        raise ValueError(f"`informative`: expected {tuple(saliency.shape)} of bool, got {got}")
    expected = (len(saliency), saliency.shape[2])
    if valid is not None and (tuple(valid.shape) != expected or valid.dtype != torch.bool):
        raise ValueError(f"`valid`: expected {expected} of bool, got {tuple(valid.shape)} of {valid.dtype}")
    check_finite(saliency, "saliency")
    counted = torch.ones_like(saliency, dtype=torch.bool)
    if valid is not None:
        counted &= valid.to(saliency.device)[:, None]
    counted = counted.flatten(1)
    values = saliency.flatten(1).abs().double()
    low = values.masked_fill(~counted, torch.inf).amin(1, keepdim=True)
    high = values.masked_fill(~counted, 0).amax(1, keepdim=True)
    width = high - low
    scaled = torch.where(counted & (width > 0), (values - low) / width, 0)
    return scaled, informative.to(saliency.device).flatten(1) & counted, counted


def _areas(scaled: Tensor, informative: Tensor, counted: Tensor) -> Areas:
    ordered, order = scaled.sort(dim=1, descending=True, stable=True)
    mass = ordered.cumsum(1)
    hits = (ordered * informative.gather(1, order)).cumsum(1)
    levels = torch.tensor(LEVELS, dtype=mass.dtype, device=mass.device)
    # The first place where the mass is reached is the end of the shortest prefix.
    ends = torch.searchsorted(mass, mass[:, -1:] * levels * (1 - SLACK)).clamp(max=mass.shape[1] - 1)
    caught, known = hits.gather(1, ends), informative.any(1, keepdim=True)
    precision = torch.where(known, caught / mass.gather(1, ends), torch.nan)  # 0 / 0 is NaN: no saliency
    recall = torch.where(known, caught / hits[:, -1:], torch.nan)
    return Areas(precision=precision, recall=recall)


def _shuffled(values: Tensor, counted: Tensor, generator: torch.Generator) -> Tensor:
    """The values of each row's counted places dealt out to these places in random order."""
    keys = torch.rand(values.shape, generator=generator, dtype=torch.float64, device="cpu").to(values.device)
    target = (~counted).to(torch.uint8).argsort(dim=1, stable=True)
    source = keys.masked_fill(~counted, 2).argsort(dim=1, stable=True)
    return torch.empty_like(values).scatter_(1, target, values.gather(1, source))


def _area(values: Tensor) -> float:
    mean = values.nanmean(0)
    return float(torch.trapezoid(mean, torch.tensor(LEVELS, dtype=mean.dtype, device=mean.device)))
