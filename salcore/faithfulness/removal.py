"""What takes the place of a removed position, and the deletion of words, after which a text is shorter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from salcore import seeds
from salcore.faithfulness.samples import Batch, Samples

FillName = Literal["background", "mean", "uniform", "zero"]
Fill = FillName | Tensor
"""The name of a fill, or values: of one sample (they broadcast), or (N, ...) like the inputs, each sample its own."""


def background_fill(batch: Batch, generator: torch.Generator) -> Tensor:
    """Each image's own top left pixel: the background of centred objects such as digits, which is in distribution."""
    return batch.inputs[:, :, :1, :1].expand_as(batch.inputs)


def mean_fill(batch: Batch, generator: torch.Generator) -> Tensor:
    """The mean of each channel over the image's pixels, of each feature or embedding dimension over the valid steps."""
    axes = batch.samples.axes
    valid = _valid(batch)
    counts = valid.expand_as(batch.inputs).sum(axes, keepdim=True).clamp(min=1)
    return (torch.where(valid, batch.inputs, 0).sum(axes, keepdim=True) / counts).expand_as(batch.inputs)


def uniform_fill(batch: Batch, generator: torch.Generator) -> Tensor:
    """Independent uniform values in the sample's own range of that channel, feature or embedding dimension."""
    axes, valid = batch.samples.axes, _valid(batch)
    low = torch.where(valid, batch.inputs, math.inf).amin(axes, keepdim=True)
    high = torch.where(valid, batch.inputs, -math.inf).amax(axes, keepdim=True)
    draws = torch.rand(batch.inputs.shape, generator=generator, **seeds.ON_CPU).to(batch.inputs)
    return torch.minimum(low + (high - low) * draws, high)  # rounding may lift a value past the top


def zero_fill(batch: Batch, generator: torch.Generator) -> Tensor:
    """0: of normalised inputs the data's mean, of words the vector of padding."""
    return torch.zeros_like(batch.inputs)


FILLS: dict[str, Callable[[Batch, torch.Generator], Tensor]] = {
    "background": background_fill,
    "mean": mean_fill,
    "uniform": uniform_fill,
    "zero": zero_fill,
}


def filler(fill: Fill, samples: Samples, seed: int) -> Callable[[Batch], Tensor]:
    """What gives a batch's replacement values, (n, ...) like its inputs; batches are asked for in order.

    Draws are made on the CPU, sample after sample, so that neither device nor batch size changes them.

    Raises ValueError for an unknown fill, a background of what is no image, and values that do not fit the inputs.
    """
    if isinstance(fill, Tensor):
        try:
            values = fill.expand(samples.inputs.shape)
        except RuntimeError:
            got, expected = tuple(fill.shape), tuple(samples.inputs.shape)
            raise ValueError(f"`fill`: expected values that broadcast to the inputs {expected}, got {got}") from None
        return lambda batch: values[batch.rows].to(batch.inputs)
    if fill not in FILLS:
        raise ValueError(f"`fill`: expected one of {', '.join(FILLS)} or a tensor, got {fill!r}")
    if fill == "background" and samples.kind != "images":
        raise ValueError(f"`fill`: expected mean, uniform, zero or a tensor for {samples.kind}, got 'background'")
    generator = seeds.generator(seed, 1)
    return lambda batch: FILLS[fill](batch, generator)


def deleted(inputs: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The texts without the words that are not kept, as short as the longest: (n, t, E), and their valid (n, t).

    Inputs (n, T, E), keep (n, T). The order of words stays, and the rest is padding, 0. A text of which nothing is left
    is one step of zeros, since networks for sequences take no empty ones.
    """
    lengths = keep.sum(1)
    longest = max(1, int(lengths.max()))
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    words = inputs.gather(1, order[..., None].expand(-1, -1, inputs.shape[2]))
    steps = torch.arange(longest, device=inputs.device)
    return torch.where((steps < lengths[:, None])[..., None], words, 0), steps < lengths.clamp(min=1)[:, None]


def _valid(batch: Batch) -> Tensor:
    """Which of the inputs are no padding, a mask that broadcasts over them."""
    if batch.valid is None:
        return torch.ones((), dtype=torch.bool, device=batch.inputs.device)
    return batch.valid[:, None] if batch.samples.kind == "series" else batch.valid[..., None]
