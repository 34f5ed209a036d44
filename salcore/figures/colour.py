"""From a map to coloured pixels: diverging and centred on zero for signed maps, sequential for deviations.

Maps become small indexed PNGs, one pixel per value, that a page enlarges: nothing is smoothed and little is stored.
"""

import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
BLANK = (190, 196, 202)
"""Colour of what is not drawn: a grey that no diverging map holds, seen on white and on black."""
PERCENTILE = 99.0
"""Colours saturate at this percentile of the magnitudes, so that a single pixel cannot wash out the rest."""
LARGEST_SIDE, IMAGE_SIDE = 160, 256
"""Maps and images of more pixels are averaged down to this many on their longer side."""
SMALL_SIDE = 64
"""Images of at most so many pixels on a side are kept exact."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the ends of a colour bar stand for. `palette` is a matplotlib colour map."""

    low: float
    high: float
    palette: str


def signed_scale(*maps: np.ndarray) -> Scale:
    """Symmetric about zero: plus and minus the 99th percentile of the magnitudes of all `maps` together."""
    limit = _limit(maps)
    return Scale(low=-limit, high=limit, palette=DIVERGING)


def positive_scale(*maps: np.ndarray) -> Scale:
    """From zero to the 99th percentile."""
    return Scale(low=0.0, high=_limit(maps), palette=SEQUENTIAL)


def map_png(values: np.ndarray, scale: Scale, side: int = LARGEST_SIDE) -> bytes:
    """A map `(H, W)` as an indexed PNG of at most `side` pixels; NaN is drawn at the low end.

    Raises ValueError for another number of axes.
    """
    from PIL.Image import fromarray

    if values.ndim != 2:
        raise ValueError(f"`values`: expected a map (H, W), got shape {values.shape}")
    picture = fromarray(_indices(shrink(values, side), scale))
    picture.putpalette(palette(scale.palette).tobytes())
    return _png(picture)


def masked_png(values: np.ndarray, mask: np.ndarray, scale: Scale, side: int = LARGEST_SIDE) -> bytes:
    """A map `(H, W)` as `map_png` draws it, grey where `mask` `(H, W)` bool does not hold.

    Where pixels are averaged down, one holds the mean of those under it that the mask has, if there are any.
    """
    from PIL.Image import fromarray

    if values.shape != mask.shape:
        raise ValueError(f"`mask`: expected the map's shape {values.shape}, got {mask.shape}")
    share = shrink(mask.astype(np.float64), side)
    inside = np.divide(shrink(np.where(mask, values, 0.0), side), share, out=np.zeros(share.shape), where=share > 0)
    # The first colour is given to what is blank: the map does with the other 255.
    picture = fromarray(np.where(share > 0, np.maximum(_indices(inside, scale), 1), 0).astype(np.uint8))
    picture.putpalette(np.concatenate([np.array([BLANK], np.uint8), palette(scale.palette)[1:]]).tobytes())
    return _png(picture)


def image_file(image: np.ndarray) -> bytes:
    """An image `(C, H, W)` as PNG, pixel by pixel, or as JPEG if it has more than 64 pixels on a side."""
    from PIL.Image import fromarray

    pixels = displayable(image)
    picture = fromarray(pixels)
    if max(pixels.shape[:2]) <= SMALL_SIDE:
        return _png(picture)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def displayable(image: np.ndarray) -> np.ndarray:
    """uint8 pixels `(H, W)` or `(H, W, 3)` of an image `(C, H, W)`, at most 256 pixels on a side.

    uint8 stays as it is, float is stretched from its minimum to its maximum. Three channels are RGB, one is grey; of
    any other number the mean over channels is shown, in grey.
    """
    pixels = (image if image.shape[0] in (1, 3) else image.mean(axis=0, keepdims=True)).astype(np.float64)
    if image.dtype != np.uint8:
        low, span = pixels.min(), np.ptp(pixels) or 1.0
        pixels = 255 * (pixels - low) / span
    small = np.rint([shrink(channel, IMAGE_SIDE) for channel in pixels]).astype(np.uint8)
    return small[0] if len(small) == 1 else np.ascontiguousarray(small.transpose(1, 2, 0))


def shrink(values: np.ndarray, side: int = LARGEST_SIDE) -> np.ndarray:
    """Means over square blocks of `(H, W)`, so many that the longer side has at most `side` pixels.

    >>> shrink(np.arange(8.0).reshape(2, 4), side=2)
    array([[2.5, 4.5]])
    """
    block = -(-max(values.shape) // side)
    if block == 1:
        return values
    height, width = (max(1, length // block) for length in values.shape)
    cut = values[: height * block, : width * block]
    return cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width).mean(axis=(1, 3))


def gradient_css(scale: Scale) -> str:
    """The colour bar as a CSS gradient from left to right."""
    stops = palette(scale.palette)[np.linspace(0, 255, 9).astype(int)]
    return f"linear-gradient(90deg,{','.join('#{:02x}{:02x}{:02x}'.format(*stop) for stop in stops)})"


@cache
def palette(name: str) -> np.ndarray:
    """The 256 colours of a matplotlib colour map, `(256, 3)` uint8."""
    import matplotlib

    return np.rint(255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).astype(np.uint8)


def _limit(maps: tuple[np.ndarray, ...]) -> float:
    magnitudes = np.abs(np.concatenate([each.ravel() for each in maps]))
    magnitudes = magnitudes[np.isfinite(magnitudes)]
    limit = float(np.percentile(magnitudes, PERCENTILE)) if len(magnitudes) else 0.0
    return limit or float(magnitudes.max(initial=0.0)) or 1.0  # a map of zeros still needs a scale


def _indices(values: np.ndarray, scale: Scale) -> np.ndarray:
    inside = np.clip(np.where(np.isnan(values), scale.low, values), scale.low, scale.high)
    return np.rint(255 * ((inside - scale.low) / (scale.high - scale.low))).astype(np.uint8)


def _png(picture: "Image") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
