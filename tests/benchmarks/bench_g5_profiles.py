"""G5: filter profiles of a batch, against the published loop over samples and against `vmap` of the gradient.

`python -m tests.benchmarks g5`, six minutes, one thread. Random images (3, 32, 32) of ten classes, 64 a batch, on
torchvision's ResNet-18, whose last maps are 1 x 1 at this size, and on one with the first layers that are usual for
CIFAR (3 x 3, stride 1, no pooling), whose last maps are 4 x 4.

- published loop / ours: at least 10. The loop as published (Levin et al., 2021, and its code) is written anew below:
  batch 1, a prediction, then the gradient of every parameter with `create_graph=True`, magnitudes, means.
- `vmap(grad)` / ours: at least 2. As one would write it today, in chunks of 16 samples.
- extra memory: at most 10 % of the gradients of all samples' filters, which both of the above hold at some time
  (`vmap` those of a chunk). The peak of resident memory during a call, less what there was before; on a GPU that of
  allocated memory.
- a training step / ours, forward and backward with weight gradients: no goal; it tells how much is left to gain.

Where a GPU is there its rows follow, with 256 images a batch, in float32.
"""

from __future__ import annotations

import copy
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: one thread, as a slot has

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from salcore import seeds
from salcore.device import pin
from salcore.parameter_space import filter_profiles
from tests.benchmarks import harness

CLASSES, CHUNK = 10, 16
SAMPLES = {"cpu": 64, "cuda": 256}


def torchvision_net() -> nn.Module:
    """ResNet-18 as torchvision has it."""
    return resnet18(num_classes=CLASSES)


def cifar_net() -> nn.Module:
    """ResNet-18 with the first layers for images of 32 pixels."""
    model = resnet18(num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {"ResNet-18": torchvision_net, "ResNet-18 for CIFAR": cifar_net}


def published(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The published loop: one sample after the other."""
    rows = []
    for index in range(len(inputs)):
        sample, label = inputs[index : index + 1].clone().requires_grad_(), labels[index : index + 1]
        model(sample).max(1)
        loss = functional.cross_entropy(model(sample), label)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        means = [each.abs().mean(-1).mean(-1).mean(-1) for each in gradients if each.ndim == 4]
        rows.append(torch.cat(means).detach())
    return torch.stack(rows)


def by_vmap(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each sample at once, a chunk of samples at a time."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, (weights, buffers), (sample[None],))
        return functional.cross_entropy(logits, label[None])

    def profile(sample: Tensor, label: Tensor) -> Tensor:
        gradients = torch.func.grad(loss)(parameters, sample, label)
        return torch.cat([each.abs().flatten(1).mean(1) for each in gradients.values() if each.ndim == 4])

    return torch.func.vmap(profile, chunk_size=CHUNK)(inputs, labels)


def training_step(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Forward pass and backward pass with the gradients of the weights."""
    torch.autograd.grad(functional.cross_entropy(model(inputs), labels), list(model.parameters()))


def peak(work: Callable[[], object], device: str) -> float:
    """Bytes that a call takes beyond what is held before it."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(name))
    return 1024.0 * int(line.split()[1])


def _finished(work: Callable[[], object], device: str) -> Callable[[], object]:
    """The call, and on a GPU the wait for its end."""

    def run() -> object:
        found = work()
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return run


CHECKED = 12
"""Samples whose profiles are held against those of the other way."""


def rows(device: str) -> list[harness.Row]:
    """All rows of one device."""
    return [row for name in NETWORKS for row in _rows(name, device)]


def _rows(name: str, device: str) -> list[harness.Row]:
    count = SAMPLES[device]
    with seeds.forked(0):
        model = NETWORKS[name]().to(device).eval()
        inputs, labels = torch.randn(count, 3, 32, 32, device=device), torch.arange(count, device=device) % CLASSES

    def of(way: Callable[[nn.Module, Tensor, Tensor], object]) -> Callable[[], object]:
        return _finished(lambda: way(model, inputs, labels), device)

    def check_against(way: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def check() -> None:
            """In float64: in float32 a sample at the edge of a ReLU may fall to either side."""
            exact = copy.deepcopy(model).double().requires_grad_(True).eval()
            few = inputs[:CHECKED].double(), labels[:CHECKED]
            torch.testing.assert_close(filter_profiles(exact, *few), way(exact, *few), rtol=1e-8, atol=1e-14)

        return check

    model.requires_grad_(True)
    detail = f"{count} images (3, 32, 32), " + ("one thread, float32" if device == "cpu" else "on the GPU, float32")
    title = f"G5 filter profiles, {name}" + (", GPU" if device == "cuda" else "")
    filters = sum(each.numel() for each in model.parameters() if each.ndim == 4)
    share = [peak(of(filter_profiles), device) / (4 * filters * count) for _ in range(3)]
    return [
        harness.compare(
            f"{title}, against the published loop",
            of(filter_profiles),
            of(published),
            check=check_against(published),
            at_least=10,
            detail=detail,
        ),
        harness.compare(
            f"{title}, against vmap of the gradient",
            of(filter_profiles),
            of(by_vmap),
            check=check_against(by_vmap),
            at_least=2,
            detail=f"{detail}, chunks of {CHUNK}",
        ),
        harness.compare(
            f"{title}, against a training step",
            of(filter_profiles),
            of(training_step),
            check=lambda: None,
            detail=detail,
        ),
        harness.measured(
            f"{title}, extra memory of all samples' gradients", share, unit="share", at_most=0.10, detail=detail
        ),
    ]


if __name__ == "__main__":
    pin(1)
    found = rows("cpu")
    if torch.cuda.is_available():
        found += rows("cuda")
    harness.record(found)
