"""Images on a page: small pictures, enlarged without smoothing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from salcore.data.part import Data
from salcore.figures.colour import LARGEST_SIDE, image_file, map_png, masked_png
from salcore.figures.inputs import Inputs
from salcore.figures.maps import Panel, Shown, panels
from salcore.figures.signs import TIMES
from salcore.report import html

SMALLEST_SIDE = 16


@dataclass(frozen=True)
class ImageView:
    """`salcore.report.views.View` of images: maps are summed over channels, one pixel per value."""

    inputs: Inputs
    style = ""

    def described(self, data: Data) -> str:
        """The `data` in words."""
        channels, height, width = data.shape
        kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
        return f"{kind} images of {height} {TIMES} {width} pixels"

    def notes(self) -> Iterator[str]:
        """What was summed before anything is drawn."""
        if (channels := self.inputs.shape[0]) > 1:
            yield (
                f"Maps are summed over their {channels} channels, member by member, before anything is drawn. "
                "Significance is tested channel by channel: a pixel is shown where any of its channels is significant."
            )

    def sample(self, position: int) -> str:
        """The image at its `position`."""
        values = self.inputs.values(position)
        return "" if values is None else html.picture(image_file(values), "image")

    def maps(self, position: int, found: Shown, room: int) -> Iterator[str]:
        """A picture of each map, smaller where there is little room."""
        side = side_within(room)
        return (html.picture(_file(panel, side), panel.caption, panel.note, panel.scale) for panel in panels(found))

    def strip(self, pieces: Sequence[str]) -> str:
        """Seven of the `pieces` beside one another."""
        return f'<div class="strip">{html.joined(pieces)}</div>'

    def thumbnails(self, positions: Sequence[int], captions: Sequence[tuple[str, str]]) -> str:
        """The images at these `positions` with their `captions`."""
        files = (image_file(values) for p in positions if (values := self.inputs.values(p)) is not None)
        pieces = (html.picture(file, *caption) for file, caption in zip(files, captions, strict=True))
        return f'<div class="thumbs">{html.joined(pieces)}</div>'


def side_within(room: int) -> int:
    """Largest side in pixels of maps that take so many bytes, one for each pixel.

    >>> side_within(180_000), side_within(4_500)
    (160, 67)
    """
    return max(SMALLEST_SIDE, min(LARGEST_SIDE, math.isqrt(room)))


def _file(panel: Panel, side: int) -> bytes:
    if panel.mask is None:
        return map_png(panel.values, panel.scale, side)
    return masked_png(panel.values, panel.mask, panel.scale, side)
