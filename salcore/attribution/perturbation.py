"""The one primitive under LIME and KernelSHAP: the network on masked images, and a regression on the masks.

All images share one set of masks, so the regression is set up once per number of superpixels, not once per image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import prepared, select
from salcore.attribution.baseline import Baseline, as_baseline
from salcore.attribution.superpixels import Segmentation, Superpixels, segment

Off = Baseline | Literal["superpixel"]
"""What a superpixel shows when it is off: a baseline there, or its own mean, channel by channel."""

ROWS = 64
"""Where a batch is smaller, several masks share a pass of up to this many rows."""


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A regression on masks (S, M) of M superpixels, true for on; the first is all on.

    `fit` takes the float64 outputs (S, n) of n images to their coefficients (M, n), each image by itself.
    """

    masks: Tensor
    fit: Callable[[Tensor], Tensor]


def explain(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    surrogate: Callable[[int], Surrogate],
    *,
    superpixels: Superpixels,
    num_superpixels: int,
    baseline: Off,
    seed: int,
) -> Tensor:
    """Maps (N, 1, H, W) of the coefficients that `surrogate(M)`, made once per number of superpixels, finds.

    The regression runs on the CPU in float64: it is small, and cheaper there than as many launches on a GPU.
    """
    with prepared(model, inputs, targets) as (inputs, targets), torch.no_grad():
        segmentation = segment(inputs, superpixels, num_superpixels)
        off = switched_off(baseline, inputs, segmentation, seed)
        counts = sorted(set(segmentation.counts))
        surrogates = [surrogate(count) for count in counts]
        group = torch.tensor([counts.index(count) for count in segmentation.counts], dtype=torch.int64)
        outputs = _outputs(model, inputs, targets, off, segmentation.labels, _table(surrogates), group)
        group = group.expand(len(inputs))
        coefficients = torch.zeros(len(inputs), max(counts, default=0), dtype=torch.float64)
        for number, (count, each) in enumerate(zip(counts, surrogates, strict=True)):
            members = group == number
            coefficients[members, :count] = each.fit(outputs[: len(each.masks), members]).T
        return segmentation.paint(coefficients.to(inputs))


def switched_off(baseline: Off, inputs: Tensor, segmentation: Segmentation, seed: int) -> Tensor:
    """The images with every superpixel off, (N, C, H, W)."""
    if isinstance(baseline, str) and baseline == "superpixel":
        return segmentation.averaged(inputs)
    return as_baseline(baseline, inputs, seed=seed)


def _table(surrogates: list[Surrogate]) -> Tensor:
    """The masks of all surrogates as (S, G, M), filled up with images that are all on."""
    masks = [surrogate.masks for surrogate in surrogates]
    rows, columns = (max((each.shape[axis] for each in masks), default=0) for axis in (0, 1))
    table = torch.ones(rows, len(masks), columns, dtype=torch.bool)
    for number, each in enumerate(masks):
        table[: len(each), number, : each.shape[1]] = each
    return table


def _outputs(
    model: nn.Module, inputs: Tensor, targets: Tensor, off: Tensor, labels: Tensor, table: Tensor, group: Tensor
) -> Tensor:
    """The targets' logits (S, N) on the CPU in float64, of N images under masks (S, G, M), the first of them all on.

    `labels` (L, H, W) and `group` (L,), which of the G sets of masks an image's are. The first pass is on the images as
    they came: what a network says of its input is then said of the caller's.
    """
    outputs = [select(model(inputs.clone()), targets)[None]]
    last = _channels_last(model, inputs, targets, outputs[0][0])
    copies = max(1, ROWS // max(1, len(inputs)))
    repeated = targets.repeat(copies)
    # Values in the order in which they lie in memory, so that masking is one pass over it.
    shown, hidden = _flat(inputs, last), _flat(off, last)
    places = _flat(labels[:, None].expand(-1, inputs.shape[1], -1, -1), last)
    table, group = table.to(inputs), group.to(inputs.device)
    for masks in table[1:].split(copies):
        on = masks[:, group].gather(2, places.expand(len(masks), -1, -1))
        # Exact at both ends, and several times faster than `where`, whose branches no processor can foresee.
        masked = _images(torch.lerp(hidden, shown, on).flatten(0, 1), inputs.shape[1:], last)
        outputs.append(select(model(masked), repeated[: len(masked)]).view(len(masks), len(inputs)))
    return torch.cat(outputs).to("cpu", torch.float64)


def _flat(images: Tensor, last: bool) -> Tensor:
    """Images (n, C, H, W) as rows of values, channels last or first."""
    return (images.movedim(1, -1) if last else images).flatten(1)


def _images(rows: Tensor, shape: torch.Size, last: bool) -> Tensor:
    """Rows of values as images (n, C, H, W), without a copy."""
    channels, height, width = shape
    return rows.view(-1, height, width, channels).movedim(-1, 1) if last else rows.view(-1, *shape)


def _channels_last(model: nn.Module, inputs: Tensor, targets: Tensor, expected: Tensor) -> bool:
    """Whether masked images are to have their channels last in memory: as the images themselves, and on a CPU if the
    network then gives what is `expected` (N,) of them, because convolution and pooling are up to three times as fast.

    A network that calls `view` refuses such images, and one that reads memory by itself may misread them.
    """
    as_given = inputs.is_contiguous(memory_format=torch.channels_last) and not inputs.is_contiguous()
    if inputs.device.type != "cpu" or not len(inputs):
        return as_given
    try:
        found = select(model(_images(_flat(inputs, True).clone(), inputs.shape[1:], True)), targets)
    except Exception:  # an offer: what fails here has just worked in the caller's layout, and goes on in that
        return as_given
    tolerance = torch.finfo(found.dtype).eps ** 0.5
    scale = float(expected.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, expected, tolerance, tolerance * scale, equal_nan=True)
