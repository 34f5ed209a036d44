"""What faithfulness is measured on: inputs, which of their positions count, and the batches that a network is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from salcore.faithfulness.ranking import Scores, at_least, at_most, ranks
from salcore.padding import bound

if TYPE_CHECKING:
    from salcore.data.part import Kind

SHAPES = {"images": "(N, C, H, W)", "series": "(N, F, T)", "text": "(N, T, E)"}
POSITIONS = {"images": slice(2, 4), "series": slice(1, 3), "text": slice(1, 2)}
"""Axes of the inputs that make positions."""
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Inputs of one kind; `valid` (N, T) tells sequences' steps from padding, `query` (N,) how many words lead a text.

    A query may also be a mask (N, T) of what is kept of a text, such as tokens that stand for no word. Padding and the
    query are never ranked, counted or removed. Raises ValueError for what does not fit.
    """

    inputs: Tensor
    kind: Kind = "images"
    valid: Tensor | None = None
    query: Tensor | None = None
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.kind not in SHAPES:
            raise ValueError(f"`kind`: expected one of {', '.join(SHAPES)}, got {self.kind!r}")
        shape = tuple(self.inputs.shape)
        if len(shape) != SHAPES[self.kind].count(",") + 1 or not len(self):
            raise ValueError(f"`inputs`: expected {SHAPES[self.kind]} of {self.kind}, one sample or more, got {shape}")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size`: expected at least 1, got {self.batch_size}")
        if self.valid is not None:
            self._check_valid(self.valid)
        if self.query is not None:
            self._check_query(self.query)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def shape(self) -> torch.Size:
        """Of one sample's positions: (H, W), (F, T) or (T,)."""
        return torch.Size(self.inputs.shape[POSITIONS[self.kind]])

    @property
    def positions(self) -> int:
        """Positions of one sample, padding and all."""
        return self.shape.numel()

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of the inputs that positions run over, but for a series' features, which are of different units."""
        return {"images": (2, 3), "series": (2,), "text": (1,)}[self.kind]

    def check(self, attributions: Tensor | None) -> None:
        """Raises ValueError for attributions of another shape, and for one that is not finite, naming its sample."""
        if attributions is None:
            return
        got, count = tuple(attributions.shape), len(self)
        if self.kind == "images":
            fits = len(got) == 4 and got[1] > 0 and (got[0], *got[2:]) == (count, *self.shape)
        else:
            fits = got in {(count, *self.shape), tuple(self.inputs.shape)}
        if not fits:
            expected = {"images": (count, "C", *self.shape)}.get(self.kind, (count, *self.shape))
            raise ValueError(f"`attributions`: expected ({', '.join(map(str, expected))}), got {got}")
        check_finite(attributions, "attributions")

    def check_labels(self, labels: Tensor) -> None:
        """Raises ValueError unless there is one class, 0 or more, for each sample."""
        if labels.shape != self.inputs.shape[:1] or labels.dtype not in INTEGERS:
            got = f"{tuple(labels.shape)} of {labels.dtype}"
            raise ValueError(f"`labels`: expected one integer for each of the {len(self)} inputs, got {got}")
        if int(labels.min()) < 0:
            raise ValueError(f"`labels`: expected known classes, 0 or more, got {int(labels.min())}")

    def counted(self, rows: slice = slice(None)) -> Tensor | None:
        """Which positions of some samples count, (n, P) bool; None where all do."""
        if self.kind == "text" and self.query is not None:
            valid = self.valid[rows] if self.valid is not None else torch.ones((), dtype=torch.bool)
            if self.query.ndim == 2:
                return ~self.query[rows] & valid.to(self.query.device)
            steps = torch.arange(self.positions, device=self.query.device)
            return (steps >= self.query[rows, None]) & valid.to(self.query.device)
        if self.valid is None:
            return None
        valid = self.valid[rows]
        return valid if self.kind == "text" else valid[:, None].expand(-1, *self.shape).flatten(1)

    def slices(self) -> Iterator[slice]:
        """The batches, as rows of the inputs."""
        for start in range(0, len(self), self.batch_size):
            yield slice(start, min(start + self.batch_size, len(self)))

    def ranked(self, scores: Scores, device: torch.device, dtype: torch.dtype) -> Iterator[Batch]:
        """The batches on `device`, each sample's positions ranked once."""
        for rows in self.slices():
            counted = _on(self.counted(rows), device)
            inputs = self.inputs[rows].to(device, dtype)
            place = ranks(scores(rows).to(device), counted)
            every = torch.full((len(inputs),), self.positions, device=device)
            yield Batch(
                samples=self,
                rows=rows,
                inputs=inputs.detach(),
                valid=_on(None if self.valid is None else self.valid[rows], device),
                ranks=place,
                countable=every if counted is None else counted.sum(1),
            )

    def _check_valid(self, valid: Tensor) -> None:
        expected = (len(self), self.shape[-1])
        if self.kind == "images":
            raise ValueError("`valid`: expected None, as images have no padding, got a mask")
        if tuple(valid.shape) != expected or valid.dtype != torch.bool:
            raise ValueError(f"`valid`: expected {expected} of bool, got {tuple(valid.shape)} of {valid.dtype}")

    def _check_query(self, query: Tensor) -> None:
        if self.kind != "text":
            raise ValueError(f"`query`: expected None, as only texts have one, got a tensor for {self.kind}")
        if query.dtype == torch.bool and tuple(query.shape) == (len(self), *self.shape):
            return
        if tuple(query.shape) != (len(self),) or query.dtype not in INTEGERS or int(query.min()) < 0:
            got = f"{tuple(query.shape)} of {query.dtype}"
            raise ValueError(f"`query`: expected {len(self)} numbers of words, 0 or more, got {got}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some samples on the model's device: inputs (n, ...), ranks (n, P), and how many positions count, (n,)."""

    samples: Samples
    rows: slice
    inputs: Tensor
    valid: Tensor | None
    ranks: Tensor
    countable: Tensor

    def top(self, share: float) -> Tensor:
        """The floor(share * countable) positions of the highest scores, (n, P) bool."""
        return self.ranks < at_most(share, self.countable)[:, None]

    def at_least(self, share: float) -> Tensor:
        """The ceil(share * countable) positions of the highest scores, (n, P) bool."""
        return self.ranks < at_least(share, self.countable)[:, None]

    @property
    def counted(self) -> Tensor:
        """The positions that count, (n, P) bool."""
        return self.ranks < self.countable[:, None]

    def over_inputs(self, positions: Tensor) -> Tensor:
        """A mask (n, P) of positions as one that broadcasts over the inputs."""
        mask = positions.unflatten(1, self.samples.shape)
        return {"images": mask[:, None], "series": mask, "text": mask[..., None]}[self.samples.kind]

    def replaced(self, positions: Tensor, filled: Tensor) -> Tensor:
        """The inputs with these positions (n, P) taken from `filled`, (n, ...) like the inputs."""
        return torch.where(self.over_inputs(positions), filled, self.inputs)


def placed(model: nn.Module, inputs: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where and in what precision a network computes: as its first weights do, or else as the inputs."""
    reference = next((value for value in model.parameters() if value.is_floating_point()), inputs)
    return reference.device, reference.dtype


def logits(model: nn.Module, inputs: Tensor, valid: Tensor | None) -> Tensor:
    """The network's logits (n, K) of one batch, float32 at least. Raises ValueError for anything else, and for NaN."""
    found = bound(model, valid)(inputs)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(inputs):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"`model`: expected logits of shape ({len(inputs)}, K), got {got}")
    if bool(torch.isnan(found).any()):
        raise ValueError("`model`: expected finite logits, got NaN")
    return found.to(torch.promote_types(found.dtype, torch.float32))


def check_finite(values: Tensor, name: str) -> None:
    """Raises ValueError that names the first sample of (N, ...) with NaN or infinity."""
    finite = torch.isfinite(values).flatten(1).all(1)
    if not bool(finite.all()):
        sample = int((~finite).nonzero()[0])
        raise ValueError(f"`{name}`: expected finite values, got NaN or infinity in sample {sample}")


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)
