"""Encoded pictures (JPEG, PNG, ...), decoded by a pool of threads into one array per split."""

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from salcore.data.mapped import held, kept
from salcore.data.resize import resize
from salcore.errors import UserError

T = TypeVar("T")
Entry = tuple[str, Path | bytes]

GREY = ("1", "L", "LA", "La")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on files that are no images, or are cut short."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
IN_FLIGHT = 256
DECODER = 2
"""Goes up when the same files come to give other pixels, so that none are taken that were decoded before."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A number of encoded pictures: `entries()` yields each one's name and its path or bytes, always in one order.

    `stamp` changes whenever the pictures may have changed.
    """

    count: int
    entries: Callable[[], Iterator[Entry]]
    stamp: str


def decode(splits: Mapping[str, Pictures], *, image_size: int | None, cache: Path) -> dict[str, np.ndarray]:
    """Arrays `(N, C, H, W)`, uint8, one per split: C = 1 if every picture of every split is grey, otherwise 3.

    Pictures stand upright, as their EXIF orientation says. Sets that do not fit in memory are decoded
    into memory-maps in `cache` and found there by the next run.
    Raises `UserError` that names the first picture that cannot be read, and where sizes differ without `image_size`.
    """
    key = _key(splits, image_size)
    earlier = kept(list(splits), folder=cache, key=key)
    if earlier is not None:
        return earlier
    channels, height, width = _common_shape(splits, image_size)

    def fill(name: str, out: np.ndarray) -> None:
        for row, picture in enumerate(_each(lambda entry: _decoded(entry, channels, image_size), splits[name])):
            out[row] = picture

    shapes = {name: (pictures.count, channels, height, width) for name, pictures in splits.items()}
    return held(shapes, np.dtype(np.uint8), fill, folder=cache, key=key)


def _key(splits: Mapping[str, Pictures], image_size: int | None) -> str:
    stamps = [f"{name} {pictures.count} {pictures.stamp}" for name, pictures in splits.items()]
    return hashlib.sha256("\n".join([str(DECODER), str(image_size), *stamps]).encode()).hexdigest()[:32]


def _common_shape(splits: Mapping[str, Pictures], image_size: int | None) -> tuple[int, int, int]:
    """Channels, height and width that all pictures get, from their headers alone."""
    sizes: dict[tuple[int, int], str] = {}
    all_grey = True
    for pictures in splits.values():
        for name, (width, height), grey in _each(partial(_header, upright=image_size is None), pictures):
            sizes.setdefault((width, height), name)
            all_grey = all_grey and grey
    channels = 1 if all_grey else 3
    if image_size is not None:
        return channels, image_size, image_size
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        found = f"{a[0]}x{a[1]} ({first}) and {b[0]}x{b[1]} ({second})"
        raise UserError("data.image_size", "a size in pixels, because the images differ in size", found)
    ((width, height),) = sizes
    return channels, height, width


def _each(function: Callable[[Entry], T], pictures: Pictures) -> Iterator[T]:
    """`function` of every entry, in order, by all cores, with a bounded number of pictures in memory."""
    entries = pictures.entries()
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        while block := list(islice(entries, IN_FLIGHT)):
            yield from pool.map(function, block)


def _header(entry: Entry, *, upright: bool) -> tuple[str, tuple[int, int], bool]:
    """Name, width and height (of the picture as it lies, if not `upright`), and whether it is grey."""
    name, data = entry
    try:
        with Image.open(data if isinstance(data, Path) else BytesIO(data)) as image:
            grey = image.mode in GREY or _of_16_bits(image)
            return name, _upright_size(image) if upright else image.size, grey
    except BROKEN as error:
        raise _unreadable(name, error) from error


def _decoded(entry: Entry, channels: int, image_size: int | None) -> np.ndarray:
    name, data = entry
    try:
        with Image.open(data if isinstance(data, Path) else BytesIO(data)) as image:
            _set_upright(image)
            pixels = _pixels(image, channels)
    except BROKEN as error:
        raise _unreadable(name, error) from error
    return resize(pixels[None], image_size)[0]


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once a picture stands upright: only one that lies on its side is decoded for it, or a PNG."""
    with suppress(*BROKEN):
        if image.width != image.height and image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
            _set_upright(image)
    return image.size


def _set_upright(image: Image.Image) -> None:
    """Turn a picture as its EXIF orientation says; one whose EXIF cannot be read stays as it lies."""
    image.load()
    with suppress(*BROKEN, AttributeError, TypeError):  # the last two once it is turned, as Pillow writes odd EXIF anew
        ImageOps.exif_transpose(image, in_place=True)


def _of_16_bits(image: Image.Image) -> bool:
    """Whether a picture is grey from 0 to 65535; Pillow scales PGM of more than 8 bits to it, but holds 32."""
    return image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Pixels `(channels, H, W)`, uint8."""
    if _of_16_bits(image):
        grey = np.rint(np.asarray(image) / 257).astype(np.uint8)  # 65535 -> 255; Pillow's own conversion clips
        return np.repeat(grey[None], channels, axis=0)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode})")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow asks for this step
    if channels == 1:
        return np.asarray(image.convert("L"))[None]
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _unreadable(name: str, error: BaseException) -> UserError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    return UserError("data.name", "images that can be read", f"{name}: {reason}")
