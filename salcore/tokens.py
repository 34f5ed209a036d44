"""Tokens as what attribution explains: their embeddings, which a network of numbers of tokens looks up itself."""

import torch
from torch import Tensor, nn

from salcore.padding import Bound


@torch.no_grad()
def embedded(model: nn.Module, inputs: Tensor) -> Tensor:
    """Numbers of tokens (N, T), int64, as the model's embeddings of them, (N, T, E); inputs of floats as they are.

    The model takes either, with the same logits (`salcore.models.language`).
    """
    if inputs.is_floating_point():
        return inputs
    network = model.model if isinstance(model, Bound) else model
    return network.embedded(inputs)  # type: ignore[operator]
