"""Networks for sequences of different lengths, bound to the steps that count in one batch.

A network for padded sequences is called as `model(inputs, valid=valid)`. Everything that explains or measures a network
calls `model(inputs)`: so the network is bound to its batch first.
"""

import inspect

from torch import Tensor, nn


class Bound(nn.Module):
    """A network for sequences with `valid` (N, T) of one batch: takes that batch's inputs alone, as often as wanted."""

    def __init__(self, model: nn.Module, valid: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("valid", valid, persistent=False)
        self.training = model.training

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's logits (N, K). Raises ValueError for another number of samples than it is bound to."""
        valid = self.valid
        assert isinstance(valid, Tensor)
        if len(inputs) != len(valid):
            raise ValueError(
                f"`inputs`: expected the {len(valid)} sequences that the model is bound to, got {len(inputs)}"
            )
        return self.model(inputs, valid=valid)


def bound(model: nn.Module, valid: Tensor | None) -> nn.Module:
    """The model as one that takes inputs alone; itself where no step is padding or it does not ask which ones are.

    >>> import torch
    >>> linear = nn.Linear(2, 2)
    >>> bound(linear, torch.ones(1, 1, dtype=torch.bool)) is linear
    True
    """
    return Bound(model, valid) if valid is not None and takes_valid(model) else model


def takes_valid(model: nn.Module) -> bool:
    """Whether the network's `forward` has a parameter `valid`."""
    return "valid" in inspect.signature(model.forward).parameters
