"""From a part of a data set to normalised batches, whole batches at a time."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from salcore.data.part import Data, Part
from salcore.data.resident import rows_of
from salcore.device import sent

if TYPE_CHECKING:
    from salcore.spec import AugmentSpec


def normalise(pixels: Tensor, mean: np.ndarray | Tensor, std: np.ndarray | Tensor) -> Tensor:
    """Inputs `(N, C, ...)`, float32: (pixels / s - mean) / std per channel, s = 255 for uint8 and 1 for floats.

    They lie on the device of `pixels`.

    >>> normalise(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), np.array([0.5]), np.array([0.25])).tolist()
    [[[[-2.0, 2.0]]]]
    """
    scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
    own = (value if isinstance(value, Tensor) else np.array(value) for value in (mean, std))  # no worker may write them
    shift, width = (
        sent((torch.as_tensor(value, dtype=torch.float64) * scale).to(torch.float32), pixels.device).view(
            -1, *[1] * (pixels.ndim - 2)
        )
        for value in own
    )
    # Fresh strides: kernels are chosen by them, and NumPy gives an axis of one channel now this stride and now that,
    # so equal images would have other last bits for another way in which they were cut or stored.
    inputs = pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return inputs.sub_(shift).div_(width)


class Taught(NamedTuple):
    """What attention is taught in a batch: the share of each token, and which tokens count, both (n, T)."""

    explanation: Tensor
    counted: Tensor


class Batch(NamedTuple):
    """Inputs `(n, ...)`, float32 or numbers of tokens, labels `(n,)`, int64, and what there is for sequences.

    `valid` (n, T) tells which steps are no padding, None where all are. `taught` is there where the part has an
    explanation.
    """

    inputs: Tensor
    labels: Tensor
    valid: Tensor | None = None
    taught: Taught | None = None


def inputs_of(
    part: Part,
    rows: np.ndarray,
    data: Data,
    device: torch.device | str = "cpu",
    augmented: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What networks take of some rows of a part's arrays, and which steps of sequences count: `valid` (n, T) or None.

    Inputs are float32, normalised; words are embedded (n, T, E); tokens are their numbers (n, T), int64. Padding is 0.
    `augmented` changes pixels before.
    """
    valid = valid_steps(part, rows, device)
    if data.vectors is not None:
        return torch.from_numpy(data.vectors[np.asarray(part.values[rows])]).to(device), valid
    values = rows_of(part.values, rows, device)
    if data.kind == "text":
        return values.to(torch.int64), valid
    inputs = normalise(values if augmented is None else augmented(values), data.mean, data.std)
    return (inputs if valid is None else inputs * valid[:, None]), valid


def valid_steps(part: Part, rows: np.ndarray, device: torch.device | str = "cpu") -> Tensor | None:
    """Which steps of some rows' sequences are no padding, (n, T); None where all of them count."""
    if part.lengths is None:
        return None
    steps = torch.arange(part.values.shape[-1], device=device)
    return steps < torch.from_numpy(part.lengths[rows]).to(device)[:, None]


def epoch_batches(
    part: Part,
    data: Data,
    *,
    batch_size: int,
    order: torch.Generator | None,
    augment: "AugmentSpec | None" = None,
    augment_generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Every sample of `part` once.

    `order` draws the order of samples; None leaves it as it is. `augment` (crop, flip) takes its draws from
    `augment_generator`. Both generators are CPU ones, so that batches do not depend on `device`. A batch of texts is
    cut to its longest one.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size`: expected at least 1, got {batch_size}")
    augmented = _augmenter(augment, augment_generator)
    rows = part.index if order is None else part.index[torch.randperm(len(part), generator=order).numpy()]
    for start, stop in bounds(len(rows), batch_size):
        chosen = rows[start:stop]
        inputs, valid = inputs_of(part, chosen, data, device, augmented)
        if data.kind == "text" and part.lengths is not None:
            longest = int(part.lengths[chosen].max())
            inputs, valid = inputs[:, :longest], None if valid is None else valid[:, :longest]
        labels = rows_of(part.labels, chosen, device)
        taught = None if part.explanation is None else _taught(part, chosen, inputs.shape[1], device)
        yield Batch(inputs, labels, valid, taught)


def _taught(part: Part, rows: np.ndarray, steps: int, device: torch.device | str) -> Taught:
    """What attention is to look like in these rows, cut to so many tokens. Raises ValueError without `word_of`."""
    if part.explanation is None or part.word_of is None:
        raise ValueError("`part`: expected one with `explanation` and `word_of`, got one without")
    explanation, word_of = (
        torch.from_numpy(each[rows, :steps]).to(device) for each in (part.explanation, part.word_of)
    )
    return Taught(explanation, word_of >= 0)


def bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and stop of every batch; one sample left over joins the batch before, as batch-norm needs two.

    >>> bounds(9, 4)
    [(0, 4), (4, 9)]
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and batch_size > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True)) if count else []


def augmentation(pixels: Tensor, *, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image `(C, H, W)` shifted by up to `crop` pixels each way, zeros coming in, and mirrored half of the time.

    Equal to a random crop of the image's own size after padding by `crop`, then a random horizontal flip.
    Draws per batch, in this order: N rows and N columns in 0..2 crop (if crop > 0), N flips (if flip).
    """
    count, _, height, width = pixels.shape
    rows, columns = torch.arange(height).expand(count, height), torch.arange(width).expand(count, width)
    if crop:
        offsets = torch.randint(0, 2 * crop + 1, (2, count, 1), generator=generator)
        rows, columns = rows + offsets[0], columns + offsets[1]
        pixels = pad(pixels, (crop, crop, crop, crop))
    if flip:
        mirrored = torch.randint(0, 2, (count, 1), generator=generator).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = sent(rows, pixels.device), sent(columns, pixels.device)
    sample = torch.arange(count, device=pixels.device)
    # Channels last inside: one gathered index then moves a whole pixel.
    picked = pixels.permute(0, 2, 3, 1)[sample[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def _augmenter(augment: "AugmentSpec | None", generator: torch.Generator | None) -> Callable[[Tensor], Tensor] | None:
    if augment is None or not (augment.crop or augment.flip):
        return None
    if generator is None:
        raise ValueError("`augment_generator`: expected a generator, because `augment` asks for draws, got None")
    return partial(augmentation, crop=augment.crop, flip=augment.flip, generator=generator)
