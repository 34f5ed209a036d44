"""How far a network's attention agrees with explanations: of each text, over the tokens that count."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salcore.evaluated import evaluated
from salcore.faithfulness.ranking import at_least, ranks
from salcore.objectives.attention import attention_loss, attention_rows
from salcore.seeds import generator
from salcore.spec import AttentionSpec


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
            found.append(_shares(chosen.float(), counted[:, None]).mean(1).cpu())
    return torch.cat(found)


def area(attention: Tensor, marked: Tensor, counted: Tensor) -> Tensor:
    """The chance that a marked token has more attention than an unmarked one, (N,) float64; ties count half.

    The area under the ROC curve: 0.5 for attention that knows nothing of what is marked, whatever share of the tokens
    is. Attention (N, T), marked and counted (N, T) bool. NaN where all that counts is marked, or none of it.

    >>> area(torch.tensor([[0.7, 0.1, 0.2]]), torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool))
    tensor([1.], dtype=torch.float64)
    """
    yes, no = (marked & counted).double(), (~marked & counted).double()
    wins = torch.cat([_wins(*rows) for rows in zip(*(each.split(256) for each in (attention, yes, no)), strict=True)])
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


def distance(attention: Tensor, explanation: Tensor, counted: Tensor, divergence: str) -> Tensor:
    """The attention loss of each text, (N,) float64."""
    given = attention.double()[:, None], explanation.double(), counted
    return torch.stack(
        [
            attention_loss(*(each[row : row + 1] for each in given), divergence=divergence)  # type: ignore[arg-type]
            for row in range(len(attention))
        ]
    )


def moved(marked: Tensor, counted: Tensor, *, seed: int) -> Tensor:
    """As many marks in each text, on tokens drawn at random: what agreement by chance is measured with, (N, T) bool."""
    draws = torch.rand(marked.shape, generator=generator(seed), dtype=torch.float64).masked_fill(~counted, torch.inf)
    places = draws.argsort(1).argsort(1)
    return counted & (places < (marked & counted).sum(1, keepdim=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Of one network on some texts, each (N,) float64: `area`, `mass`, `distance`, and `chance`, the area by chance."""

    area: Tensor
    mass: Tensor
    distance: Tensor
    chance: Tensor


def agreement(
    attention: Tensor, explanation: Tensor, counted: Tensor, *, share: float, divergence: str, seed: int = 0
) -> Agreement:
    """How attention (N, T) agrees with an explanation (N, T), not negative: the greatest `share` of it is marked."""
    marked = _marked(explanation, counted, share)
    return Agreement(
        area=area(attention, marked, counted),
        mass=mass(attention, marked, counted),
        distance=distance(attention, explanation, counted, divergence),
        chance=area(attention, moved(marked, counted, seed=seed), counted),
    )


def _marked(explanation: Tensor, counted: Tensor, share: float) -> Tensor:
    return (ranks(explanation, counted) < at_least(share, counted.sum(1))[:, None]) & (explanation > 0) & counted


def _shares(rows: Tensor, counted: Tensor) -> Tensor:
    """Rows (n, R, T) over what counts alone, scaled to sum 1."""
    rows = rows * counted
    return rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
