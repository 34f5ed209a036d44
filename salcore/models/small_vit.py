"""The small vision transformer: few enough numbers to train in a minute on two cores."""

from typing import Annotated

import torch
from torch import Tensor, nn

from salcore.errors import UserError
from salcore.settings import Within


def small_vit(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: Annotated[int, Within(1)] = 64,
    depth: Annotated[int, Within(1)] = 4,
    heads: Annotated[int, Within(1)] = 4,
    patch: Annotated[int, Within(1)] = 4,
    expansion: Annotated[int, Within(1)] = 2,
    dropout: Annotated[float, Within(0, below=1)] = 0.0,
) -> nn.Module:
    """Patches of `patch` x `patch` pixels and a class token through `depth` blocks: (N, C, H, W) -> logits (N, K).

    A patch becomes one token of `width` numbers by a linear map, a learned position is added, and the class token
    stands first. A block is x + attention(norm(x)), then x + layers(norm(x)), two linear layers with GELU between and
    `expansion` x `width` numbers inside. The logits are a linear function of the class token's norm. Dropout acts
    where a block adds to x.

    `width` and `depth` are far below the paper's smallest (768 and 12). The last layer starts as PyTorch's do and not
    at zero as often in transformers: at zero an untrained network would have no gradient to explain.

    Raises ValueError unless `patch` divides both sides, and UserError unless `heads` divides `width`.

    An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale (Dosovitskiy et al., 2021), section 3.1.

    >>> small_vit(input_shape=(3, 32, 24), classes=10).positions.shape  # 8 x 6 patches and the class token
    torch.Size([1, 49, 64])
    """
    channels, rows, columns = input_shape
    if rows % patch or columns % patch:
        raise ValueError(f"`input_shape`: expected sides that are multiples of {patch}, got {input_shape}")
    if width % heads:
        raise UserError("model.heads", f"a divisor of the width {width}", heads)
    return SmallVit(
        patches=nn.Conv2d(channels, width, patch, stride=patch),
        count=(rows // patch) * (columns // patch),
        blocks=[Block(width, heads, expansion * width, dropout) for _ in range(depth)],
        classes=classes,
    )


class SmallVit(nn.Module):
    """Patches and a class token through blocks that keep their number: (N, C, H, W) -> logits (N, K)."""

    def __init__(self, *, patches: nn.Conv2d, count: int, blocks: list["Block"], classes: int) -> None:
        super().__init__()
        width = patches.out_channels
        self.patches = patches
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, count + 1, width))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K)."""
        patches = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


class Block(nn.Module):
    """Self-attention and two linear layers, each added to what it is given: (N, T, width) -> the same."""

    def __init__(self, width: int, heads: int, inside: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same."""
        given = self.norm1(x)
        x = x + self.dropout(self.attention(given, given, given, need_weights=False)[0])
        return x + self.dropout(self.layers(self.norm2(x)))
