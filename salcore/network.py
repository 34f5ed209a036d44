"""What everything that explains a network gives it and expects of it: inputs, logits, and numbers of classes."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MIXED = (
    "`model`: expected samples that do not depend on one another in evaluation mode, got a batch-norm without running "
    "statistics"
)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def following(model: nn.Module, inputs: Tensor, *, copy: bool = False) -> Tensor:
    """The inputs without their history, of the dtype of the model's parameters and on their device.

    What was made in inference mode takes no part in autograd, but its copy does. Raises ValueError for inputs without
    fractions where no parameter says which type they should have.
    """
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), inputs)
    if not like.is_floating_point():
        raise ValueError(f"`inputs`: expected floating point numbers, got {inputs.dtype}")
    own = inputs.detach()
    return (own.clone() if copy or own.is_inference() else own).to(like.device, like.dtype)


def require_apart(model: nn.Module) -> None:
    """Raise ValueError for a network whose samples depend on one another in evaluation mode."""
    if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules()):
        raise ValueError(MIXED)


def require_integers(name: str, values: Tensor, inputs: Tensor) -> None:
    """Raise ValueError unless there is one integer for each of the inputs (N, ...)."""
    for argument, value in (("inputs", inputs), (name, values)):
        if not isinstance(value, Tensor):
            raise ValueError(f"`{argument}`: expected a tensor, got {type(value).__name__}")
    if values.shape != inputs.shape[:1] or values.dtype not in _INTEGERS:
        got = f"{tuple(values.shape)} of {values.dtype}"
        raise ValueError(f"`{name}`: expected one integer for each of the inputs {tuple(inputs.shape)}, got {got}")


def require_classes(name: str, values: Tensor, classes: int) -> None:
    """Raise ValueError for a number (N,) outside 0 to `classes` - 1."""
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < classes:
        got = f"{int(values.min())} to {int(values.max())}"
        raise ValueError(f"`{name}`: expected classes from 0 to {classes - 1}, got {got}")


def logits_of(output: object, samples: int) -> Tensor:
    """A network's output, if it is logits (N, K) of so many samples. Raises ValueError for another one."""
    if not isinstance(output, Tensor):
        raise ValueError(f"`model`: expected logits as one tensor (N, K), got {type(output).__name__}")
    if output.ndim != 2 or len(output) != samples:
        raise ValueError(f"`model`: expected logits of shape ({samples}, K), got {tuple(output.shape)}")
    return output
