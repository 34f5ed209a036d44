"""How stock networks are computed where time counts: the same numbers but for rounding, sooner.

Of a convolution's taps only those count that meet the image. Where its output is one pixel, as in the last stage of a
ResNet-18 at 32 pixels, all others meet the padding alone: what is left is a linear layer, with a ninth of the work of a
3 x 3 convolution on a map of 1 x 1. All else runs channels-last (N, H, W, C in memory), where convolutions, pooling and
normalisation are vectorised over channels, and so do the gradients. Parameters keep their names and values, so weights,
checkpoints and optimizers do not know. A user's own network is left alone: it may view its activations in the order of
torch's default.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.models import custom, language

if TYPE_CHECKING:
    from salcore.spec import ModelSpec


class QuickConv2d(nn.Conv2d):
    """A convolution (N, C, H, W) -> (N, D, h, w) that leaves out the taps that meet the padding alone."""

    def forward(self, inputs: Tensor) -> Tensor:
        """What `nn.Conv2d` gives, but for rounding, channels-last."""
        if inputs.ndim != 4:
            return super().forward(inputs)
        inputs = channels_last(inputs)
        seen = self._taps_of_one_pixel(*inputs.shape[2:])
        if seen is None:
            return super().forward(inputs)
        weight = self.weight[:, :, *seen].flatten(1)
        return functional.linear(inputs.flatten(1), weight, self.bias)[:, :, None, None]

    def _taps_of_one_pixel(self, *size: int) -> tuple[slice, slice] | None:
        """Rows and columns of the taps that meet an image (H, W), if the output is one pixel and others do not."""
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or isinstance(self.padding, str) or size == self.kernel_size:
            return None
        windows = zip(size, self.kernel_size, self.padding, self.stride, strict=True)
        if not all(side + pad <= taps <= side + 2 * pad < taps + step for side, taps, pad, step in windows):
            return None
        (top, left), (rows, columns) = self.padding, size
        return slice(top, top + rows), slice(left, left + columns)


class QuickFlatten(nn.Flatten):
    """Flattening, after which the gradient goes back to images channels-last.

    A linear layer gives it in torch's default order, and pooling and ReLU are three to six times as slow where their
    gradient lies in another order than their input.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """What `nn.Flatten` gives."""
        if inputs.ndim == 4 and inputs.requires_grad:
            inputs = inputs.view_as(inputs)  # a hook on the caller's own tensor would stay there
            inputs.register_hook(channels_last)
        return super().forward(inputs)


QUICK: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: QuickConv2d, nn.Flatten: QuickFlatten}


def channels_last(images: Tensor) -> Tensor:
    """The images (N, C, H, W) with their channels innermost in memory.

    Of one channel the strides say so too: kernels choose by them, and torch alone leaves such images as they are.

    >>> channels_last(torch.zeros(2, 1, 4, 5)).stride(), channels_last(torch.zeros(2, 3, 4, 5)).stride()
    ((20, 1, 5, 1), (60, 1, 15, 3))
    """
    if images.shape[1] != 1:
        return images.contiguous(memory_format=torch.channels_last)
    return images.flatten(1).unflatten(1, (*images.shape[2:], 1)).permute(0, 3, 1, 2)


def is_stock(name: str) -> bool:
    """Whether a network is ours or torchvision's, and so known to hold to what is done to it here.

    >>> is_stock("resnet18"), is_stock("python:package.module:function")
    (True, False)
    """
    return not name.startswith((custom.PREFIX, language.PREFIX))


def quick(network: nn.Module, spec: "ModelSpec") -> nn.Module:
    """The network itself, its layers computed as this module says unless it is a user's own.

    On a GPU its weights are laid out channels-last as well, as otherwise each pass would turn them.
    """
    if not is_stock(spec.name):
        return network
    _swap(network, QUICK)
    on_gpu = any(parameter.is_cuda for parameter in network.parameters())
    return network.to(memory_format=torch.channels_last) if on_gpu else network


@contextmanager
def as_built(network: nn.Module) -> Iterator[nn.Module]:
    """The network with its layers as torch has them, for what follows their weights through a pass."""
    changed = _swap(network, {other: plain for plain, other in QUICK.items()})
    try:
        yield network
    finally:
        if changed:
            _swap(network, QUICK)


def _swap(network: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> int:
    """Make modules of exactly these classes others with the same state, and count them."""
    found = [module for module in network.modules() if type(module) in classes]
    for module in found:
        module.__class__ = classes[type(module)]
    return len(found)
