"""What is drawn of a sample's maps: one value per pixel, cell or word."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.choose import cosines, extremes
from salcore.figures.colour import Scale, positive_scale, signed_scale
from salcore.figures.signs import ROOT_M, SIGMA, number, percent
from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.runs import Run


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One sample's maps by one method without padding, `(m, H, W)`, `(m, F, T)` or `(m, T)`, float64.

    Of the m `members` whose map is finite. `significant` is where their mean differs from zero beyond training noise (a
    pixel: any of its channels), `share` of how much of the map that holds.
    """

    members: tuple[int, ...]
    maps: np.ndarray
    significant: np.ndarray
    share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One map to be drawn, `(H, W)`, `(F, T)` or `(T,)`: where `mask` holds, if there is one."""

    caption: str
    note: str
    values: np.ndarray
    scale: Scale
    mask: np.ndarray | None = None


def shown(run: "Run", method: str, position: int) -> Shown | None:
    """The maps of one sample of the run; None where no member's is finite."""
    members, maps = run.finite_maps(method, position)
    if not members:
        return None
    part, row = divmod(position, run.spec.attribution.shard_samples)
    stats = read_stats(run.store, run.stats_files(method)[part]).stats.slice(row, 1)
    mask = stats.column("significant").combine_chunks().to_numpy_ndarray()[0].astype(bool)
    length = stats.column("length")[0].as_py() if "length" in stats.column_names else mask.shape[-1]
    return Shown(
        members=members,
        maps=summed(maps)[..., :length],
        significant=(mask.any(axis=0) if mask.ndim == 3 else mask)[..., :length],
        share=stats.column("significant_share")[0].as_py(),
    )


def panels(found: Shown) -> Iterator[Panel]:
    """Mean, standard deviation, t map and significant part of a sample's maps, and its two extreme members."""
    maps, mean = found.maps, found.maps.mean(axis=0)
    yield Panel(caption="mean map", note=f"of {len(maps)} members", values=mean, scale=signed_scale(mean))
    if len(maps) < 2:
        return
    sigma, t = maps.std(axis=0, ddof=1), t_map(maps)
    spread = f"standard deviation {SIGMA}"
    yield Panel(caption=spread, note="over members", values=sigma, scale=positive_scale(sigma))
    yield Panel(caption="t map", note=f"mean / ({SIGMA} / {ROOT_M})", values=t, scale=signed_scale(t))
    note = f"{percent(found.share)} of the map" if found.share else "nothing in this map"
    yield Panel(caption="significant", note=note, values=mean, scale=signed_scale(mean), mask=found.significant)
    to_mean = cosines(maps.reshape(len(maps), -1), mean.ravel())
    for place in extremes(maps):
        note = f"cosine {number(float(to_mean[place]))} to the mean"
        caption = f"member {found.members[place]}"
        yield Panel(caption=caption, note=note, values=maps[place], scale=signed_scale(maps[place]))


def summed(maps: np.ndarray) -> np.ndarray:
    """Maps of images `(M, C, H, W)` summed over channels, `(M, H, W)`, others as they are, float64.

    A pixel's sum is the effect of raising all its channels at once.
    """
    return maps.sum(axis=1, dtype=np.float64) if maps.ndim == 4 else maps.astype(np.float64)


def t_map(maps: np.ndarray) -> np.ndarray:
    """How sure each value's sign is: mean / (sigma / sqrt M) of maps `(M, ...)`, ddof = 1.

    0 where nothing varies and the mean is 0; NaN for fewer than 2 members.
    """
    members = len(maps)
    if members < 2:
        return np.full(maps.shape[1:], np.nan)
    mean, sigma = maps.mean(axis=0, dtype=np.float64), maps.std(axis=0, ddof=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((sigma == 0) & (mean == 0), 0.0, mean * np.sqrt(members) / sigma)
