"""Whether a network takes tokens, and a language model's attention can be read: tried with a batch of two."""

from typing import Any

import torch
from torch import Tensor

from salcore.errors import UserError
from salcore.models import encoders
from salcore.models.language import LanguageModel
from salcore.models.sizes import Build, Shape
from salcore.padding import bound

# That there are positions for all T tokens is known from the network's sizes.
_MOST_STEPS = 16


def check_tokens(build: Build, name: str, *, input_shape: Shape, classes: int) -> None:
    """Raise UserError, with the key `model.name`, unless the network does what one for T tokens out of V has to.

    Of two texts, the second with padding, it returns logits (2, K), the same ones for what its `embedded` makes of
    them, and whatever stands in the padding. A language model's `attended` returns a distribution for each layer, head
    and query, in training too, and the logits come from it.
    """
    network = build(input_shape)
    length, vocabulary = min(input_shape[0], _MOST_STEPS), input_shape[1]
    ids = torch.randint(vocabulary, (2, length))
    valid = torch.arange(length) < torch.tensor([[length], [-(-length // 2)]])
    if isinstance(network, LanguageModel):
        with encoders.readable(name), encoders.quiet():
            complaint = _complaint(network, ids, valid, classes) or _attention_complaint(network, ids, valid)
        if complaint:
            raise encoders.unreadable(name, complaint)
        return
    wanted = f"{name} to take tokens {(2, length)}, and what its method `embedded` makes of them"
    try:
        complaint = _complaint(network, ids, valid, classes)
    except Exception as error:  # whatever a user's forward raises is told in one line, and chained
        raise UserError("model.name", wanted, encoders.first_line(error)) from error
    if complaint:
        raise UserError("model.name", wanted, complaint)


def _complaint(network: Any, ids: Tensor, valid: Tensor, classes: int) -> str | None:
    """What is wrong with a network for tokens; None: nothing."""
    taking = bound(network.eval(), valid)
    with torch.no_grad():
        logits = taking(ids)
        if not isinstance(logits, Tensor) or logits.shape != (2, classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            return f"an output of {shape}, not logits {(2, classes)}"
        if not torch.equal(logits, taking(network.embedded(ids))):
            return "other logits for embeddings than for their tokens"
        if not torch.equal(logits, taking(ids.where(valid, ids[:, :1]))):
            return "logits that depend on what stands in the padding"
    return None


def _attention_complaint(network: LanguageModel, ids: Tensor, valid: Tensor) -> str | None:
    """What is wrong with a language model's embeddings and attention; None: nothing."""
    config = network.model.config
    with torch.no_grad():
        ids = ids.where(ids != config.pad_token_id, ids.max())
        plain = network.model(input_ids=ids, attention_mask=valid.long()).logits
        if not torch.allclose(plain, network(ids, valid), rtol=1e-4, atol=1e-6):
            return "word embeddings are not all that it takes from tokens"
    with torch.enable_grad():
        logits, attentions = network.train().attended(ids, valid)
        if len(attentions) != config.num_hidden_layers:
            return f"attention of {len(attentions)} layers out of {config.num_hidden_layers}"
        steps = ids.shape[1]
        for each in attentions:
            if each.ndim != 4 or (len(each), *each.shape[2:]) != (2, steps, steps):
                return f"attention of shape {tuple(each.shape)}"
            if not torch.allclose(each.sum(3), torch.ones_like(each[..., 0])):
                return "attention that does not sum to 1 in training"
        torch.autograd.grad(logits.sum(), attentions)  # raises where the logits do not come from it
    return None
