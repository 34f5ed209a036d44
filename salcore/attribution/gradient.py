"""The input gradient: by how much the target's logit changes with each pixel."""

from torch import Tensor, nn

from salcore.attribution.autograd import input_gradient, prepared


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """S(x) = d f_t(x) / d x, the signed gradient of the logit of target t by the normalised input.

    Inputs (N, ...), targets (N,); returns the inputs' shape. Logits, not softmax: the gradient of a probability
    vanishes where the network is sure.

    Initialization Noise in Image Gradients and Saliency Maps (Woerl et al., 2023), Eq. 6.
    """
    with prepared(model, inputs, targets) as (inputs, targets):
        return input_gradient(model, inputs, targets)
