"""How far a network's attention is from an explanation: the attention loss of SalLM.

Training Language Models with Saliency Explanations (Lake, 2021); the Kullback-Leibler form as in Evaluating
Explanations: How much do explanations from the teacher aid students? (Pruthi et al., 2022).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.precision import at_least_float32

if TYPE_CHECKING:
    from salcore.spec import AttentionSpec

Divergence = Literal["kl", "mse", "cosine"]
Query = Literal["class", "mean"]
Layers = Literal["last", "all"] | tuple[int, ...]
Heads = Literal["mean", "each"] | tuple[int, ...]


UNKNOWN = -1
"""The label of a text whose class is not known: it has no task loss."""


def taught(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    explanation: Tensor,
    counted: Tensor,
    *,
    valid: Tensor | None,
    attention: "AttentionSpec",
) -> Tensor:
    """L = mean over labelled texts of -log softmax(f(x))_y + weight * L_att over all texts: the objective of SalLM.

    Inputs (N, T) of a language model (`salcore.models.language`), labels (N,), -1 where the class is not known;
    `explanation`, `counted` (N, T) as for `attention_loss`, `valid` (N, T) tells tokens from padding. The attention is
    the distribution before dropout. A scalar in nats (L_att: in the unit of its divergence).
    """
    logits, attentions = model.attended(inputs, valid=valid)  # type: ignore[operator]
    known = labels != UNKNOWN
    task = functional.cross_entropy(at_least_float32(logits), labels, ignore_index=UNKNOWN, reduction="sum")
    rows = attention_rows(attentions, counted, layers=attention.layers, heads=attention.heads, query=attention.query)
    distance = attention_loss(at_least_float32(rows), explanation, counted, divergence=attention.divergence)
    return task / known.sum().clamp(min=1) + attention.weight * distance


def attention_loss(attention: Tensor, explanation: Tensor, counted: Tensor, *, divergence: Divergence = "kl") -> Tensor:
    """Mean over samples and rows of the distance from attention to explanation, a scalar.

    `attention` (N, R, T) are R rows of each sample, not negative; `explanation` (N, T) is not negative: binary, or the
    magnitude of a saliency map; `counted` (N, T) bool leaves out special tokens and padding. Both are scaled to sum to
    1 over the tokens that count, a and e, as a binary explanation is no distribution by itself:

    - kl: sum_t e_t (log e_t - log a_t)
    - mse: sum_t (a_t - e_t)^2
    - cosine: 1 - <a, e> / (|a| |e|)

    Each is 0 where a = e, and 0 for a sample whose explanation marks no token that counts: it asks for nothing.

    Raises ValueError for shapes that do not fit, another divergence, and an explanation that is negative or not finite.

    >>> attention = torch.tensor([[[0.5, 0.25, 0.25]]])
    >>> every = torch.ones(1, 3, dtype=torch.bool)
    >>> attention_loss(attention, torch.tensor([[2.0, 1.0, 1.0]]), every).item()
    0.0
    """
    _require_fitting(attention, explanation, counted, divergence)
    weights = explanation.to(attention.dtype) * counted
    marked = weights.sum(1) > 0
    target = distribution(weights, counted)[:, None]
    rows = distribution(attention * counted[:, None], counted[:, None])
    distances = _DIVERGENCES[divergence](rows, target) * marked[:, None]
    return distances.sum() / max(1, distances.numel())


def attention_rows(
    attentions: Sequence[Tensor],
    counted: Tensor,
    *,
    layers: Layers = "last",
    heads: Heads = "mean",
    query: Query = "class",
    class_position: int = 0,
) -> Tensor:
    """The rows of attention that are compared with an explanation, (N, R, T), from those of L layers, (N, H, T, T).

    Axes of each layer's: samples, heads, queries, keys; a row is over keys. `layers` are the last one, all, or some by
    number; `heads` their mean, each by itself, or some by number, each by itself; `query` is the classification token's
    row, at `class_position`, or the mean over the rows of the tokens that count, (N, T) bool.

    Raises ValueError for layers or heads that there are not, and for attentions of another shape.

    >>> uniform = torch.full((2, 4, 3, 3), 1 / 3)
    >>> attention_rows([uniform, uniform], torch.ones(2, 3, dtype=torch.bool), layers="all", heads="each").shape
    torch.Size([2, 8, 3])
    """
    _require_attentions(attentions, counted)
    if query not in get_args(Query):
        raise ValueError(f"`query`: expected one of {', '.join(get_args(Query))}, got {query!r}")
    numbers = {"last": (len(attentions) - 1,), "all": tuple(range(len(attentions)))}.get(layers, layers)  # type: ignore[arg-type]
    found = []
    for number in _within("layers", numbers, len(attentions)):
        by_query = attentions[number]
        if query == "class":
            rows = by_query[:, :, class_position]
        else:
            share = counted[:, None, :, None] / counted.sum(1).clamp(min=1)[:, None, None, None]
            rows = (by_query * share).sum(2)
        if heads == "mean":
            rows = rows.mean(1, keepdim=True)
        elif heads != "each":
            rows = rows[:, list(_within("heads", heads, rows.shape[1]))]
        found.append(rows)
    return torch.cat(found, 1)


def distribution(values: Tensor, counted: Tensor) -> Tensor:
    """Values (..., T), zero where a token does not count, scaled to sum 1; uniform over the others where all are 0."""
    total = values.sum(-1, keepdim=True)
    uniform = counted / counted.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, values / torch.where(total > 0, total, 1), uniform.to(values.dtype))


def _kl(rows: Tensor, target: Tensor) -> Tensor:
    tiny = torch.finfo(rows.dtype).tiny
    logs = target.clamp(min=tiny).log() - rows.clamp(min=tiny).log()
    return torch.where(target > 0, target * logs, 0.0).sum(-1)


def _mse(rows: Tensor, target: Tensor) -> Tensor:
    return (rows - target).square().sum(-1)


def _cosine(rows: Tensor, target: Tensor) -> Tensor:
    return 1 - torch.nn.functional.cosine_similarity(rows, target.expand_as(rows), dim=-1)


_DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": _kl, "mse": _mse, "cosine": _cosine}


def _within(name: str, numbers: Sequence[int], count: int) -> Sequence[int]:
    if isinstance(numbers, str) or not numbers or any(not 0 <= number < count for number in numbers):
        raise ValueError(f"`{name}`: expected numbers from 0 to {count - 1}, got {numbers!r}")
    return numbers


def _require_fitting(attention: Tensor, explanation: Tensor, counted: Tensor, divergence: str) -> None:
    if divergence not in get_args(Divergence):
        raise ValueError(f"`divergence`: expected one of {', '.join(get_args(Divergence))}, got {divergence!r}")
    if attention.ndim != 3:
        raise ValueError(f"`attention`: expected rows (N, R, T), got {tuple(attention.shape)}")
    expected = len(attention), attention.shape[2]
    for name, value in (("explanation", explanation), ("counted", counted)):
        if value.shape != expected:
            raise ValueError(f"`{name}`: expected (N, T) = {expected}, got {tuple(value.shape)}")
    waits = explanation.device.type != "cpu"  # a GPU's values are not read back in every step
    if not waits and not bool((explanation.isfinite() & (explanation >= 0)).all()):
        raise ValueError("`explanation`: expected finite numbers of 0 or more, got others")


def _require_attentions(attentions: Sequence[Tensor], counted: Tensor) -> None:
    if not attentions:
        raise ValueError("`attentions`: expected those of one layer or more, got none: the network returns none")
    samples, steps = counted.shape
    for number, each in enumerate(attentions):
        if each.ndim != 4 or (len(each), *each.shape[2:]) != (samples, steps, steps):
            expected = f"(N, H, T, T) with N = {samples}, T = {steps}"
            raise ValueError(f"`attentions`: expected {expected} in layer {number}, got {tuple(each.shape)}")
