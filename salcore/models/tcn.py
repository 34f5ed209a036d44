"""The temporal convolutional network for multivariate time series."""

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from salcore.models import steps
from salcore.settings import Within


def tcn(
    *,
    input_shape: tuple[int, int],
    classes: int,
    levels: Annotated[int, Within(1, 16)] = 3,
    channels: Annotated[int, Within(1)] = 5,
    top_channels: Annotated[int, Within(1)] = 50,
    kernel: Annotated[int, Within(1)] = 4,
    dropout: Annotated[float, Within(0, below=1)] = 0.1,
) -> nn.Module:
    """Levels of causal convolutions, the maximum over valid steps, one linear layer: (N, F, T) -> logits (N, K).

    Level l = 0, 1, ... has two weight-normalised convolutions of `kernel` steps, 2^l apart, each with ReLU and dropout,
    is added to its input (through a convolution of one step where the widths differ) and ends in ReLU. The top level
    has `top_channels`, those below it `channels`: 5, 5 and 50. A step sees itself and steps before it alone.

    The published network ends in a softmax; this one returns the logits. Both start from the same values: PyTorch's
    for the weight-normalised convolutions (the published code draws theirs from N(0, 0.01^2) into a tensor that weight
    normalisation makes anew before its first use) and N(0, 0.01^2) for those of one step.

    Benchmarking Deep Learning Interpretability in Time Series Predictions (Ismail et al., 2020), published code; An
    Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling (Bai et al., 2018).

    >>> tcn(input_shape=(6, 30), classes=2)(torch.zeros(3, 6, 30)).shape
    torch.Size([3, 2])
    """
    widths = [input_shape[0], *[channels] * (levels - 1), top_channels]
    pairs = enumerate(pairwise(widths))
    return Tcn([Level(given, width, kernel, 2**level, dropout) for level, (given, width) in pairs], classes)


class Tcn(nn.Module):
    """Levels, the maximum over valid steps, and a linear layer: (N, F, T) -> logits (N, K)."""

    def __init__(self, levels: list["Level"], classes: int) -> None:
        super().__init__()
        self.levels = nn.Sequential(*levels)
        self.linear = nn.Linear(levels[-1].convolution2.out_channels, classes)

    def forward(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """(N, F, T), and which steps count, (N, T), the first ones of each series -> logits (N, K)."""
        return self.linear(steps.greatest(self.levels(inputs).mT, valid))


class Level(nn.Module):
    """Two causal convolutions beside a residual connection: (N, C, T) -> (N, `width`, T)."""

    def __init__(self, given: int, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.convolution1 = weight_norm(nn.Conv1d(given, width, kernel, dilation=dilation))
        self.convolution2 = weight_norm(nn.Conv1d(width, width, kernel, dilation=dilation))
        shortcut = nn.Conv1d(given, width, 1)
        nn.init.normal_(shortcut.weight, std=0.01)
        self.residual = shortcut if given != width else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, T) -> (N, width, T)."""
        inside = inputs
        for convolution in (self.convolution1, self.convolution2):
            inside = self.dropout(torch.relu(convolution(functional.pad(inside, (self.past, 0)))))
        return torch.relu(inside + self.residual(inputs))
