"""The bidirectional LSTM over embedded words."""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from salcore.models import steps
from salcore.settings import Within

Pooling = Literal["max", "mean", "last", "attention"]


def bilstm(
    *,
    input_shape: tuple[int, int],
    classes: int,
    hidden: Annotated[int, Within(1)] = 128,
    pooling: Pooling = "max",
    dropout: Annotated[float, Within(0, below=1)] = 0.2,
) -> nn.Module:
    """One LSTM of `hidden` units in each direction, their states pooled, one linear layer: (N, T, E) -> logits (N, K).

    The states h_t (2 `hidden` numbers) of the words become one vector by

    - max: the largest value over the words, of each unit by itself;
    - mean: the average over the words;
    - last: the state of each direction at its own end, the last word and the first one;
    - attention: sum of a_t h_t with a = softmax over words of w tanh(W h_t), as ERASER's baseline.

    The papers leave it open. max is the default because it lets DeepLIFT through, which has no rule for softmax, and
    because its gradients reach every word by a short way: with `last` they vanish along texts of hundreds of words.
    Dropout acts on the embedded words and before the linear layer; width and dropout are ERASER's.

    A text's logits depend neither on what stands in its padding nor on the other texts of the batch.

    Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), section 5.2; ERASER: A
    Benchmark to Evaluate Rationalized NLP Models (DeYoung et al., 2020), published code.

    >>> bilstm(input_shape=(40, 25), classes=2, hidden=8)(torch.zeros(3, 40, 25)).shape
    torch.Size([3, 2])
    """
    return BiLstm(size=input_shape[1], hidden=hidden, pooling=pooling, dropout=dropout, classes=classes)


class BiLstm(nn.Module):
    """Words read forwards and backwards, and their states pooled: (N, T, E) -> logits (N, K).

    The way back is an LSTM of its own over the words in reverse order, padding still behind them. Packing would do the
    same work on fewer rows from step to step, and a row's last digits would depend on how many there are.
    """

    def __init__(self, *, size: int, hidden: int, pooling: Pooling, dropout: float, classes: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.there, self.back = (nn.LSTM(size, hidden, batch_first=True) for _ in range(2))
        if pooling == "attention":
            self.attention = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.linear = nn.Linear(2 * hidden, classes)

    def forward(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """(N, T, E), and which words count, (N, T), the first ones of each text -> logits (N, K)."""
        words = self.dropout(inputs)
        there = steps.recurrent_states(self.there, words)
        back = steps.recurrent_states(self.back, steps.turned(words, valid))
        return self.linear(self.dropout(self._pooled(there, back, valid)))

    def _pooled(self, there: Tensor, back: Tensor, valid: Tensor | None) -> Tensor:
        """The states of both directions, the way back still in its own order, as one vector: (N, 2 hidden)."""
        if self.pooling == "last":
            return torch.cat([steps.last(there, valid), steps.last(back, valid)], 1)
        states = torch.cat([there, steps.turned(back, valid)], 2)
        if self.pooling == "max":
            return steps.greatest(states, valid)
        if self.pooling == "mean":
            return steps.average(states, valid)
        scores = self.attention(states)
        if valid is not None:
            scores = scores.masked_fill(steps.padding(valid)[..., None], -torch.inf)
        return (scores.softmax(1) * states).sum(1)
