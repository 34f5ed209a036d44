"""Fine-tuning on one sample: one step of gradient descent on its filters, and what becomes of samples like it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor, nn
from torch.nn import functional

from salcore.evaluated import evaluated
from salcore.network import following
from salcore.parameter_space.effects import (
    Effect,
    probabilities,
    require_budgets,
    require_labels,
    require_order,
)
from salcore.parameter_space.filters import FilterTable, filters_of, layer_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
    """What steps on one sample did to the sample itself, N = 1, and to others, its neighbours; a column for each."""

    own: Effect
    others: Effect


def fine_tune(
    model: nn.Module,
    sample: Tensor,
    label: int,
    orders: Mapping[str, Tensor],
    budgets: Sequence[int],
    table: FilterTable,
    others: Tensor,
    other_labels: Tensor,
    *,
    step: float,
) -> tuple[dict[str, Tuned], Tuned]:
    """The effect of one normalised gradient step on the first filters F of each order, and of one on the whole network.

        w_F <- w_F - length g_F / ||g_F||        length = step ||w||, w all filters of the table

    with g_F the gradient of the sample's cross-entropy by the weights of the filters F, and joint L2 norms. The length
    is the same for every order and budget, and for the whole network, all of whose parameters (biases, batch-norm and
    linear layers too) move as one, so that what differs is only where the step goes. The paper gives neither the length
    nor the norm. A gradient of zero gives no step.

    The sample (...), orders of columns (M,), as rows of `effects.order` are, increasing budgets up to M, and n other
    samples (n, ...) with labels (n,) that the step does not see. Returns the effects of the steps by the orders' names,
    with a column for each budget, and those of the whole network's with one column. A budget of 0 changes nothing.

    The gradient is made once, in evaluation mode. Each step is written to the weights that it changes and no others,
    which are kept aside and put back to the last bit, on exceptions too.

    Raises ValueError for labels, orders or budgets that do not fit, for another network's table, for a step that is not
    positive and finite, for parameters made in inference mode, and for a loss that is NaN or infinite.

    Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), section 3.3.

    >>> from salcore.parameter_space import filter_table
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    >>> model[0].weight.data[:] = torch.tensor([3.0, 4.0]).view(2, 1, 1, 1)  # of norm 5
    >>> x, table = torch.ones(1, 1, 1), filter_table(model, torch.ones(1, 1, 1, 1))
    >>> most = {"most": torch.tensor([0, 1])}
    >>> tuned, whole = fine_tune(model, x, 0, most, [1], table, x[None], torch.tensor([1]), step=0.2)
    >>> tuned["most"].own.true.round(2)  # the weights are 4 and 4
    array([[0.23]], dtype=float32)
    """
    if not 0 < step < float("inf"):
        raise ValueError(f"`step`: expected a positive number, got {step}")
    weights = layer_weights(model, table)
    for columns in orders.values():
        require_order("orders", columns[None], 1, len(table))
        require_budgets(budgets, len(columns))
    with evaluated(model), torch.inference_mode(False):
        rows = torch.cat([following(model, sample)[None], following(model, others)])
        labels = torch.cat([torch.tensor([label]), other_labels.cpu()]).to(rows.device)
        with torch.no_grad():
            before = probabilities(model, rows.clone())
            require_labels("label", labels[:1], 1, before.shape[1])
            require_labels("other_labels", labels[1:], len(others), before.shape[1])
        gradients = _gradients(model, rows[:1], labels[:1])
        with torch.no_grad():
            length = step * _norm(weights)

            def tuned(choices: Iterable[list[_Part]]) -> Tuned:
                after = [before if not parts else _after(model, rows, parts, length) for parts in choices]
                return _tuned(before, torch.stack(after, 1), labels)

            return {
                name: tuned(_parts(columns[:size].cpu(), table, weights, gradients) for size in budgets)
                for name, columns in orders.items()
            }, tuned([[_Part.of(weight, ..., gradient) for weight, gradient in gradients.items()]])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Some of a parameter's values, values[index], what they were, and the gradient by them."""

    values: Tensor
    index: tuple[Tensor, ...] | EllipsisType
    before: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, values: Tensor, index: tuple[Tensor, ...] | EllipsisType, gradient: Tensor) -> "_Part":
        return cls(values=values, index=index, before=values[index].clone(), gradient=gradient[index])


@contextmanager
def _stepped(parts: Sequence[_Part], length: Tensor) -> Iterator[None]:
    """A block after a step of that length down the gradient by all the parts."""
    norm = _norm([part.gradient for part in parts])
    norm = torch.where(norm > 0, norm, 1.0)
    try:
        for part in parts:
            # The norm first: the quotient is at most 1, however small the gradient is.
            part.values[part.index] = part.before - (part.gradient / norm * length).to(part.before.dtype)
        yield
    finally:
        for part in parts:
            part.values[part.index] = part.before


def _after(model: nn.Module, rows: Tensor, parts: Sequence[_Part], length: Tensor) -> Tensor:
    """The probabilities of all rows after a step, (1 + n, K)."""
    with _stepped(parts, length):
        return probabilities(model, rows.clone())


def _parts(
    columns: Tensor, table: FilterTable, weights: Sequence[nn.Parameter], gradients: Mapping[nn.Parameter, Tensor]
) -> list[_Part]:
    """The filters of some columns, one part for each layer that has any of them."""
    parts = []
    for layer, own, weight in zip(table.layers, table.slices().values(), weights, strict=True):
        numbers = columns[(columns >= own.start) & (columns < own.stop)] - own.start
        if len(numbers):
            values, index = filters_of(weight, layer, numbers.to(weight.device))
            parts.append(_Part.of(values, index, filters_of(gradients[weight], layer, numbers)[0]))
    return parts


def _gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[nn.Parameter, Tensor]:
    """The gradient of the cross-entropy of one sample by each parameter, zeros where it does not depend on it."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    if any(parameter.is_inference() for parameter in parameters):
        raise ValueError("`model`: expected parameters that autograd records, got some made in inference mode")
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        loss = functional.cross_entropy(model(inputs.clone()), labels)
        if not bool(loss.isfinite()):
            raise ValueError(f"`model`: expected a finite loss for the sample, got {loss.item()}")
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The joint L2 norm of some tensors, in float64."""
    return torch.stack([torch.linalg.vector_norm(each, dtype=torch.float64) for each in tensors]).norm()


def _tuned(before: Tensor, after: Tensor, labels: Tensor) -> Tuned:
    """The effect on the first row and that on the others."""
    own, others = (Effect.of(before[rows], after[rows], labels[rows]) for rows in (slice(0, 1), slice(1, None)))
    return Tuned(own=own, others=others)
