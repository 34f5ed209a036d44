"""Masking what is around an object: whether the pixels that make filters salient mislead the network.

The most salient pixels outside the object's box are set to the data's mean, as many random ones likewise, and the
probabilities of the true class and of the class predicted before are compared with those of the whole image.

Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), section 3.4. Of how it
counts pixels and orders channels no more is published than "top 5 %": both are choices, told where they are made.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from salcore.evaluated import evaluated
from salcore.network import following
from salcore.parameter_space.effects import Effect, probabilities, require_labels
from salcore.seeds import generator


class PairedTest(NamedTuple):
    """Mean change, Student's t and the two-sided p-value."""

    mean: float
    t: float
    p: float


def most_salient_outside(maps: Tensor, boxes: np.ndarray, fraction: float = 0.05) -> Tensor:
    """The most salient pixels outside each box, (N, H, W) bool: `fraction` of the image's pixels, rounded, 1 or more.

    Maps (N, C, H, W), boxes (N, 4) of pixels [left, top, right, bottom). A pixel's score is the largest magnitude over
    its channels (Eq. 4 takes the magnitude; the published figures take the largest signed value and its magnitude
    then). Of equal pixels the first count. Where fewer lie outside the box, all that do are taken.

    Raises ValueError for a fraction outside (0, 1], maps that are not finite, and boxes that leave no pixel outside.

    >>> maps = torch.tensor([[[[9.0, -2.0], [1.0, 3.0]]]])
    >>> most_salient_outside(maps, np.array([[0, 0, 1, 1]]), fraction=0.5).tolist()
    [[[False, True], [False, True]]]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction`: expected a share of the image's pixels, above 0 and at most 1, got {fraction}")
    if maps.ndim != 4 or not bool(maps.isfinite().all()):
        raise ValueError(f"`maps`: expected finite numbers (N, C, H, W), got {tuple(maps.shape)}")
    height, width = maps.shape[2:]
    free = _outside(boxes, len(maps), (height, width)).to(maps.device).flatten(1)
    scores = maps.detach().abs().amax(1).flatten(1).masked_fill(~free, -1.0)
    order = scores.argsort(dim=1, descending=True, stable=True)
    wanted = max(1, round(fraction * height * width))
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return ((ranks < wanted) & free).unflatten(1, (height, width))


def random_outside(
    boxes: np.ndarray, size: tuple[int, int], counts: Sequence[int] | Tensor, *, samples: Iterable[int], seed: int = 0
) -> Tensor:
    """So many random pixels outside each box, (N, H, W) bool, without repetition.

    Boxes (N, 4) of pixels [left, top, right, bottom) in images of `size` (H, W), `counts` (N,). A sample's pixels
    depend on `seed`, its number in its data set, which `samples` (N,) tells, its box and count, and on nothing else.

    Raises ValueError for boxes that leave fewer pixels outside than are asked for.
    """
    numbers, wanted = [int(sample) for sample in samples], [int(count) for count in counts]
    free = _outside(boxes, len(wanted), size)
    if len(numbers) != len(wanted):
        raise ValueError(f"`samples`: expected a number for each of {len(wanted)} counts, got {len(numbers)}")
    chosen = torch.zeros_like(free)
    for number, count, room, row in zip(numbers, wanted, free, chosen, strict=True):
        places = room.flatten().nonzero()[:, 0]
        if not 0 <= count <= len(places):
            raise ValueError(f"`counts`: expected 0 to {len(places)} pixels, as lie outside the box, got {count}")
        row.view(-1)[places[torch.randperm(len(places), generator=generator(seed, number))[:count]]] = True
    return chosen


def masking_effect(model: nn.Module, inputs: Tensor, labels: Tensor, masks: Tensor, *, fill: float = 0.0) -> Effect:
    """How probabilities change when the masked pixels are set to `fill`; 0 is the data's mean in normalised inputs.

    Inputs (N, C, H, W), labels (N,) integers, masks (N, B, H, W) bool, B kinds of them; the effect is (N, B). The
    model runs in evaluation mode, in its own dtype and on its device, and is left as it was.

    Raises ValueError for masks of another shape, labels out of range and outputs that are no logits (N, K).
    """
    shape = (len(inputs), *masks.shape[1:2], *inputs.shape[2:])
    if inputs.ndim != 4 or masks.shape != shape or masks.dtype != torch.bool:
        got = f"{tuple(masks.shape)} of {masks.dtype}"
        raise ValueError(f"`masks`: expected (N, B, H, W) bool for the inputs {tuple(inputs.shape)}, got {got}")
    with evaluated(model), torch.no_grad():
        inputs = following(model, inputs)
        before = probabilities(model, inputs.clone())  # it may work in place
        require_labels("labels", labels, *before.shape)
        kinds = masks.to(inputs.device).unbind(1)
        after = [probabilities(model, inputs.masked_fill(mask[:, None], fill)) for mask in kinds]
        return Effect.of(before, torch.stack(after, dim=1), labels.to(before.device, torch.int64))


def paired_test(changes: np.ndarray) -> PairedTest:
    """Student's paired t test of changes (N,) that are 0 on average: t = mean / (deviation / sqrt(N)), two-sided.

    The deviation has ddof 1. t and p are NaN for fewer than 2 changes and for changes that are all 0, and the mean is
    for none.

    >>> mean, t, p = paired_test(np.array([1.0, 2.0, 3.0]))
    >>> mean, round(t, 3), round(p, 3)
    (2.0, 3.464, 0.074)
    """
    from scipy.special import stdtr  # here, as attribution, which imports this room, runs without it

    values = np.asarray(changes, np.float64)
    if values.ndim != 1:
        raise ValueError(f"`changes`: expected one for each sample (N,), got {values.shape}")
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2 or not values.any():
        return PairedTest(mean=mean, t=math.nan, p=math.nan)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    t = mean / error if error > 0 else math.copysign(math.inf, mean)
    return PairedTest(mean=mean, t=t, p=2 * float(stdtr(len(values) - 1, -abs(t))))


def outside(boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Which pixels of images of `size` (H, W) lie outside each box (N, 4), (N, H, W) bool.

    >>> outside(np.array([[0, 0, 1, 2]]), (2, 2)).tolist()
    [[[False, True], [False, True]]]
    """
    left, top, right, bottom = np.asarray(boxes, np.int64).T[:, :, None]
    rows, columns = (np.arange(length) for length in size)
    across, down = (left <= columns) & (columns < right), (top <= rows) & (rows < bottom)
    return ~(down[:, :, None] & across[:, None])


def _outside(boxes: np.ndarray, samples: int, size: tuple[int, int]) -> Tensor:
    """Which pixels lie outside each box, (N, H, W) bool. Raises ValueError where none does."""
    boxes = np.asarray(boxes)
    if boxes.shape != (samples, 4) or boxes.dtype.kind not in "iu":
        raise ValueError(f"`boxes`: expected ({samples}, 4) integers, got {boxes.shape} of {boxes.dtype}")
    free = outside(boxes, size)
    if not (some := free.any((1, 2))).all():
        first = int(np.flatnonzero(~some)[0])
        raise ValueError(
            f"`boxes`: expected boxes with a pixel outside, got {boxes[first].tolist()} of the whole image"
        )
    return torch.from_numpy(free)
