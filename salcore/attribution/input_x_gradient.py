"""The input gradient times the input: the first-order share of each pixel in the logit."""

from torch import Tensor, nn

from salcore.attribution.autograd import input_gradient, prepared


def input_x_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """S(x) = x * d f_t(x) / d x, elementwise, with x the normalised input (zero is the data's mean).

    Inputs (N, ...), targets (N,); returns the inputs' shape. Its sum is f_t(x) - f_t(0) for a linear model.

    Not Just a Black Box: Learning Important Features Through Propagating Activation Differences
    (Shrikumar et al., 2016).
    """
    with prepared(model, inputs, targets) as (inputs, targets):
        return inputs * input_gradient(model, inputs, targets)
