"""Superpixels: groups of pixels that a perturbation method switches on and off together.

>>> import torch
>>> segment(torch.zeros(5, 1, 4, 6), "grid", 6).labels[0]
tensor([[0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 5, 5],
        [3, 3, 4, 4, 5, 5]])
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from salcore.attribution.autograd import require_images

Kind = Literal["grid", "slic"]
Superpixels = Tensor | Kind
"""How to cut images: into the cells of a grid, by SLIC, or as integer labels (H, W) or (N, H, W) say."""

COMPACTNESS = 0.2
"""Of SLIC: a contrast, as a share of the image's range, that counts as much as the distance between two centres.

At 0.2 segments follow the edges of photographs. It is doubled for an image whose segments would be fewer than a quarter
of those asked for: at 0.2, noise of 64 x 64 pixels is 1 to 5 segments instead of 64.
"""
TRIED = 5
"""How often: from 1.6 on the distance decides."""

_KEPT: dict[tuple[str, int], np.ndarray] = {}
_KEPT_PIXELS = 2**25  # 128 MiB of labels: 32,768 images of 32 x 32, 668 of 224 x 224


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The superpixel of each pixel: labels (L, H, W), L = 1 where all images are cut alike and else N.

    `counts` are the L numbers of superpixels M; the labels of an image are 0 to M - 1, and each of them occurs.
    """

    labels: Tensor
    counts: tuple[int, ...]

    def paint(self, coefficients: Tensor) -> Tensor:
        """Each superpixel's coefficient on all of its pixels: (N, largest M) -> (N, 1, H, W)."""
        places = self.labels.flatten(1).expand(len(coefficients), -1)
        return coefficients.gather(1, places).view(-1, 1, *self.labels.shape[1:])

    def sizes(self) -> Tensor:
        """For each pixel the number of pixels of its superpixel, (L, H, W), on the CPU."""
        return self._summed(torch.ones_like(self.labels, device="cpu")[:, None])[:, 0]

    def averaged(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) with every pixel at the mean of its superpixel, channel by channel."""
        return (self._summed(inputs.to("cpu", torch.float64)) / self.sizes()[:, None]).to(inputs)

    def _summed(self, values: Tensor) -> Tensor:
        """Every pixel's value replaced by the sum over its superpixel, (n, c, H, W); on the CPU, in one fixed order."""
        flat = values.flatten(2)
        places = self.labels.cpu().flatten(1)[:, None].expand(flat.shape)
        sums = flat.new_zeros(*flat.shape[:2], max(self.counts, default=0)).scatter_add_(2, places, flat)
        return sums.gather(2, places).view(values.shape)


def segment(inputs: Tensor, superpixels: Superpixels, num_superpixels: int) -> Segmentation:
    """Cut images (N, C, H, W) into superpixels; an image's own do not depend on its batch.

    - grid: rows and columns of cells, all about square, nearest to `num_superpixels` and never more than pixels;
    - slic: connected segments that follow edges, as many as the image makes, at most `num_superpixels` and, on images
      of as many pixels, at least a quarter of that;
    - integer labels (H, W) or (N, H, W): one superpixel for each value that occurs; `num_superpixels` says nothing.

    Raises ValueError for anything else, for inputs that are no images, for fewer than one superpixel and where
    scikit-image is missing.

    SLIC Superpixels Compared to State-of-the-Art Superpixel Methods (Achanta et al., 2012).
    """
    require_images(inputs, "a map of superpixels")
    if num_superpixels < 1:
        raise ValueError(f"`num_superpixels`: expected 1 or more, got {num_superpixels}")
    if isinstance(superpixels, Tensor):
        return _given(superpixels, inputs)
    if superpixels == "grid":
        return _numbered(grid(inputs.shape[2], inputs.shape[3], num_superpixels)[None], inputs.device)
    if superpixels == "slic":
        return _numbered(_slic(inputs, num_superpixels), inputs.device)
    raise ValueError(
        f"`superpixels`: expected {' or '.join(map(repr, get_args(Kind)))} or integer labels, got {superpixels!r}"
    )


def grid(height: int, width: int, number: int) -> Tensor:
    """Labels (H, W) of a grid whose sides differ by a pixel at most.

    Of the numbers of rows within a factor of sqrt 2 of the one that makes cells square, the one with the number of
    cells nearest to `number` is taken, and of those the squarest: 8 cells on a square are 2 x 4, not 1 x 8 or 3 x 3.
    """
    square = min(max(number * height / width, 1), height**2, number**2)  # rows that make cells square, squared
    rows, columns = min(
        (
            (rows, min(max(round(number / rows), 1), width))
            for rows in range(1, height + 1)
            if square <= 2 * rows**2 and rows**2 <= 2 * square
        ),
        key=lambda shape: (abs(shape[0] * shape[1] - number), max(shape[0] ** 2 / square, square / shape[0] ** 2)),
    )
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    return row[:, None] * columns + column


def _given(labels: Tensor, inputs: Tensor) -> Segmentation:
    """A user's own labels, of any integers."""
    shapes = (inputs.shape[2:], (len(inputs), *inputs.shape[2:]))
    if labels.shape not in shapes or labels.is_floating_point() or labels.is_complex():
        wanted = " or ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"`superpixels`: expected integer labels {wanted}, got {tuple(labels.shape)} {labels.dtype}")
    distinct = labels.detach().cpu().unique(return_inverse=True)[1]
    return _numbered(distinct if labels.ndim == 3 else distinct[None], inputs.device)


def _numbered(labels: Tensor, device: torch.device) -> Segmentation:
    """Labels (L, H, W) from 0, numbered anew so that each image's leave no gap."""
    flat = labels.flatten(1)
    present = torch.zeros(len(flat), int(flat.max()) + 1 if flat.numel() else 0, dtype=torch.int64)
    present.scatter_(1, flat, 1)
    numbers = (present.cumsum(1) - 1).gather(1, flat).view(labels.shape)
    return Segmentation(labels=numbers.to(device), counts=tuple(present.sum(1).tolist()))


def _slic(inputs: Tensor, number: int) -> Tensor:
    """Labels (N, H, W). The last images' are kept, as every member of an ensemble explains the same images."""
    # What is not finite says nothing here, and shows in the map.
    images = inputs.movedim(1, -1).to("cpu", torch.float64).nan_to_num(0, 0, 0).contiguous().numpy()
    labels = np.empty(images.shape[:3], np.int32)
    for place, image in enumerate(images):
        key = (hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest(), number)
        kept = _KEPT.pop(key, None)
        labels[place] = _KEPT[key] = _segments(image, number) if kept is None else kept
        while len(_KEPT) * labels[place].size > _KEPT_PIXELS:
            _KEPT.pop(next(iter(_KEPT)))  # the one that was asked for longest ago
    return torch.from_numpy(labels).long()


def _segments(image: np.ndarray, number: int) -> np.ndarray:
    """SLIC on one image (H, W, C) with its values as they are, stretched to its range: channels may be of any kind."""
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ValueError(
            "`superpixels`: 'slic' needs scikit-image: `pip install scikit-image`, or superpixels=grid"
        ) from error
    for times in range(TRIED):
        how = {"compactness": COMPACTNESS * 2**times, "convert2lab": False, "start_label": 0, "channel_axis": -1}
        for asked in range(number, 0, -1):  # it makes more than it is asked for where their grid does not fit the image
            labels: np.ndarray = slic(image, n_segments=asked, **how)
            if labels.max() < number:
                break
        if labels.max() + 1 >= number / 4:
            break
    return labels.astype(np.int32)
