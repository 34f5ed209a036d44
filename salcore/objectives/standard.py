"""The loss of ordinary training."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def standard(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """L = mean over samples of -log softmax(f(x))_y, a scalar in nats; inputs (N, ...), labels (N,).

    Logits of lower precision (autocast) are raised to float32 first.
    """
    return functional.cross_entropy(at_least_float32(model(inputs)), labels)


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are: the sums of exponentials in a loss need it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
