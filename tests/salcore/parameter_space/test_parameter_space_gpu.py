"""Parameter-space saliency on a GPU: the numbers of the CPU, wherever the caller's tensors are."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from salcore.models import build
from salcore.parameter_space import filter_profiles, filter_table, fine_tune, order, prune
from salcore.seeds import forked, generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def pair(name="small_cnn", **settings):
    """The same network on both devices, in float64."""
    with forked(0):
        spec = SimpleNamespace(name=name, settings=settings, weights=None)
        network = build(spec, input_shape=(3, 32, 32), classes=5).double().eval()
    return network, copy.deepcopy(network).cuda()


def batch(count=6):
    return torch.randn(count, 3, 32, 32, generator=generator(1), dtype=torch.float64), torch.arange(count) % 5


@pytest.mark.parametrize(
    ("name", "settings"), [("small_cnn", {"norm": "batch"}), ("resnet18", {}), ("densenet121", {})]
)
def test_profiles_are_those_of_the_cpu(name, settings):
    on_cpu, on_gpu = pair(name, **settings)
    inputs, labels = batch()
    expected = filter_profiles(on_cpu, inputs, labels)
    for device in ("cpu", "cuda"):
        found = filter_profiles(on_gpu, inputs.to(device), labels.to(device))
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("mode", ["paper", "silenced"])
def test_pruning_has_the_effects_of_the_cpu(mode):
    on_cpu, on_gpu = pair(norm="batch")
    (inputs, labels), table = batch(), filter_table(on_cpu, batch(1)[0])
    first = order(filter_profiles(on_cpu, inputs, labels), "most", 4, samples=range(6))
    expected, found = (
        prune(network, inputs, labels, first, [0, 1, 4], table, mode=mode) for network in (on_cpu, on_gpu)
    )
    for name in ("true", "incorrect"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9)


def test_a_step_has_the_effects_of_the_cpu_and_is_undone_to_the_last_bit():
    on_cpu, on_gpu = pair(norm="batch")
    before = copy.deepcopy(on_gpu.state_dict())
    (inputs, labels), table = batch(), filter_table(on_cpu, batch(1)[0])
    orders = {"most": order(filter_profiles(on_cpu, inputs, labels), "most", 4, samples=range(6))[0]}
    expected, found = (
        fine_tune(network, inputs[0], 0, orders, [1, 4], table, inputs[1:], labels[1:], step=0.05)
        for network in (on_cpu, on_gpu)
    )
    np.testing.assert_allclose(found[0]["most"].others.true, expected[0]["most"].others.true, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found[1].own.true, expected[1].own.true, rtol=1e-6, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in on_gpu.state_dict().items())
