"""How far a network's attention agrees with explanations: of each text, over the tokens that count."""

import torch
from torch import Tensor, nn

from salcore.evaluated import evaluated
from salcore.objectives.attention import attention_rows, distribution
from salcore.seeds import generator
from salcore.spec import AttentionSpec

AT_ONCE = 1 << 20
"""Pairs of tokens that are compared at a time."""


@torch.no_grad()
def attention_of(
    model: nn.Module,
    inputs: Tensor,
    valid: Tensor | None,
    word_of: Tensor,
    attention: AttentionSpec,
    *,
    batch: int = 256,
) -> Tensor:
    """What the rows of attention that `attention` names give to each token in the mean, (N, T) float32, sums of 1.

    Inputs (N, T) of tokens, `valid` (N, T) and `word_of` (N, T) as in `salcore.data.part.Part`. Tokens that do not
    count have 0. In evaluation mode.
    """
    device = next(model.parameters()).device
    found = []
    with evaluated(model):
        for start in range(0, len(inputs), batch):
            rows = slice(start, start + batch)
            counted = (word_of[rows] >= 0).to(device)
            given = None if valid is None else valid[rows].to(device)
            _, attentions = model.attended(inputs[rows].to(device), valid=given)  # type: ignore[operator]
            chosen = attention_rows(
                attentions, counted, layers=attention.layers, heads=attention.heads, query=attention.query
            )
            found.append(distribution(chosen.float() * counted[:, None], counted[:, None]).mean(1).cpu())
    return torch.cat(found)


def area(attention: Tensor, marked: Tensor, counted: Tensor) -> Tensor:
    """The chance that a marked token has more attention than an unmarked one, (N,) float64; ties count half.

    The area under the ROC curve: 0.5 for attention that knows nothing of what is marked, whatever share of the tokens
    is. Attention (N, T), marked and counted (N, T) bool. NaN where all that counts is marked, or none of it.

    >>> area(torch.tensor([[0.7, 0.1, 0.2]]), torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool))
    tensor([1.], dtype=torch.float64)
    """
    yes, no = (marked & counted).double(), (~marked & counted).double()
    rows = max(1, AT_ONCE // attention.shape[1] ** 2)
    wins = torch.cat([_wins(*part) for part in zip(*(each.split(rows) for each in (attention, yes, no)), strict=True)])
    return wins / (yes.sum(1) * no.sum(1)).where((yes.sum(1) > 0) & (no.sum(1) > 0), torch.nan)


def _wins(attention: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Pairs of a token of `yes` and one of `no` (n, T) in which the first has more attention, (n,)."""
    above = (attention[:, :, None] > attention[:, None, :]).double()
    above += 0.5 * (attention[:, :, None] == attention[:, None, :])
    return torch.einsum("nt,nts,ns->n", yes, above, no)


def mass(attention: Tensor, marked: Tensor, counted: Tensor) -> Tensor:
    """The share of attention that marked tokens have, (N,) float64; NaN where none is marked."""
    there = marked & counted
    return (attention.double() * there).sum(1).where(there.any(1), torch.nan)


def moved(marked: Tensor, counted: Tensor, *, seed: int) -> Tensor:
    """As many marks in each text, on tokens drawn at random: what agreement by chance is measured with, (N, T) bool."""
    draws = torch.rand(marked.shape, generator=generator(seed), dtype=torch.float64).masked_fill(~counted, torch.inf)
    places = draws.argsort(1).argsort(1)
    return counted & (places < (marked & counted).sum(1, keepdim=True))
