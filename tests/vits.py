"""A vision transformer as users write them, in every style of calling attention, small enough for loops in float64."""

import torch
from torch import nn
from torch.nn import functional

from salcore.seeds import forked, generator

SHAPE, PATCH, CLASSES = (2, 8, 12), 4, 5  # 2 x 3 patches

STYLES = {
    "module": lambda mha, x: mha(x, x, x, need_weights=False)[0],
    "module that tells its weights": lambda mha, x: mha(x, x, x, average_attn_weights=False)[0],
    "fused": lambda mha, x: mha.out_proj(joined(functional.scaled_dot_product_attention(*split(mha, x)))),
    "function": lambda mha, x: written_out(mha, x, lambda scores: functional.softmax(scores, dim=-1)),
    "method": lambda mha, x: written_out(mha, x, lambda scores: scores.softmax(3)),
    "layer": lambda mha, x: written_out(mha, x, nn.Softmax(dim=-1)),
}


def split(mha, x):
    """Queries, keys and values (N, heads, T, D)."""
    parts = functional.linear(x, mha.in_proj_weight, mha.in_proj_bias).chunk(3, -1)
    return [part.unflatten(2, (mha.num_heads, mha.head_dim)).transpose(1, 2) for part in parts]


def joined(values):
    return values.transpose(1, 2).flatten(2)


def written_out(mha, x, softmax):
    q, k, v = split(mha, x)
    weights = softmax(q @ k.mT * mha.head_dim**-0.5)
    return mha.out_proj(joined(weights @ v))


class Vit(nn.Module):
    """A user's own: attention in one of the styles, with or without a class token, and what it did is kept."""

    def __init__(self, style="module", class_token=True, depth=2, shape=SHAPE, width=8, heads=2):
        super().__init__()
        self.style, self.class_token = STYLES.get(style, style), class_token
        tokens = (shape[1] // PATCH) * (shape[2] // PATCH) + class_token
        with forked(3):
            self.patches = nn.Conv2d(shape[0], width, PATCH, PATCH)
            self.positions = nn.Parameter(torch.randn(1, tokens, width))
            self.attention = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(depth))
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.dropout = nn.Dropout(0.5)
            self.head = nn.Linear(width, CLASSES)
            for parameter in self.attention.parameters():
                nn.init.normal_(parameter, std=0.6)
        self.double()

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        if self.class_token:
            tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        tokens = tokens + self.positions
        for attention, layer in zip(self.attention, self.layers, strict=True):
            tokens = tokens + self.style(attention, tokens)
            tokens = tokens + self.dropout(layer(tokens).tanh())
        return self.head(tokens[:, 0] if self.class_token else tokens.mean(1))


def images(count=3, shape=SHAPE):
    return torch.randn(count, *shape, generator=generator(1), dtype=torch.float64), torch.arange(count) % CLASSES


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
