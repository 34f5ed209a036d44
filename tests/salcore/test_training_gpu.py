"""Training on a GPU: by replay the bits of a training step by step, and near what a processor gives."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from salcore import seeds, training
from salcore.data import Data, Part
from salcore.data.batches import epoch_batches
from salcore.device import pin
from salcore.lanes import side_by_side
from salcore.step import Step
from salcore.training import fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CASES = {
    "standard": {},
    "guided": {"objective": "guided"},
    "bfloat16": {"precision": "bfloat16"},
    "guided bfloat16": {"objective": "guided", "precision": "bfloat16"},
    "adadelta": {"optimizer": "adadelta", "schedule": "constant", "learning_rate": 1.0},
    "sgd": {"optimizer": "sgd", "schedule": "cosine"},
}
NETWORKS = {
    "small CNN": ("small_cnn", {"norm": "batch", "dropout": 0.3}, (3, 16, 16)),
    "MNIST CNN": ("mnist_cnn", {}, (1, 28, 28)),
    "ResNet-18": ("resnet18", {}, (3, 32, 32)),
}
OTHERS = {
    "small ViT": ("small_vit", {"width": 16, "depth": 2}, (3, 16, 16)),
    "LSTM": ("lstm", {}, (5, 16)),
    "TCN": ("tcn", {}, (5, 16)),
    "transformer": ("transformer", {}, (5, 16)),
}
"""Attention and recurrence, and series: those whose step cannot be captured are trained step by step."""
GUIDANCE = {
    **{"mask_fraction": 0.5, "weight": 1.0, "ranking": "signed", "of": "logit", "mode": "train", "fill": None},
    "detach_target": False,
}
TRAINING = {
    **{"epochs": 2, "batch_size": 64, "optimizer": "adam", "schedule": "one_cycle", "learning_rate": 0.01},
    **{"weight_decay": 0.0, "momentum": 0.9, "patience": None, "precision": "float32", "objective": "standard"},
    "augment": SimpleNamespace(crop=2, flip=True),
}


@pytest.fixture(autouse=True, scope="module")
def pinned():
    """As in a slot; put back after."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    pin(threads)
    yield
    torch.use_deterministic_algorithms(deterministic)


def synthetic(shape, count=300):
    """Images, or series, whose class is where they are bright; 300 leave a last batch of 44."""
    draws = np.random.default_rng(0)
    labels = np.arange(count) % 3
    values = draws.integers(0, 120, (count, *shape), np.uint8)
    for row, label in enumerate(labels):
        values[row, :, label * 4 : label * 4 + 4] += 100
    if len(shape) == 2:
        values = values.astype(np.float32) / 255
    train = Part(values=values, labels=labels, index=np.arange(count))
    half = np.full(shape[0], 0.5, np.float32)
    validation = replace(train, index=np.arange(0, count, 3))
    return Data(
        train=train,
        validation=validation,
        evaluation=validation,
        classes=("a", "b", "c"),
        mean=half,
        std=half,
        digest="",
        kind="images" if len(shape) == 3 else "series",
    )


def member(network, mask_fraction=0.5, **changes):
    """A member and its data; a spec would ask for more than torch, torchvision, numpy and pyarrow."""
    name, settings, shape = (NETWORKS | OTHERS)[network]
    guidance = SimpleNamespace(**GUIDANCE | {"mask_fraction": mask_fraction})
    purposes = {purpose: seeds.derive(0, 0, number) for number, purpose in enumerate(seeds.PURPOSES)}
    model = SimpleNamespace(name=name, settings=settings, weights=None)
    plain = {} if len(shape) == 3 else {"augment": SimpleNamespace(crop=0, flip=False)}
    training = SimpleNamespace(**TRAINING | changes | plain, guidance=guidance)
    one = SimpleNamespace(seeds=purposes, model=model, training=training, weights=None, start=None)
    return one, synthetic(shape)


def ended(one, data, device, state=None):
    rows, last = [], None
    for record in fit(one, data, device=device, state=state):
        rows.append(record.train_loss)
        last = {name: value.detach().cpu().clone() for name, value in record.state["model"].items()}
    return rows, last


@pytest.fixture
def step_by_step(monkeypatch):
    """A function after which no step is captured."""

    def begin():
        def make(one, model, objective, kind, device):
            made = Step(one, model, objective, kind, device)
            made._capture = None
            return made

        monkeypatch.setattr(training, "Step", make)

    return begin


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", CASES)
def test_a_training_by_graphs_ends_with_the_bits_of_one_step_by_step(network, case, step_by_step, recwarn):
    one, data = member(network, **CASES[case])
    rows, weights = ended(one, data, "cuda")
    assert not [told for told in recwarn if "CUDA graph" in str(told.message)]
    step_by_step()
    expected, others = ended(one, data, "cuda")
    assert rows == expected
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("network", OTHERS)
@pytest.mark.parametrize("case", ["standard", "guided", "bfloat16"])
@pytest.mark.filterwarnings("ignore:training runs without a CUDA graph")
def test_so_does_one_of_other_networks_whether_captured_or_not(network, case, step_by_step):
    one, data = member(network, **CASES[case])
    rows, weights = ended(one, data, "cuda")
    step_by_step()
    expected, others = ended(one, data, "cuda")
    assert rows == expected
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_more_members_than_a_gpu_has_streams_end_with_the_bits_of_each_alone(recwarn, monkeypatch):
    """Each takes a stream for its graph, and gives it back: torch hands out 32 in turn."""
    monkeypatch.setattr(training, "TURN", 1)
    several = []
    for number in range(40):
        one, data = member("small CNN", epochs=1, **CASES["bfloat16"])
        one.seeds = {purpose: seeds.derive(number, 0) for purpose in one.seeds}
        several.append(one)
    alone = [ended(one, data, "cuda") for one in several]
    found = {}

    def lane(mine):
        return lambda: found.update({place: ended(several[place], data, "cuda") for place in mine})

    side_by_side([lane(range(first, 40, 4)) for first in range(4)], "cuda")
    assert not [told for told in recwarn if "CUDA graph" in str(told.message)]
    for place, (rows, weights) in enumerate(alone):
        assert found[place][0] == rows
        assert all(torch.equal(weights[name], found[place][1][name]) for name in weights)


@pytest.mark.parametrize("case", ["standard", "guided"])
def test_a_training_on_a_gpu_is_near_that_of_a_processor(case):
    """The loss of the first epoch, with nothing that is drawn on the device: later ones are as chaotic as training."""
    one, data = member("small CNN", mask_fraction=0.0, epochs=1, **CASES[case])
    one.model.settings = {"norm": "batch"}
    assert ended(one, data, "cuda")[0] == pytest.approx(ended(one, data, "cpu")[0], rel=1e-2)


def test_a_training_resumed_after_an_epoch_ends_with_the_same_bits():
    one, data = member("small CNN", objective="guided")
    buffer = io.BytesIO()
    torch.save(next(fit(one, data, device="cuda")).state, buffer)
    buffer.seek(0)
    rows, weights = ended(one, data, "cuda")
    later, others = ended(one, data, "cuda", state=torch.load(buffer, weights_only=True))
    assert later == rows[1:]
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", ["standard", "guided bfloat16"])
def test_members_on_streams_side_by_side_end_with_the_bits_of_each_alone(network, case, recwarn, monkeypatch):
    monkeypatch.setattr(training, "TURN", 1)
    several = []
    for number in range(3):
        one, data = member(network, **CASES[case])
        one.seeds = {purpose: seeds.derive(number, 0) for purpose in one.seeds}
        several.append(one)
    alone = [ended(one, data, "cuda") for one in several]
    found = [None] * len(several)

    def work(place):
        def do():
            found[place] = ended(several[place], data, "cuda")

        return do

    side_by_side([work(place) for place in range(len(several))], "cuda")
    assert not [told for told in recwarn if "CUDA graph" in str(told.message)]
    for (rows, weights), (expected, others) in zip(found, alone, strict=True):
        assert rows == expected
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_batches_gathered_on_the_gpu_are_those_of_the_processor():
    one, data = member("ResNet-18")
    batches = [
        epoch_batches(
            data.train,
            data,
            batch_size=64,
            order=seeds.generator(1),
            augment=one.training.augment,
            augment_generator=seeds.generator(2),
            device=device,
        )
        for device in ("cuda", "cpu")
    ]
    for found, expected in zip(*batches, strict=True):
        torch.testing.assert_close(found.inputs.cpu(), expected.inputs, rtol=1e-6, atol=1e-6)
        assert torch.equal(found.labels.cpu(), expected.labels)
