"""The LSTM for multivariate time series, as it is and with input-cell attention."""

from typing import Annotated

import torch
from torch import Tensor, nn

from salcore.models import steps
from salcore.settings import Within


def lstm(
    *,
    input_shape: tuple[int, int],
    classes: int,
    hidden: Annotated[int, Within(1)] = 5,
    dropout: Annotated[float, Within(0, below=1)] = 0.1,
) -> nn.Module:
    """One LSTM, and one linear layer on its state after the last valid step: (N, F, T) -> logits (N, K).

    Dropout acts on the input and on the states. The published network ends in a softmax; this one returns the logits.

    Benchmarking Deep Learning Interpretability in Time Series Predictions (Ismail et al., 2020), published code.

    >>> lstm(input_shape=(50, 30), classes=2)(torch.zeros(3, 50, 30)).shape
    torch.Size([3, 2])
    """
    features, _ = input_shape
    return SeriesLstm(nn.Identity(), features, hidden, dropout, classes)


def input_cell_lstm(
    *,
    input_shape: tuple[int, int],
    classes: int,
    hidden: Annotated[int, Within(1)] = 5,
    hops: Annotated[int, Within(1)] = 10,
    attention_size: Annotated[int, Within(1)] = 50,
    flatten: bool = False,
    dropout: Annotated[float, Within(0, below=1)] = 0.1,
) -> nn.Module:
    """The network of `lstm`, whose cell is given what attention finds in all steps so far: (N, F, T) -> logits (N, K).

    In place of x_t it takes the mean of the rows of M_t = A_t X_t (`hops` x F), with X_t the steps 1 to t, or, with
    `flatten`, all rows one after the other. See `InputCellAttention`. Matrices start Xavier-uniform and biases at 0.

    The attention of all steps is computed at once, in memory for `hops` T^2 weights per sample.

    Input-Cell Attention Reduces Vanishing Saliency of Recurrent Neural Networks (Ismail et al., 2019), published code;
    10 hops as in the benchmark of 2020, where the code of 2019 has 20.

    >>> input_cell_lstm(input_shape=(6, 30), classes=2)(torch.zeros(3, 6, 30)).shape
    torch.Size([3, 2])
    """
    features, _ = input_shape
    attention = InputCellAttention(features, hops, attention_size, flatten=flatten)
    network = SeriesLstm(attention, features * hops if flatten else features, hidden, dropout, classes)
    for parameter in (*attention.parameters(), *network.recurrent.parameters()):
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return network


class SeriesLstm(nn.Module):
    """Steps (N, T, F) through `reading` into an LSTM that takes `size` numbers: (N, F, T) -> logits (N, K)."""

    def __init__(self, reading: nn.Module, size: int, hidden: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.reading = reading
        self.recurrent = nn.LSTM(size, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """(N, F, T), and which steps count, (N, T), the first ones of each series -> logits (N, K)."""
        states = steps.recurrent_states(self.recurrent, self.reading(self.dropout(inputs).mT))
        return self.linear(steps.last(self.dropout(states), valid))


class InputCellAttention(nn.Module):
    """A_t = softmax over steps 1..t of W2 tanh(W1 x + b1) + b2, M_t = A_t X_t, X_t the steps 1..t.

    (N, T, F) -> the mean of the rows of M_t for each t, (N, T, F), or all rows, (N, T, hops F).
    """

    def __init__(self, features: int, hops: int, size: int, *, flatten: bool) -> None:
        super().__init__()
        self.flatten = flatten
        self.scores = nn.Sequential(nn.Linear(features, size), nn.Tanh(), nn.Linear(size, hops))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, T, F) -> what the cell is given at each step."""
        weights = causal_softmax(self.scores(inputs).mT)
        if self.flatten:
            return (weights @ inputs[:, None]).transpose(1, 2).flatten(2)
        return weights.mean(1) @ inputs  # the mean over hops first: one product instead of one for each


def causal_softmax(scores: Tensor) -> Tensor:
    """The softmax of scores 1..t for each t, (..., T) -> (..., T, T), 0 beyond t.

    Each row has its own largest score taken off, so that early steps survive a much larger score later on: quotients of
    cumulative sums, which share one, would lose them.

    >>> causal_softmax(torch.tensor([0.0, 0.0, 1000.0]))
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    length = scores.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    return scores[..., None, :].masked_fill(later, -torch.inf).softmax(-1)
