"""What takes the place of masked pixels: functions `(inputs (N, C, H, W), generator) -> Tensor (N, C, H, W)`.

A fill replaces every pixel, and the mask chooses among them: so a step draws as many numbers whatever is masked.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def uniform_fill(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Independent uniform values between each sample's own smallest and largest, per channel.

    The paper says "within the feature range"; the published code takes the sample's range, as here, and for colour
    images the channel's range in that sample.
    """
    low, high = inputs.amin((2, 3), keepdim=True), inputs.amax((2, 3), keepdim=True)
    draws = torch.rand(inputs.shape, generator=generator, device=generator.device, dtype=inputs.dtype)
    return torch.minimum(low + (high - low) * draws.to(inputs.device), high)  # rounding may lift a value past the top


def background_fill(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Each sample's own top left pixel, per channel: the background of centred objects such as digits.

    The published code (without its switch for random values) takes the top left pixel of the batch's *first* image for
    all of MNIST, which ties a sample to its batch, and the channel's mean for colour images. Draws nothing.
    """
    return inputs[:, :, :1, :1].expand_as(inputs)


FILLS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "uniform": uniform_fill,
    "background": background_fill,
}
