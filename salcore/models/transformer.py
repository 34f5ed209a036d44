"""The transformer for multivariate time series, whose tokens are the steps as they are."""

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from salcore.errors import UserError
from salcore.models import steps
from salcore.settings import Within


def transformer(
    *,
    input_shape: tuple[int, int],
    classes: int,
    layers: Annotated[int, Within(1)] = 6,
    heads: Annotated[int, Within(1)] = 5,
    feed_forward: Annotated[int, Within(1)] = 400,
    dropout: Annotated[float, Within(0, below=1)] = 0.1,
) -> nn.Module:
    """Steps of F numbers through causal self-attention, the maximum over valid steps: (N, F, T) -> logits (N, K).

    A step is a token, without an embedding: sqrt(F) times its F numbers plus its `position`. A layer is
    x + attention(norm(x)), then x + W2 relu(W1 norm(x)) with `feed_forward` numbers inside; a step attends to itself
    and to steps before it. The logits are a linear function of the largest value over steps of the last layer's norm.
    Dropout acts on the tokens, the weights of attention, the numbers inside and what is added.

    The published network ends in a softmax, divides by the standard deviation with n - 1 in its norms, and doubles the
    exponents of the positions; here logits, and norms and positions as by Vaswani et al.

    Raises UserError unless `heads` divides the number of features.

    Benchmarking Deep Learning Interpretability in Time Series Predictions (Ismail et al., 2020), published code;
    Attention Is All You Need (Vaswani et al., 2017).

    >>> transformer(input_shape=(6, 30), classes=2, heads=3)(torch.zeros(3, 6, 30)).shape
    torch.Size([3, 2])
    """
    features, _ = input_shape
    if features % heads:
        fitting = ", ".join(str(count) for count in range(1, features + 1) if features % count == 0)
        raise UserError("model.heads", f"a divisor of the data's {features} features: {fitting}", heads)
    stack = [Layer(features, heads, feed_forward, dropout) for _ in range(layers)]
    return Transformer(stack, features, dropout, classes)


class Transformer(nn.Module):
    """Layers over the steps, and the maximum over valid ones: (N, F, T) -> logits (N, K)."""

    def __init__(self, layers: list["Layer"], features: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(features)
        self.linear = nn.Linear(features, classes)

    def forward(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """(N, F, T), and which steps count, (N, T), the first ones of each series -> logits (N, K)."""
        x = inputs.mT
        tokens = self.dropout(math.sqrt(x.shape[2]) * x + positions(x))
        return self.linear(steps.greatest(self.norm(self.layers(tokens)), valid))


class Layer(nn.Module):
    """Causal self-attention and two linear layers, each added to what it is given: (N, T, F) -> the same."""

    def __init__(self, features: int, heads: int, inside: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attention = nn.MultiheadAttention(features, heads, dropout=dropout, batch_first=True)
        self.layers = nn.Sequential(
            nn.Linear(features, inside), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inside, features)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, F) -> the same."""
        given, length = self.norm1(x), x.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        found, _ = self.attention(given, given, given, need_weights=False, attn_mask=later, is_causal=True)
        x = x + self.dropout(found)
        return x + self.dropout(self.layers(self.norm2(x)))


def positions(like: Tensor) -> Tensor:
    """p_t,i = sin(t / 10000^(i / F)) for even i and cos(t / 10000^((i - 1) / F)) for odd i, (T, F) for (N, T, F)."""
    _, length, features = like.shape
    even = torch.arange(0, features, 2, dtype=torch.float64, device=like.device)
    angles = torch.arange(length, dtype=torch.float64, device=like.device)[:, None] / 10000 ** (even / features)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :features].to(like.dtype)
