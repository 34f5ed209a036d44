"""Generic attention explainability: attention that speaks for the class, gathered over all layers."""

import torch
from torch import Tensor, nn

from salcore.attribution.attention import as_picture, attended
from salcore.attribution.autograd import prepared


def generic_attention(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """S(x) = the class token's row of R = (I + E_L) ... (I + E_1), E_l = mean over heads of max(0, A_l d f_t / d A_l).

    Inputs (N, C, H, W), targets (N,); returns (N, 1, H, W): the patches' values, enlarged bilinearly. **Never
    negative**: what speaks against the class is cut to 0 in each head and layer. Not linear in the logit: twice the
    logit gives more than twice the map where there are several layers. One forward and one backward pass.

    A network without a class token gets the mean over all tokens' rows of R - I: of I each patch has the same 1 / T.

    Raises ValueError for a network without self-attention over the same tokens in every layer (see `attended`).

    Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers (Chefer, Gur and
    Wolf, 2021), the rule for self-attention.
    """
    with prepared(model, inputs, targets) as (inputs, targets):
        layers: list[Tensor] = []
        selected = attended(model, inputs, targets, layers.append)
        relevance = torch.zeros_like(layers[0][:, 0])  # R - I, which is R but for the tokens' own share
        for weights, slope in zip(layers, _slopes(selected, layers), strict=True):
            share = (weights.detach() * slope).clamp(min=0).mean(1)
            relevance = relevance + share + share @ relevance
        return as_picture(relevance, inputs)


def _slopes(selected: Tensor, layers: list[Tensor]) -> tuple[Tensor, ...]:
    """The derivative of selected[n] by each layer's weights of sample n, all layers in one backward pass."""
    if not selected.requires_grad:
        raise ValueError(
            "`model`: expected logits that can be differentiated by its attention, got none that depend on it"
        )
    # Attention beside the way to the logits has the derivative 0.
    return torch.autograd.grad(selected.sum(), layers, allow_unused=True, materialize_grads=True)
