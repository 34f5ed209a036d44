"""What one GPU does, in seconds: the goals that are absolute, on synthetic data.

`python -m tests.benchmarks gpu`, some 5 minutes; with the tests, `make gpu`. Needs a CUDA device, and of libraries
torch, torchvision, numpy and pyarrow alone; without a device it says so and measures nothing. Images are random, and
lie on the GPU.

- G1: an epoch of torchvision's ResNet-18 at 32 pixels on 50,000 images, bfloat16, batch 512: at most 0.30 s;
- G1: what the CUDA graph brings, the same epoch step by step against by replay, and of the small CNN;
- G2: four members side by side, each on a stream of its own, against one after the other; and 30 epochs of 30
  ResNet-18 on 50,000 images, from an epoch of four side by side: at most 120 s;
- G3: a guided step against a standard step of ResNet-18: at most 2.45; the published procedure in float32, a batch of
  it, against a guided batch of ours: at least 20;
- G4: seven methods of 30 ResNet-18 on 10,000 images: at most 300 s, from 2,048 images of one member;
- G5: filter profiles of ResNet-50 for 50,000 images of 224 pixels: at most 120 s, from 512 images.

Before the clock an epoch by replay and one step by step end with the same weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from salcore import seeds, training
from salcore.attribution import METHODS
from salcore.data import Data, Part
from salcore.device import pin
from salcore.lanes import side_by_side
from salcore.models import build
from salcore.models.quick import quick
from salcore.objectives.guided import lowest
from salcore.parameter_space import filter_profiles
from salcore.precision import bfloat16_passes
from salcore.step import Step
from salcore.training import fit
from tests.benchmarks import harness
from tests.benchmarks.published_guided import published, published_masked

IMAGES, BATCH, CLASSES = 50_000, 512, 10
GUIDANCE = SimpleNamespace(
    mask_fraction=0.5, weight=1.0, ranking="signed", of="logit", mode="train", fill=None, detach_target=False
)
METHODS_TIMED: dict[str, dict[str, Any]] = {
    "gradient": {},
    "input_x_gradient": {},
    "gradcam": {"layer": "layer3"},
    "deeplift": {},
    "integrated_gradients": {"num_steps": 32},
    "smoothgrad": {"num_samples": 32},
    "gradient_shap": {"num_samples": 32},
}
EXPLAINED, PROFILED = 2048, 512
LANES, WAIT_S = 4, 120.0
MEMBERS, EPOCHS = 30, 30
"""Of the paper's ensembles, and a usual training."""


def data(images: int = IMAGES, side: int = 32) -> Data:
    """Random images, of fixed seed."""
    draws = np.random.default_rng(0)
    values = draws.integers(0, 256, (images, 3, side, side), np.uint8)
    train = Part(values=values, labels=draws.integers(0, CLASSES, images), index=np.arange(images))
    none = replace(train, index=np.arange(0))
    half, classes = np.full(3, 0.5, np.float32), tuple(map(str, range(CLASSES)))
    return Data(train=train, validation=none, evaluation=none, classes=classes, mean=half, std=half, digest="")


def member(name: str, *, root: int = 0, **changes: Any) -> Any:
    """A member of many epochs."""
    how = {
        **{"epochs": 1000, "batch_size": BATCH, "optimizer": "sgd", "schedule": "constant", "learning_rate": 0.01},
        **{"weight_decay": 0.0, "momentum": 0.9, "patience": None, "precision": "bfloat16", "objective": "standard"},
        **{"augment": SimpleNamespace(crop=4, flip=True), "guidance": GUIDANCE},
    }
    purposes = {purpose: seeds.derive(root, 0, number) for number, purpose in enumerate(seeds.PURPOSES)}
    model = SimpleNamespace(name=name, settings={}, weights=None)
    return SimpleNamespace(
        seeds=purposes, model=model, training=SimpleNamespace(**how | changes), weights=None, start=None
    )


class Epochs:
    """A training that goes on an epoch at each call, ended when it returns."""

    def __init__(self, one: Any, images: Data, *, replayed: bool = True) -> None:
        with mock.patch.object(training, "Step", Step if replayed else _step_by_step):
            self._records = fit(one, images, device="cuda")
            self()

    def __call__(self) -> dict[str, torch.Tensor]:
        record = next(self._records)
        torch.cuda.synchronize()
        return record.state["model"]


class Lanes:
    """Trainings of several members that go on an epoch at each call, side by side or one after the other.

    A graph belongs to the thread's generators, so the threads stay.
    """

    def __init__(self, name: str, images: Data, *, beside: bool = True) -> None:
        self._go, self._done = (threading.Barrier(LANES + 1, timeout=WAIT_S) for _ in range(2))
        self._lock = nullcontext() if beside else threading.Lock()
        self._models: list[dict[str, torch.Tensor]] = [{}] * LANES
        work = [partial(self._train, name, images, number) for number in range(LANES)]
        threading.Thread(target=side_by_side, args=(work, "cuda"), daemon=True).start()
        self()

    def __call__(self) -> list[dict[str, torch.Tensor]]:
        self._go.wait()
        self._done.wait()
        return self._models

    def _train(self, name: str, images: Data, number: int) -> None:
        records = fit(member(name, root=number), images, device="cuda")
        with suppress(threading.BrokenBarrierError):  # nobody asks any more
            while True:
                self._go.wait()
                with self._lock:
                    self._models[number] = next(records).state["model"]
                    torch.cuda.current_stream().synchronize()
                self._done.wait()


def _step_by_step(*arguments: Any) -> Step:
    step = Step(*arguments)
    step._capture = None
    return step


def same(one: Any, images: Data) -> None:
    """Raise unless a training by replay and one step by step have the same bits after two epochs."""
    mine, theirs = (Epochs(one, few(images), replayed=replayed)() for replayed in (True, False))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine), "the weights differ"


def same_beside(name: str, images: Data) -> None:
    """Raise unless members side by side and one after the other have the same bits after two epochs."""
    with mock.patch.object(training, "TURN", 1):
        beside, after = (Lanes(name, few(images), beside=how)() for how in (True, False))
    for mine, theirs in zip(beside, after, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), "the weights differ"


def few(images: Data) -> Data:
    """Two batches and a smaller one of them."""
    return replace(images, train=replace(images.train, index=np.arange(2 * BATCH + 100)))


def seconds(work: Callable[[], Any]) -> list[float]:
    """Each repeat's time, to its end on the device; the first call warms up."""
    work()

    def ended() -> None:
        work()
        torch.cuda.synchronize()

    return [harness.seconds(ended) for _ in range(harness.REPEATS)]


def rows() -> Iterator[harness.Row]:
    """Every goal of a GPU."""
    images = data()
    detail = f"{IMAGES} images (3, 32, 32), batch {BATCH}, bfloat16"
    epoch = Epochs(member("resnet18"), images)
    yield harness.measured("G1 an epoch, ResNet-18", seconds(epoch), unit="s", at_most=0.30, detail=detail)
    for name in ("resnet18", "small_cnn"):
        yield harness.compare(
            f"G1 an epoch by a CUDA graph against step by step, {name}",
            Epochs(member(name), images),
            Epochs(member(name), images, replayed=False),
            check=lambda name=name: same(member(name), images),
            detail=detail,
        )
    for name in ("resnet18", "small_cnn"):
        yield harness.compare(
            f"G2 epochs of {LANES} members on streams against one after the other, {name}",
            Lanes(name, images),
            Lanes(name, images, beside=False),
            check=lambda name=name: same_beside(name, images),
            detail=detail,
        )
    beside = np.array(seconds(Lanes("resnet18", images))) * MEMBERS * EPOCHS / LANES
    yield harness.measured(
        f"G2 {MEMBERS} x ResNet-18 x {EPOCHS} epochs", beside, unit="s", at_most=120, detail=f"{detail}; from an epoch"
    )
    guided = Epochs(member("resnet18", objective="guided"), images)
    yield harness.compare(
        "G3 guided step / standard step, ResNet-18",
        epoch,
        guided,
        check=lambda: same(member("resnet18", objective="guided"), images),
        at_most=2.45,
        detail=f"{detail}; standard first",
    )
    theirs = np.array(seconds(Published())) * IMAGES / BATCH
    yield harness.measured(
        "G3 guided training against the published procedure, ResNet-18",
        np.divide(theirs, seconds(guided)),
        unit="x",
        at_least=20,
        detail=f"{detail}, theirs a batch in float32",
    )
    yield explaining()
    yield profiles()


class Published:
    """A step of the published guided training at each call, after its mask was found to be ours."""

    def __init__(self) -> None:
        self._model, inputs, labels = network("resnet18", 32)
        self._inputs, self._labels = inputs[:BATCH], labels[:BATCH]
        self._stepper = torch.optim.SGD(self._model.parameters(), lr=0.01, momentum=0.9)
        scores = torch.randn(BATCH, 32, 32, generator=seeds.generator(2)).cuda()
        changed = published_masked(self._inputs, scores, GUIDANCE.mask_fraction, None, "images")
        mask = lowest(scores, GUIDANCE.mask_fraction)[:, None].expand_as(changed)
        assert torch.equal(changed != self._inputs, mask), "the masks differ"

    def __call__(self) -> None:
        self._stepper.zero_grad()
        published(self._model.train(), self._inputs.requires_grad_(), self._labels, GUIDANCE, None, "images").backward()
        self._stepper.step()


def network(name: str, side: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """An untrained network, and a batch."""
    with seeds.forked(0):
        spec = SimpleNamespace(name=name, settings={}, weights=None)
        model = build(spec, input_shape=(3, side, side), classes=CLASSES).eval().cuda()
    count = EXPLAINED if side == 32 else PROFILED
    inputs = torch.randn(count, 3, side, side, generator=seeds.generator(1))
    return model, inputs.cuda(), (torch.arange(count) % CLASSES).cuda()


def explaining() -> harness.Row:
    """Seven methods of one member on some images, as long as 30 members and 10,000 images would take."""
    model, inputs, targets = network("resnet18", 32)
    quick(model, SimpleNamespace(name="resnet18"))
    baselines = {"gradient_shap": {"baselines": inputs[:64]}}

    def precision(name: str) -> AbstractContextManager:
        return nullcontext() if name == "deeplift" else bfloat16_passes(model, torch.device("cuda"))

    def work() -> None:
        for name, settings in METHODS_TIMED.items():
            with precision(name):
                for block, known in zip(inputs.split(BATCH), targets.split(BATCH), strict=True):
                    METHODS[name](model, block, known, **settings, **baselines.get(name, {}))

    times = [30 * 10_000 / EXPLAINED * took for took in seconds(work)]
    detail = f"from {EXPLAINED} images of one member, batch {BATCH}, bfloat16 but for DeepLIFT"
    return harness.measured("G4 7 methods x 30 x 10,000 images", times, unit="s", at_most=300, detail=detail)


def profiles() -> harness.Row:
    """Filter profiles of ResNet-50."""
    model, inputs, labels = network("resnet50", 224)

    def work() -> None:
        for block, known in zip(inputs.split(64), labels.split(64), strict=True):
            filter_profiles(model, block, known)

    times = [50_000 / PROFILED * took for took in seconds(work)]
    detail = f"from {PROFILED} images, batch 64, float32"
    return harness.measured("G5 profiles of ResNet-50, 50,000 images", times, unit="s", at_most=120, detail=detail)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
    else:
        pin(torch.get_num_threads())
        for found in rows():
            harness.record([found])  # what was measured stays if a later row fails
