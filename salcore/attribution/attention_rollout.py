"""Attention rollout: attention followed back through all layers, as if nothing but mixing of tokens happened."""

import torch
from torch import Tensor, nn

from salcore.attribution.attention import as_picture, attended
from salcore.attribution.autograd import prepared


def attention_rollout(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """S(x) = the class token's row of R = B_L ... B_1, B_l = (A_l + I) / 2, A_l layer l's attention, mean over heads.

    Inputs (N, C, H, W), targets (N,); returns (N, 1, H, W): the patches' values, enlarged bilinearly. **Never
    negative**, and the row sums to 1 over all tokens, the class token's own share included, which is not shown. It is
    the same for every class: targets are only checked. One forward pass, and no gradient.

    A network without a class token gets the mean over all tokens' rows.

    Raises ValueError for a network without self-attention over the same tokens in every layer (see `attended`).

    Quantifying Attention Flow in Transformers (Abnar and Zuidema, 2020), rollout with the residual connection as I.
    """
    mixed: Tensor | None = None

    def mix(weights: Tensor) -> None:
        nonlocal mixed
        mean = weights.mean(1)
        before = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device) if mixed is None else mixed
        mixed = (mean @ before + before) / 2

    with prepared(model, inputs, targets) as (inputs, targets), torch.no_grad():
        attended(model, inputs, targets, mix)
        assert mixed is not None  # `attended` raises where there is no attention
        return as_picture(mixed, inputs)
