"""How much a map concentrates: in few pixels, and in outliers far from the rest, which is near zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from salcore.faithfulness.ranking import at_most, reduced
from salcore.faithfulness.samples import SHAPES, check_finite

if TYPE_CHECKING:
    from salcore.data.part import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """Numbers (N,) of each map, NaN for a map of zeros.

    - `top_share`: share of the magnitude in the largest `top` of the positions, NaN where that is not one of them;
    - `outlier_distance`: how far the mean magnitude of the outliers is from the map's mean, NaN where there are none;
    - `near_zero`: share of the values whose magnitude is at most `near` of the largest.
    """

    top_share: Tensor
    outlier_distance: Tensor
    near_zero: Tensor


def gradient_spread(
    maps: Tensor, top: float = 0.1, *, kind: Kind = "images", valid: Tensor | None = None, near: float = 0.05
) -> Spread:
    """How each map's values are spread, after it is divided by its largest magnitude, so that it is in [-1, 1].

    Maps (N, C, H, W), (N, F, T), (N, T, E) or (N, T) by `kind`; steps that are not `valid` (N, T) are padding.
    `top_share` is over positions, their magnitudes the means of |value| over channels (sums over E), and the largest
    floor(top * positions). The other two take the signed value v of each position: outliers are those that a box plot
    draws so, outside [Q1 - 1.5 IQR, Q3 + 1.5 IQR] (quartiles interpolated linearly), and

        outlier_distance = | mean of |v| over the outliers - mean of v over all |

    Dividing keeps the sign, and 0 where it is; the paper says only that gradients are "scaled per sample to have values
    between -1 and 1", and gives its box plots no numbers.

    Raises ValueError for maps that do not fit or are not finite, and shares outside 0 to 1.

    Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), Fig. 2.
    """
    counted = _counted(maps, kind, valid)
    for name, share in (("top", top), ("near", near)):
        if not 0 <= share <= 1:
            raise ValueError(f"`{name}`: expected 0 to 1, got {share}")
    values = reduced(maps.double(), kind).flatten(1).where(counted, 0)
    magnitude = reduced(maps.double().abs(), kind).flatten(1).where(counted, 0)
    scaled = values / _positive(values.abs().amax(1, keepdim=True))
    count = counted.sum(1)
    return Spread(
        top_share=_top_share(magnitude, at_most(top, count)),
        outlier_distance=_outlier_distance(scaled, counted),
        near_zero=((scaled.abs() <= near) & counted).sum(1) / count.where(~scaled.isnan().any(1), torch.nan),
    )


def _top_share(magnitude: Tensor, count: Tensor) -> Tensor:
    """Share of each row's sum that its `count` (N,) largest values make, NaN where it is of none."""
    ordered = magnitude.sort(dim=1, descending=True).values
    places = torch.arange(magnitude.shape[1], device=magnitude.device)
    share = torch.where(places < count[:, None], ordered, 0).sum(1) / _positive(magnitude.sum(1))
    return share.masked_fill(count == 0, torch.nan)


def _outlier_distance(values: Tensor, counted: Tensor) -> Tensor:
    count = counted.sum(1, keepdim=True)
    ordered = values.masked_fill(~counted, torch.inf).sort(dim=1).values
    first, third = _quantile(ordered, count, 0.25), _quantile(ordered, count, 0.75)
    reach = 1.5 * (third - first)
    outlying = ((values < first - reach) | (values > third + reach)) & counted
    mean = torch.where(outlying, values.abs(), 0).sum(1) / outlying.sum(1)  # 0 / 0 is NaN: no outlier
    return (mean - values.sum(1) / count[:, 0]).abs()


def _quantile(ordered: Tensor, count: Tensor, share: float) -> Tensor:
    """Of the first `count` (N, 1) of ascending rows (N, P), linear between neighbours: (N, 1)."""
    place = share * (count - 1).clamp(min=0).double()
    low = place.floor().long()
    high = torch.minimum(low + 1, (count - 1).clamp(min=0))
    return torch.lerp(ordered.gather(1, low), ordered.gather(1, high), place - low)


def _positive(values: Tensor) -> Tensor:
    """The values, NaN in the place of 0."""
    return values.masked_fill(values == 0, torch.nan)


def _counted(maps: Tensor, kind: Kind, valid: Tensor | None) -> Tensor:
    """The maps' positions that are no padding, (N, P) bool. Raises ValueError for maps that do not fit."""
    dims = {"images": (4,), "series": (3,), "text": (2, 3)}
    if kind not in dims:
        raise ValueError(f"`kind`: expected one of {', '.join(dims)}, got {kind!r}")
    if maps.ndim not in dims[kind] or not maps.numel():
        raise ValueError(f"`maps`: expected {SHAPES[kind]} of {kind}, none of them 0, got {tuple(maps.shape)}")
    check_finite(maps, "maps")
    shape = reduced(maps[:1], kind).shape[1:]
    if valid is None:
        return torch.ones(len(maps), shape.numel(), dtype=torch.bool, device=maps.device)
    expected = (len(maps), shape[-1])
    if kind == "images" or tuple(valid.shape) != expected or valid.dtype != torch.bool:
        wanted = "None, as images have no padding" if kind == "images" else f"{expected} of bool"
        raise ValueError(f"`valid`: expected {wanted}, got {tuple(valid.shape)} of {valid.dtype}")
    spread = valid if kind == "text" else valid[:, None].expand(-1, *shape)
    return spread.flatten(1).to(maps.device)
