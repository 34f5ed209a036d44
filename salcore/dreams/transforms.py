"""Random small changes of the view: what a network must see whichever way the image lies is no adversarial noise.

Each step pads, shifts, scales, rotates, shifts again, and cuts the middle out at the image's own size, which is the one
that the networks were trained at. The lengths are those of lucent, the library that Woerl et al. used, for images of
128 pixels; at other sizes they are in proportion. Two things differ, since lucent enlarges what it has padded to the
224 pixels of ImageNet networks. Here it would have to be made smaller, which hides the finest waves, so that noise of
theirs grows unseen, and it would undo every enlargement: the middle is cut out instead, as in the article. And shifts
are centred on 0, so that no edge is cut off more often than the one across.

Source: Feature Visualization (Olah, Mordvintsev and Schubert, Distill 2017), section on transformation robustness.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from salcore.seeds import ON_CPU

SIDE = 128
"""Longer side in pixels of the images that the lengths below are for."""
PADDING, FIRST, SECOND = 12, 7, 3
"""Width of the padding, and the span of the shifts before and after scaling and rotating, in pixels."""
GREY = 0.5
"""What the padding is filled with. What comes in later, at the padding's rim, is black."""
SCALES = tuple(1 + step / 50 for step in range(-5, 6))
DEGREES = (*range(-10, 11), 0, 0, 0, 0, 0)
"""What is drawn from, all entries alike: the angle is 0 in 6 of 26 draws."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One draw: padding in pixels, two shifts (right, down) in pixels, a factor, and degrees counter-clockwise."""

    padding: int
    first: tuple[int, int]
    scale: float
    degrees: int
    second: tuple[int, int]


def draw(size: tuple[int, int], generator: Generator) -> View:
    """A view of images of `size` (H, W). Lengths are in proportion to the longer side, and 1 pixel at the least."""
    padding, first, second = (max(1, round(length * max(size) / SIDE)) for length in (PADDING, FIRST, SECOND))

    def below(stop: int) -> int:
        return int(torch.randint(stop, (), generator=generator, device=ON_CPU["device"]))

    def shifted(span: int, less: int) -> tuple[int, int]:
        return below(span + 1) - less, below(span + 1) - less

    return View(
        padding=padding,
        first=shifted(first, first // 2),
        scale=SCALES[below(len(SCALES))],
        degrees=DEGREES[below(len(DEGREES))],
        second=shifted(second, (second + 1) // 2),  # what is over of the first half is taken back
    )


def look(images: Tensor, view: View) -> Tensor:
    """Images `(N, C, H, W)` as a view shows them, all alike, of the same size."""
    seen = pad(images, (view.padding,) * 4, value=GREY)
    seen = shift(seen, view.first)
    seen = scale(seen, view.scale)
    seen = rotate(seen, view.degrees)
    seen = shift(seen, view.second)
    return middle(seen, (images.shape[-2], images.shape[-1]))


def shift(images: Tensor, by: tuple[int, int]) -> Tensor:
    """Moved right and down inside the frame; zeros come in."""
    right, down = by
    return pad(images, (right, -right, down, -down))


def scale(images: Tensor, factor: float) -> Tensor:
    """Enlarged, frame and all, or made smaller and brought back to the frame's size with zeros around."""
    height, width = images.shape[-2:]
    rows, columns = round(factor * height), round(factor * width)
    scaled = interpolate(images, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)
    above, left = max(0, height - rows) // 2, max(0, width - columns) // 2
    return pad(scaled, (left, max(0, width - columns) - left, above, max(0, height - rows) - above))


def rotate(images: Tensor, degrees: int) -> Tensor:
    """Turned counter-clockwise about the centre inside the frame, bilinear; zeros come in at the corners."""
    height, width = images.shape[-2:]
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    # Where each output pixel looks, in units of half the width and half the height.
    rows = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    turned = torch.tensor(rows, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = affine_grid(turned, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def middle(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of `size` (H, W), the odd row or column left away below and at the right."""
    above, left = ((whole - part) // 2 for whole, part in zip(images.shape[-2:], size, strict=True))
    return images[..., above : above + size[0], left : left + size[1]]
