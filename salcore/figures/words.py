"""Words on coloured ground: the colours, with ink that can be read on them, and a text as rows of a figure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.canvas import INK
from salcore.figures.colour import SEQUENTIAL, Scale, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ft2font import FT2Font

LEVELS = 10
"""Shades of one sign; words of less than half a shade have no ground."""
LIGHT = "Greens"
"""Palette of deviations on words: as in a signed map, what is nothing looks like paper."""
SIZE, LINE, SPACE = 10.0, 17.0, 5.5
"""Of words in a figure, points: their size, from line to line, and between two."""
FINE = 10
"""Words are measured at so many dots per point."""
GAP = "[…]"
"""Stands for words that are left out."""


def ground(scale: Scale) -> Scale:
    """The scale as words are coloured by it: 0 is as light as paper."""
    return replace(scale, palette=LIGHT) if scale.palette == SEQUENTIAL else scale


def levels(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Shade of every value, from -10 at the low end of a signed scale to 10 at the high end; 0 for NaN."""
    share = np.clip(np.nan_to_num(values, nan=0.0) / scale.high, -1, 1)
    return np.rint(LEVELS * share).astype(np.int64)


def shade(level: int, scale: Scale) -> tuple[int, int, int]:
    """Colour of a level: it stands where its value does on the scale's palette."""
    share = (level / LEVELS * scale.high - scale.low) / (scale.high - scale.low)
    return tuple(palette(scale.palette)[round(255 * share)].tolist())


def ink_on(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever stands out more: by 4.58 to 1 at the least.

    Source: Web Content Accessibility Guidelines 2.2 (W3C, 2023), contrast ratio and relative luminance.

    >>> ink_on((255, 255, 0)), ink_on((0, 0, 128))
    ('#000', '#fff')
    """
    channels = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in
                (each / 255 for each in colour)]  # fmt: skip
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), channels))
    return "#000" if (luminance + 0.05) ** 2 >= 1.05 * 0.05 else "#fff"


def code(colour: tuple[int, int, int]) -> str:
    """A colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def flow(words: Sequence[str], width: float) -> list[list[tuple[float, int]]]:
    """Lines of at most `width` points: left end in points and number of every word."""
    lines: list[list[tuple[float, int]]] = [[]]
    x = 0.0
    for number, wide in enumerate(_widths(words)):
        if lines[-1] and x + wide > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, number))
        x += wide + SPACE
    return lines


def write(axes: "Axes", words: Sequence[str], shades: np.ndarray, scale: Scale, width: float) -> None:
    """Words in lines of `width` points, on ground of their level `(T,)`; the axes then are as high as the lines."""
    lines = flow(words, width)
    axes.set_xlim(0, width)
    axes.set_ylim(-LINE * len(lines), 0)
    for row, line in enumerate(lines):
        for x, number in line:
            colour = shade(int(shades[number]), scale)
            box = {"facecolor": code(colour), "edgecolor": "none", "pad": 1.5} if shades[number] else None
            axes.text(
                x, -(row + 0.5) * LINE, words[number], fontsize=SIZE, va="center_baseline",
                color=ink_on(colour) if shades[number] else INK, bbox=box, parse_math=False,
            )  # fmt: skip


def drawable(words: Iterable[str]) -> list[str]:
    """Words with a question mark for every letter that the font of figures lacks."""
    known = _font().get_charmap()
    return ["".join(letter if ord(letter) in known else "?" for letter in word) for word in words]


def _widths(words: Sequence[str]) -> Iterator[float]:
    font = _font()
    for word in words:
        font.set_size(SIZE, 72 * FINE)  # letters are whole dots wide
        font.set_text(word, 0.0)
        yield font.get_width_height()[0] / 64 / FINE


def _font() -> "FT2Font":
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties()))
