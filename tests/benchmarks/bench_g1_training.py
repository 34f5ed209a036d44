"""G1: one epoch of one member's training, against the plain loop that a researcher writes.

`python -m tests.benchmarks g1`, some 10 minutes, one thread. An epoch of `salcore.training.fit`, its network, batches,
augmentation and optimizer included, on the small CNN (2,560 images of 3 x 32 x 32, Adam, shifted and mirrored), the
MNIST CNN (2,560 images of 28 x 28, Adadelta, no augmentation) and torchvision's ResNet-18 (512 images of 3 x 32 x 32,
SGD, shifted and mirrored), batch 128.

- as published: a data set whose items are PIL images, torchvision's transforms one image at a time, a `DataLoader`
  without workers (with them, its processes and the loop share what cores there are), zero_grad, backward, step. At
  least 1.4 in float32; with bfloat16 on our side at least 2.0 (CNNs) and 1.3 (ResNet-18).
- tuned: the same loop over tensors that are in memory and normalised before the clock starts, a batch at a time, with
  the fused optimizer. What is left of the factor is none of the data's. No goal.

Before the clock the loop, in our order and without augmentation, has to end with our weights.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: one thread, as a slot has

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from salcore import seeds
from salcore.data import Data, Part
from salcore.data.batches import epoch_batches, normalise
from salcore.device import pin
from salcore.members import Member
from salcore.models import build
from salcore.precision import emulates_bfloat16
from salcore.spec import AugmentSpec, ModelSpec, TrainingSpec
from salcore.training import fit
from tests.benchmarks import harness
from tests.benchmarks.plain_ensemble import Pictures

BATCH, CLASSES = 128, 10
CNN = TrainingSpec(epochs=1, batch_size=BATCH, optimizer="adadelta", schedule="constant", learning_rate=1.0)
SMALL = TrainingSpec(epochs=1, batch_size=BATCH, schedule="constant", augment=AugmentSpec(crop=4, flip=True))
RESNET = TrainingSpec(
    epochs=1, batch_size=BATCH, optimizer="sgd", schedule="constant", learning_rate=0.01, momentum=0.9,
    augment=AugmentSpec(crop=4, flip=True),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, on what, and by how much it is to be faster in bfloat16."""

    model: ModelSpec
    training: TrainingSpec
    shape: tuple[int, int, int]
    images: int
    bfloat16: float

    def data(self) -> Data:
        """Random images, of fixed seed."""
        draws = np.random.default_rng(0)
        values = draws.integers(0, 256, (self.images, *self.shape), np.uint8)
        labels = draws.integers(0, CLASSES, self.images)
        train = Part(values=values, labels=labels, index=np.arange(self.images))
        none = replace(train, index=np.arange(0))
        half = np.full(self.shape[0], 0.5, np.float32)
        classes = tuple(map(str, range(CLASSES)))
        return Data(train=train, validation=none, evaluation=none, classes=classes, mean=half, std=half, digest="")

    def member(self, **changes: object) -> Member:
        """A member that is trained as the case says, but for the changes."""
        purposes = {purpose: seeds.derive(0, 0, number) for number, purpose in enumerate(seeds.PURPOSES)}
        how = self.training.model_copy(update=changes)
        return Member(index=0, seeds=purposes, model=self.model, training=how, weights=None, fingerprint="")


CASES = {
    "small CNN": Case(model=ModelSpec(), training=SMALL, shape=(3, 32, 32), images=2560, bfloat16=2.0),
    "MNIST CNN": Case(model=ModelSpec(name="mnist_cnn"), training=CNN, shape=(1, 28, 28), images=2560, bfloat16=2.0),
    "ResNet-18": Case(model=ModelSpec(name="resnet18"), training=RESNET, shape=(3, 32, 32), images=512, bfloat16=1.3),
}


def ours(case: Case, data: Data, **changes: object) -> dict[str, Tensor]:
    """An epoch of the product; the weights it ends with."""
    (record,) = fit(case.member(**changes), data)
    return {name: tensor.clone() for name, tensor in record.state["model"].items()}


def published(case: Case, data: Data) -> Callable[[], nn.Module]:
    """An epoch of the plain loop, batches from a `DataLoader` over PIL images."""
    augment = case.training.augment
    drawn = [transforms.RandomCrop(case.shape[1], padding=augment.crop)] if augment.crop else []
    drawn += [transforms.RandomHorizontalFlip()] if augment.flip else []
    half = (0.5,) * case.shape[0]
    transform = transforms.Compose([*drawn, transforms.ToTensor(), transforms.Normalize(half, half)])
    batches = DataLoader(Pictures(data.train.values, data.train.labels, transform), batch_size=BATCH, shuffle=True)
    return lambda: loop(case, batches, fused=False)


def tuned(case: Case, data: Data) -> Callable[[], nn.Module]:
    """An epoch of the loop over tensors that are ready."""
    inputs = normalise(torch.from_numpy(data.train.values), data.mean, data.std)
    labels = torch.from_numpy(data.train.labels)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(inputs)).split(BATCH):
            yield inputs[rows], labels[rows]

    return lambda: loop(case, batches(), fused=True)


def loop(case: Case, batches: Iterable, *, fused: bool) -> nn.Module:
    """The loop itself; the network that it trained."""
    with seeds.forked(case.member().seeds["init"]):
        model = build(case.model, input_shape=case.shape, classes=CLASSES)
    stepper = plain_optimizer(model.parameters(), case.training, fused=fused)
    model.train()
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    return model


def plain_optimizer(
    parameters: Iterable[nn.Parameter], training: TrainingSpec, *, fused: bool
) -> torch.optim.Optimizer:
    """Torch's own optimizer of a training, as one writes it down, or its fused kernel where there is one."""
    rate, decay = training.learning_rate, training.weight_decay
    match training.optimizer:
        case "adadelta":
            return torch.optim.Adadelta(parameters, lr=rate, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=fused)
        case "sgd":
            momentum = training.momentum
            return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=momentum, fused=fused)
    raise ValueError(f"`training`: expected adadelta, adam or sgd, got {training.optimizer}")


def same(case: Case, data: Data) -> None:
    """Raise unless two steps move the weights alike, to 2 % of the way: in our order, without augmentation and dropout.

    Rounding differs, and optimizers that divide by a gradient's size make much of it where there is next to none.
    Dropout draws alike, but in the order of memory, which is another one channels-last.
    """
    data = replace(data, train=replace(data.train, index=data.train.index[: 2 * BATCH]))
    member = case.member(augment=AugmentSpec())
    order = seeds.generator(member.seeds["order"], 1)
    batches = ((batch.inputs, batch.labels) for batch in epoch_batches(data.train, data, batch_size=BATCH, order=order))
    with mock.patch("torch.nn.functional.dropout", lambda inputs, *_: inputs):
        theirs = flat(loop(case, batches, fused=False).state_dict())
        mine, start = flat(ours(case, data, augment=AugmentSpec())), flat(loop(case, (), fused=False).state_dict())
    apart = float((mine - theirs).norm() / (theirs - start).norm())
    assert apart < 0.02, f"the weights are {apart:.3f} of their way apart"


def flat(state: dict[str, Tensor]) -> Tensor:
    """All weights in a row."""
    return torch.cat([value.double().flatten() for value in state.values()])


def rows() -> Iterator[harness.Row]:
    """Every comparison, one after the other."""
    for name, case in CASES.items():
        data = case.data()
        detail = f"an epoch of {case.images} images {case.shape}, batch {BATCH}, one thread"
        sides = {"as published": published(case, data), "over tensors in memory": tuned(case, data)}
        for side, theirs in sides.items():
            for precision in ("float32", "bfloat16") if not emulates_bfloat16() else ("float32",):
                least = case.bfloat16 if precision == "bfloat16" else 1.4
                yield harness.compare(
                    f"G1 training, {name}, {precision} against the loop {side}",
                    lambda case=case, data=data, precision=precision: ours(case, data, precision=precision),
                    theirs,
                    check=lambda case=case, data=data: same(case, data),
                    at_least=least if side == "as published" else None,
                    detail=detail,
                )


def main() -> None:
    """Measure and record."""
    pin(1)
    harness.record(list(rows()))


if __name__ == "__main__":
    main()
