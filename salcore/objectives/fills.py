"""What takes the place of masked features, by kind of data.

A fill is `(inputs, *, mask, valid, generator) -> Tensor` of the inputs' shape: a value for every place, among which the
mask then chooses, so that a step draws as many random numbers whatever is masked. `mask` holds a boolean per position
that is ranked: pixels (N, H, W), cells (N, F, T), words (N, T). `valid` (N, T) tells steps and words from the padding
at their end; None where there is none. Values at padding mean nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from salcore.errors import UserError

if TYPE_CHECKING:
    from salcore.data.part import Kind


def uniform(inputs: Tensor, *, mask: Tensor, valid: Tensor | None, generator: torch.Generator) -> Tensor:
    """Independent uniform values between each sample's own smallest and largest, per channel or feature.

    Inputs (N, C, H, W) or (N, F, T), the range of a feature over its valid steps. The paper says "within the feature
    range"; the published code takes the sample's range, as here, and for colour images the channel's range in that
    sample.
    """
    axes = tuple(range(2, inputs.ndim))
    # The first step stands in for padding, which lies at the end.
    seen = inputs if valid is None else torch.where(valid[:, None], inputs, inputs[:, :, :1])
    low, high = seen.amin(axes, keepdim=True), seen.amax(axes, keepdim=True)
    draws = torch.rand(inputs.shape, generator=generator, device=generator.device, dtype=inputs.dtype)
    return torch.minimum(low + (high - low) * draws.to(inputs.device), high)  # rounding may lift a value past the top


def background(inputs: Tensor, *, mask: Tensor, valid: Tensor | None, generator: torch.Generator) -> Tensor:
    """Each sample's own top left pixel, per channel: the background of centred objects such as digits.

    The published code (without its switch for random values) takes the top left pixel of the batch's *first* image for
    all of MNIST, which ties a sample to its batch, and the channel's mean for colour images. Draws nothing.
    """
    return inputs[:, :, :1, :1].expand_as(inputs)


def previous_word(inputs: Tensor, *, mask: Tensor, valid: Tensor | None, generator: torch.Generator) -> Tensor:
    """Each word the nearest one before it that is kept, itself if kept: embeddings (N, T, E), mask (N, T).

    "The masking function replaces the low salient word with the previous high salient word" (Section 4). Words before
    the first kept one take that one, which the paper leaves open; where no word is kept, all stay. Draws nothing.
    """
    kept = ~mask if valid is None else valid & ~mask
    samples, words = mask.shape
    places = torch.arange(words, device=inputs.device).expand_as(mask)
    before = places.where(kept, -1).cummax(1).values
    first = places.where(kept, words).amin(1, keepdim=True)
    source = before.where(before >= 0, first).where(first < words, places)
    rows = source + words * torch.arange(samples, device=inputs.device)[:, None]
    return inputs.flatten(0, 1).index_select(0, rows.flatten()).view_as(inputs)  # whole rows: `gather` moves numbers


FILLS: "dict[Kind, dict[str, Callable[..., Tensor]]]" = {
    "images": {"uniform": uniform, "background": background},
    "series": {"uniform": uniform},
    "text": {"previous_word": previous_word},
}
"""The fills that a kind of data has; its first is the default."""


def fill_for(kind: "Kind", name: str | None = None) -> str:
    """The fill that is meant by `training.guidance.fill` for this kind of data: the kind's default for None.

    Raises UserError for a fill that the kind does not have.

    >>> fill_for("text"), fill_for("images", "background")
    ('previous_word', 'background')
    """
    fills = FILLS[kind]
    if name is None:
        return next(iter(fills))
    if name not in fills:
        raise UserError("training.guidance.fill", f"{' or '.join(fills)} for {kind}", name)
    return name
