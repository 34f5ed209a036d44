"""The loss of one batch and its gradients: what a training step consists of, but for the optimizer.

A small network's step is hundreds of kernels of a few microseconds, and a GPU waits for each to be launched. So there
the step is captured once in a CUDA graph, which replays it with one launch. The kernels are the same, and so are the
bits; batches of another shape, such as the last one of an epoch, run as they always do. So do users' networks, whose
Python a graph would freeze. The optimizer stays outside: its momentum may change from step to step, and its fused
kernels are few.
"""

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from salcore import seeds, streams
from salcore.data.batches import Batch
from salcore.data.part import Kind
from salcore.models.quick import is_stock

if TYPE_CHECKING:
    from salcore.members import Member

WARM_UP = 3
"""Runs before a capture, in which libraries choose kernels and take their workspaces."""

Capture = Callable[[Callable[[], Tensor], torch.Generator], tuple[Callable[[], Any], Tensor]]
"""(work, generator it draws from) -> what runs it again in the same memory, and where it leaves its result."""


class Step:
    """`step(batch)` leaves gradients in the parameters and returns the loss, a scalar in nats.

    `begin(epoch)` comes before the batches of an epoch: masking draws by it. The loss is valid until the next call.
    """

    def __init__(
        self,
        member: "Member",
        model: nn.Module,
        objective: Callable[..., Tensor],
        kind: Kind,
        device: str | torch.device,
        capture: Capture | None = None,
    ) -> None:
        self._member, self._model, self._objective, self._kind = member, model, objective, kind
        self._device = torch.device(device)
        self._wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._masking = torch.Generator(device)
        graphs = self._device.type == "cuda" and is_stock(member.model.name)
        self._capture = cuda_graph if capture is None and graphs else capture
        # A graph may not hold on to what is cached outside; and a step that is not captured after all gives its bits.
        self._caching = self._capture is None
        self._replayed: _Replayed | None = None

    def begin(self, epoch: int) -> None:
        """Seed what the epoch draws for masking."""
        self._masking.manual_seed(seeds.derive(self._member.seeds["masking"], epoch))

    def __call__(self, batch: Batch) -> Tensor:
        """Loss and gradients of a batch."""
        if self._capture is not None and self._replayed is None and batch.valid is None and batch.taught is None:
            state = self._masking.get_state()
            try:
                self._replayed = _Replayed(self._run, batch, self._model, self._masking, self._capture)
            except RuntimeError as error:
                warnings.warn(f"training runs without a CUDA graph, more slowly: {error}", stacklevel=2)
                self._capture, self._masking = None, torch.Generator(self._device)  # the graph may hold the other one
            self._masking.set_state(state)
        if self._replayed is not None and self._replayed.takes(batch):
            return self._replayed(batch)
        return self._run(batch)

    def _run(self, batch: Batch) -> Tensor:
        training = self._member.training
        half = torch.autocast(
            self._device.type,
            torch.bfloat16,
            enabled=training.precision == "bfloat16",
            cache_enabled=self._caching,
        )
        for parameter in self._wanted:
            parameter.grad = None
        with half:
            loss = self._objective(self._model, batch, training=training, generator=self._masking, kind=self._kind)
        loss.backward(inputs=self._wanted)  # guided training's pixels have had their gradient
        return loss.detach()


class _Replayed:
    """A step in fixed memory: the batch is copied in, the work runs again, gradients and loss lie where they lay."""

    def __init__(
        self,
        run: Callable[[Batch], Tensor],
        batch: Batch,
        model: nn.Module,
        masking: torch.Generator,
        capture: Capture,
    ) -> None:
        self._batch = Batch(batch.inputs.clone(), batch.labels.clone())
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with _undone(model, batch.inputs.device):
            self._replay, self._loss = capture(lambda: run(self._batch), masking)
        self._gradients = [parameter.grad for parameter in self._parameters]

    def takes(self, batch: Batch) -> bool:
        """Whether a batch has the shapes that were captured."""
        return batch.valid is None and batch.inputs.shape == self._batch.inputs.shape

    def __call__(self, batch: Batch) -> Tensor:
        self._batch.inputs.copy_(batch.inputs)
        self._batch.labels.copy_(batch.labels)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # a batch of another shape may have put its own there
        return self._loss


@contextmanager
def _undone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put buffers (such as running means) and global generators back to what they were before the block."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def cuda_graph(work: Callable[[], Tensor], generator: torch.Generator) -> tuple[Callable[[], Any], Tensor]:
    """The work as a CUDA graph, captured on a stream of its own after a few runs of it, on the generator's device."""
    with torch.cuda.device(generator.device), torch.cuda.stream(torch.cuda.current_stream(generator.device)):
        stream, graph = streams.take(), torch.cuda.CUDAGraph()
        weakref.finalize(graph, streams.give_back, stream)
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    work()
        finally:
            torch.cuda.current_stream().wait_stream(stream)  # whoever puts things back does so after it
        if _GENERATORS_BY_HAND:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # other lanes go on meanwhile
            result = work()
    return graph.replay, result


_GENERATORS_BY_HAND = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)
"""Later releases see for themselves what a graph draws from."""
