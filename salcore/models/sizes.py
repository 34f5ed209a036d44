"""Whether a network takes the data: tried with a batch of two, in training and in evaluation mode."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from salcore.errors import UserError
from salcore.padding import bound

# Sizes at which a network's least size is looked for: powers of two, and multiples of the patches of transformers.
_LADDER = (1, 2, 4, 7, 8, 14, 16, 28, 32, 64, 128, 224, 256, 299, 384, 512)

SMALL = 30_000_000
"""Parameters up to which a network is tried with numbers."""

Shape = tuple[int, ...]
Build = Callable[[Shape], nn.Module]


def check_size(build: Build, name: str, *, input_shape: Shape, classes: int) -> None:
    """Raise UserError, with the key `data.image_size`, unless the network takes the shape (C, H, W).

    The message names the smallest square that it takes, found by trying on the meta device: shapes without numbers. The
    shape itself is tried with numbers if the network is small, in less time than it takes to load what meta needs.
    """
    if _takes(build, input_shape, classes, numbers=True):
        return
    channels, *sides = input_shape
    smallest = _smallest(lambda size: _takes(build, (channels, size, size), classes))
    if smallest is None:
        tried = f"none of {_LADDER[0]} to {_LADDER[-1]} pixels is taken"
        raise UserError("model", f"settings with which {name} takes square images of some size ({tried})", name)
    got = " x ".join(map(str, sides))
    if smallest > min(sides):
        raise UserError("data.image_size", f"{smallest} or more, the smallest square that {name} takes", got)
    # Patches: larger is not always better. The next rung that fits is named too.
    fitting = [size for size in _LADDER if size > max(sides) and _takes(build, (channels, size, size), classes)]
    more = f" or {fitting[0]}" if fitting else ""
    raise UserError("data.image_size", f"a size that {name} takes, such as {smallest} (its smallest){more}", got)


def check_output(build: Build, name: str, *, input_shape: Shape, classes: int, num_steps: int | None = None) -> None:
    """Raise UserError, with the key `model.name`, unless the network maps (2, *input_shape) to logits (2, K).

    It runs on the CPU, because a user's code may do what the meta device cannot. Of sequences of `num_steps`, half of
    the second one is padding, for a network that asks.
    """
    wanted = f"{name} to take a batch {(2, *input_shape)} and return logits {(2, classes)}"
    network = build(input_shape)
    if num_steps is not None:
        network = bound(network, torch.arange(num_steps) < torch.tensor([[num_steps], [-(-num_steps // 2)]]))
    try:
        outputs = _outputs(network, torch.zeros(2, *input_shape))
    except Exception as error:  # whatever a user's forward raises is told in one line, and chained
        raise UserError("model.name", wanted, f"{type(error).__name__}: {error}") from error
    for output in outputs:
        if not isinstance(output, Tensor):
            raise UserError("model.name", wanted, f"an output of type {type(output).__name__}")
        if output.shape != (2, classes):
            raise UserError("model.name", wanted, f"an output of shape {tuple(output.shape)}")


def _outputs(network: nn.Module, inputs: Tensor) -> list[object]:
    with torch.no_grad():
        return [network.train(mode)(inputs) for mode in (True, False)]


def _takes(build: Build, input_shape: Shape, classes: int, *, numbers: bool = False) -> bool:
    try:
        network, device = _skeleton(build, input_shape), "meta"
        if numbers and sum(parameter.numel() for parameter in network.parameters()) < SMALL:
            network, device = build(input_shape), "cpu"
        outputs = _outputs(network, torch.zeros(2, *input_shape, device=device))
    except UserError:
        raise
    except (RuntimeError, ValueError, AssertionError):
        # What PyTorch and torchvision raise where a map has no pixel left or a patch does not divide the image.
        return False
    return all(isinstance(output, Tensor) and output.shape == (2, classes) for output in outputs)


def _skeleton(build: Build, input_shape: Shape) -> nn.Module:
    """The network without numbers: cheap whatever its size."""
    try:
        with torch.device("meta"):
            return build(input_shape)
    except NotImplementedError:
        # Its constructor computes with tensors (regnet): build it in full, then drop the numbers.
        return build(input_shape).to("meta")


def _smallest(takes: Callable[[int], bool]) -> int | None:
    """The smallest size taken: the first rung of the ladder that is, then bisection down to the rung below."""
    below = 0
    for rung in _LADDER:
        if takes(rung):
            break
        below = rung
    else:
        return None
    least = rung
    while least - below > 1:
        middle = (least + below) // 2
        if takes(middle):
            least = middle
        else:
            below = middle
    return least
