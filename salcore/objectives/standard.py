"""The loss of ordinary training."""

from torch import Tensor, nn
from torch.nn import functional

from salcore.precision import at_least_float32


def standard(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """L = mean over samples of -log softmax(f(x))_y, a scalar in nats; inputs (N, ...), labels (N,).

    Logits of lower precision (autocast) are raised to float32 first.
    """
    return functional.cross_entropy(at_least_float32(model(inputs)), labels)
