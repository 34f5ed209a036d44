"""What becomes of samples when some of a network's filters are changed, and which filters come first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from salcore.network import logits_of, require_classes
from salcore.seeds import generator

Choice = Literal["most", "random", "least"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """How the softmax probabilities of N samples changed under each of B budgets, numbers of filters; all (N, B).

    `incorrect` is the change of the class that was predicted before, `true` that of the true class, both from -1 to 1.
    `corrected`: the prediction was wrong and has become the true class.
    """

    incorrect: np.ndarray
    true: np.ndarray
    corrected: np.ndarray

    @classmethod
    def of(cls, before: Tensor, after: Tensor, labels: Tensor) -> Self:
        """That of going from probabilities `before` (N, K) to `after` (N, B, K), for samples of classes `labels` (N,).

        >>> before, after = torch.tensor([[0.75, 0.25]]), torch.tensor([[[0.75, 0.25], [0.25, 0.75]]])
        >>> effect = Effect.of(before, after, torch.tensor([1]))
        >>> effect.incorrect.tolist(), effect.true.tolist(), effect.corrected.tolist()
        ([[0.0, -0.5]], [[0.0, 0.5]], [[False, True]])
        """
        predicted = before.argmax(1)
        corrected = (after.argmax(2) == labels[:, None]) & (predicted != labels)[:, None]
        incorrect, true = (_at(after, each) - _at(before[:, None], each) for each in (predicted, labels))
        return cls(incorrect=incorrect.cpu().numpy(), true=true.cpu().numpy(), corrected=corrected.cpu().numpy())


def order(profiles: Tensor, kind: Choice, count: int, *, samples: Iterable[int], seed: int = 0) -> Tensor:
    """The columns (N, count) of the filters that come first in each of the standardised profiles (N, P).

    "most" goes down in their magnitude, "least" up, equal ones in the order of their columns. "random" is one random
    order for each sample. It depends on `seed` and on the sample's number in its data set, which `samples` (N,) tells,
    and on nothing else: a larger `count` continues the order of a smaller one.

    Raises ValueError for a kind that there is not, for more filters than there are, for numbers of samples that are
    negative or not N, and for profiles that are not finite.

    >>> order(torch.tensor([[0.5, -3.0, 2.0, 3.0]]), "most", 3, samples=[0]).tolist()
    [[1, 3, 2]]
    """
    numbers = [int(sample) for sample in samples]
    _require_orderable(profiles, kind, count, numbers)
    if kind == "random":
        rows = [torch.randperm(profiles.shape[1], generator=generator(seed, number))[:count] for number in numbers]
        return torch.stack(rows).to(profiles.device) if rows else profiles.new_zeros((0, count), dtype=torch.int64)
    return _first(profiles.abs() if kind == "most" else -profiles.abs(), count)


def probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    """The softmax of a network's logits, (N, ...) -> (N, K), in float32 at least.

    Raises ValueError for an output that is no (N, K) tensor.
    """
    logits = logits_of(model(inputs), len(inputs))
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def require_labels(name: str, labels: Tensor, samples: int, classes: int) -> None:
    """Raise ValueError unless there is one integer from 0 to `classes` - 1 for each sample."""
    if labels.shape != (samples,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"`{name}`: expected {samples} integers, got {tuple(labels.shape)} of {labels.dtype}")
    require_classes(name, labels, classes)


def require_order(name: str, columns: Tensor, samples: int, filters: int) -> None:
    """Raise ValueError unless each sample has an order of different filters, (N, B) columns from 0 to P - 1."""
    if columns.ndim != 2 or len(columns) != samples or columns.dtype != torch.int64:
        got = f"{tuple(columns.shape)} of {columns.dtype}"
        raise ValueError(f"`{name}`: expected an order of filters for each of {samples} samples as int64, got {got}")
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < filters:
        got = f"{int(columns.min())} to {int(columns.max())}"
        raise ValueError(f"`{name}`: expected filters from 0 to {filters - 1}, got {got}")
    if bool((columns.sort(1).values.diff(dim=1) == 0).any()):
        raise ValueError(f"`{name}`: expected different filters for a sample, got one twice")


def require_budgets(budgets: Sequence[int], held: int) -> None:
    """Raise ValueError unless the budgets are increasing whole numbers, of filters of which an order holds `held`."""
    if not budgets or budgets[0] < 0 or any(high <= low for low, high in pairwise(budgets)):
        raise ValueError(f"`budgets`: expected increasing numbers of filters, got {list(budgets)}")
    if budgets[-1] > held:
        raise ValueError(f"`budgets`: expected at most {held} filters, which the order holds, got {budgets[-1]}")


def _require_orderable(profiles: Tensor, kind: str, count: int, numbers: Sequence[int]) -> None:
    if kind not in get_args(Choice):
        raise ValueError(f"`kind`: expected one of {', '.join(get_args(Choice))}, got {kind!r}")
    if profiles.ndim != 2:
        raise ValueError(f"`profiles`: expected (N, P), got {tuple(profiles.shape)}")
    if not 0 <= count <= profiles.shape[1]:
        raise ValueError(f"`count`: expected 0 to {profiles.shape[1]} filters, as many as there are, got {count}")
    if len(numbers) != len(profiles) or min(numbers, default=0) < 0:
        got = f"{len(numbers)}, the smallest {min(numbers, default=0)}"
        raise ValueError(f"`samples`: expected a number of 0 or more for each of {len(profiles)} profiles, got {got}")
    if not bool((finite := profiles.isfinite().all(1)).all()):
        raise ValueError(f"`profiles`: expected finite numbers, got others in row {int((~finite).nonzero()[0])}")


def _at(values: Tensor, classes: Tensor) -> Tensor:
    """The values (N, B, K) of one class for each sample, (N,) -> (N, B)."""
    return torch.take_along_dim(values, classes[:, None, None], 2)[..., 0]


def _first(keys: Tensor, count: int) -> Tensor:
    """The columns (N, count) of the largest keys (N, P) in each row, from the largest on, equal ones in their order.

    `topk` finds the last key that is among them; of those equal to it the first columns are taken.
    """
    if not count:
        return keys.new_zeros((len(keys), 0), dtype=torch.int64)
    last = keys.topk(count, sorted=False).values.amin(1, keepdim=True)
    above, level = keys > last, keys == last
    wanted = above | (level & (level.cumsum(1, dtype=torch.int32) <= count - above.sum(1, keepdim=True)))
    columns = wanted.nonzero()[:, 1].view(len(keys), count)
    return columns.gather(1, keys.gather(1, columns).argsort(dim=1, descending=True, stable=True))
