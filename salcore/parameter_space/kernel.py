"""The mean magnitude of each filter's gradient, sample by sample, without holding the gradients of the samples.

The gradient of a convolution's weight is a sum over the positions l of its window, dW[a, ck] = sum_l g[a, l] x[ck, l],
with g the gradient at the output and x[ck, l] what offset k of the window sees of channel c at position l. It is made
in tiles of samples, groups and channels by batched matrix products, each reduced at once.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from salcore.parameter_space.graph import Call

_CACHED_BYTES, _DEVICE_BYTES = 2**22, 2**28
"""Of one tile: on a CPU, what its caches hold; on a GPU, what keeps it busy."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Use:
    """A call with the gradient at its output, and the numbers (N, R) of each sample's rows, -1 for none.

    `rows` None: row n is sample n's. A transposed convolution is the adjoint of a convolution: its window slides over
    the gradient (`image`), and its input has one value for each position (`marks`).
    """

    call: Call
    gradient: Tensor
    rows: Tensor | None = None

    @property
    def transposed(self) -> bool:
        """Whether the filters are the image's channels."""
        return self.call.kind == "transposed convolution"

    @property
    def kernel(self) -> tuple[int, ...]:
        """The sides of the window."""
        return tuple(self.call.weight.shape[2:])

    @property
    def positions(self) -> int:
        """The number L of a sample's positions, those of all its rows together."""
        return math.prod(self._marks.shape[2:]) * (1 if self.rows is None else self.rows.shape[1])

    @property
    def per_group(self) -> tuple[int, int]:
        """The channels of the image and of the marks in one group."""
        return self._image.shape[1] // self.call.groups, self._marks.shape[1] // self.call.groups

    def image(self, samples: slice) -> Tensor:
        """What the window slides over, (n, R, C, *S)."""
        return self._of(self._image, samples)

    def marks(self, samples: slice) -> Tensor:
        """What has one value for each position of the window, (n, R, A, *positions)."""
        marks = self._of(self._marks, samples)
        if self.rows is None:
            return marks
        return marks * (self.rows[samples] >= 0).view(*marks.shape[:2], *[1] * (marks.ndim - 2))

    @property
    def _image(self) -> Tensor:
        return self.gradient if self.transposed else self.call.given

    @property
    def _marks(self) -> Tensor:
        return self.call.given if self.transposed else self.gradient

    def _of(self, tensor: Tensor, samples: slice) -> Tensor:
        return tensor[samples, None] if self.rows is None else tensor[self.rows[samples].clamp(min=0)]


@torch.no_grad()
def filter_means(uses: Sequence[Use], samples: int) -> Tensor:
    """The mean of |dW| over the weights of each filter of one layer, (N, filters) in float32 at least.

    The gradients of a layer's uses add up before their magnitude is taken.
    """
    call = uses[0].call
    dtype = torch.promote_types(uses[0].gradient.dtype, torch.float32)
    sums = torch.zeros(samples, call.filters, dtype=dtype, device=uses[0].gradient.device)
    depthwise = call.groups > 1 and call.weight.shape[1] == 1 and not uses[0].transposed
    (_add_depthwise if depthwise and sum(use.positions for use in uses) > 1 else _add_products)(uses, sums)
    return sums * (call.filters / call.weight.numel())


def _add_products(uses: Sequence[Use], sums: Tensor) -> None:
    """Add the magnitudes of every gradient to its filter's sum, (N, filters)."""
    groups, tile = uses[0].call.groups, _Tile.of(uses, sums)
    sums = sums.unflatten(1, (groups, -1))
    for samples in _slices(len(sums), tile.samples):
        images = [use.image(samples).unflatten(2, (groups, -1)) for use in uses]
        every = [use.marks(samples).unflatten(2, (groups, -1)) for use in uses]
        for group in _slices(groups, tile.groups):
            marks = [each[:, :, group].movedim(1, 3).flatten(3) for each in every]  # (n, g, A, L)
            for part in _slices(uses[0].per_group[0], tile.channels):
                seen = [_seen(image[:, :, group, part], use) for image, use in zip(images, uses, strict=True)]
                if uses[0].transposed:
                    _add_block(sums[samples, group, part], marks, seen, tile, by_channel=True)
                else:
                    _add_block(sums[samples, group], marks, seen, tile, by_channel=False)


def _add_block(sums: Tensor, marks: list[Tensor], seen: list[Tensor], tile: "_Tile", *, by_channel: bool) -> None:
    """Add to sums (n, g, filters) for marks (n, g, A, L) and seen (n, g, c, K, L) of each use."""
    if len(marks) == 1 and marks[0].shape[-1] == 1:  # sum_i |m x_i| = |m| sum_i |x_i|
        m, x = (each.abs().to(sums.dtype).squeeze(-1) for each in (marks[0], seen[0]))
        sums += m.sum(2, keepdim=True) * x.sum(3) if by_channel else m * x.sum((2, 3))[..., None]
        return
    for some in _slices(len(sums), tile.products):
        columns = [each[some].flatten(2, 3).flatten(0, 1).mT for each in seen]  # (n g, L, c K)
        for part in _slices(marks[0].shape[2], tile.marks):
            rows = [each[some, :, part].flatten(0, 1) for each in marks]
            product = torch.bmm(rows[0], columns[0])
            for pair in zip(rows[1:], columns[1:], strict=True):
                product.baddbmm_(*pair)
            sizes = product.abs_().view(-1, sums.shape[1], product.shape[1], *seen[0].shape[2:4])
            if by_channel:
                sums[some] += sizes.sum((2, 4), dtype=sums.dtype)
            else:
                sums[some, :, part] += sizes.flatten(3).sum(3, dtype=sums.dtype)


def _seen(image: Tensor, use: Use) -> Tensor:
    """What each offset of the window sees at each position: (n, R, g, c, *S) -> (n, g, c, K, L)."""
    windows = use.call.windows
    image = functional.pad(image, [pad for _, pad, _ in reversed(windows) for _ in range(2)])
    own = use.call.given if use.transposed else use.gradient
    for axis, ((stride, _, dilation), side) in enumerate(zip(windows, use.kernel, strict=True)):
        image = image.unfold(4 + axis, dilation * (side - 1) + 1, stride)[..., ::dilation]
        image = image.narrow(4 + axis, 0, own.shape[2 + axis])  # a last place that the stride leaves out
    positions, offsets = range(4, 4 + len(windows)), range(4 + len(windows), image.ndim)
    n, _, g, c = image.shape[:4]
    return image.permute(0, 2, 3, *offsets, 1, *positions).reshape(n, g, c, math.prod(use.kernel), -1)


def _add_depthwise(uses: Sequence[Use], sums: Tensor) -> None:
    """The same where each filter sees one channel: a convolution of every channel with the gradient at its output.

    With the stride as its dilation and the dilation as its stride, one call with a group per sample and channel.
    """
    per_sample = sum(use.image(slice(0, 1)).numel() + use.marks(slice(0, 1)).numel() for use in uses)
    fitting = _fitting(len(sums), _tile_bytes(sums) // (per_sample * uses[0].gradient.element_size()))
    for samples in _slices(len(sums), fitting):
        gradients = sum(_depthwise(use, samples) for use in uses)
        assert isinstance(gradients, Tensor)
        sums[samples] = gradients.abs().sum(2, dtype=sums.dtype)


def _depthwise(use: Use, samples: slice) -> Tensor:
    """The gradients of each sample, (n, filters, K)."""
    image, marks = use.image(samples), use.marks(samples)
    strides, paddings, dilations = zip(*use.call.windows, strict=True)
    n, rows, channels = image.shape[:3]
    found = torch.convolution(
        image.reshape(1, n * rows * channels, *image.shape[3:]),
        marks.reshape(n * rows * marks.shape[2], 1, *marks.shape[3:]),
        None, dilations, paddings, strides, False, [0] * len(strides), n * rows * channels,
    )  # fmt: skip
    for axis, side in enumerate(use.kernel):
        found = found.narrow(2 + axis, 0, side)
    return found.reshape(n, rows, marks.shape[2], -1).sum(1)


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """How many samples, groups and channels of the image are unfolded at once; of samples and marks, multiplied."""

    samples: int
    groups: int
    channels: int
    products: int
    marks: int

    @classmethod
    def of(cls, uses: Sequence[Use], sums: Tensor) -> "_Tile":
        """The largest that fits, whole channels before groups and these before samples."""
        room = _tile_bytes(sums) // uses[0].gradient.element_size()
        offsets, (every_channel, every_mark) = math.prod(uses[0].kernel), uses[0].per_group
        positions = sum(use.positions for use in uses)
        channels = _fitting(every_channel, room // (offsets * positions))
        groups = _fitting(uses[0].call.groups, room // (offsets * positions * channels))
        samples = _fitting(len(sums), room // (offsets * positions * channels * groups))
        marks = _fitting(every_mark, room // (offsets * channels * groups))
        products = _fitting(samples, room // (offsets * channels * groups * marks))
        return cls(samples=samples, groups=groups, channels=channels, products=products, marks=marks)


def _fitting(wanted: int, possible: int) -> int:
    return max(1, min(wanted, possible))


def _tile_bytes(like: Tensor) -> int:
    return _CACHED_BYTES if like.device.type == "cpu" else _DEVICE_BYTES


def _slices(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
