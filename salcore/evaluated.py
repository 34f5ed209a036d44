"""A network in evaluation mode with constant parameters, as whoever explains one runs it, and left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode with constant parameters: every module's mode and every flag are put back after.

    Constant parameters spare the backward pass the gradients of the weights. A network with recurrent layers runs
    without cuDNN, whose recurrent layers have no backward pass in evaluation mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    # One made in inference mode has no flag that could be put back, and asks for no gradient outside of it.
    flags = [(each, each.requires_grad) for each in model.parameters() if not each.is_inference()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with without_cudnn() if any(isinstance(module, nn.RNNBase) for module, _ in modes) else nullcontext():
            yield
    finally:
        for module, training in modes:
            module.training = training  # not train(), which would set the children too
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """A block that cuDNN takes no part in. Not `cudnn.flags`, which also puts other flags to its defaults."""
    before = torch.backends.cudnn.enabled
    try:
        torch.backends.cudnn.enabled = False
        yield
    finally:
        torch.backends.cudnn.enabled = before
