"""Attention that is taught on a GPU: the loss and gradients of the CPU, and no wait for the device."""

import copy

import pytest
import torch

from salcore.models import build
from salcore.objectives.attention import taught
from salcore.seeds import forked

pytest.importorskip("transformers", reason="language models are those of transformers")
spec_of = pytest.importorskip("salcore.spec")
agreement = pytest.importorskip("salcore.sallm.agreement")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LENGTHS = torch.tensor([9, 4, 7, 9])


def network():
    with forked(0):
        spec = spec_of.ModelSpec(name="transformers:bert", layers=2, width=16, heads=2, dropout=0.0)
        return build(spec, input_shape=(9, 50), classes=3)


def batch():
    random = torch.Generator().manual_seed(0)
    valid = torch.arange(9) < LENGTHS[:, None]
    inputs = torch.randint(1, 50, (4, 9), generator=random) * valid
    counted = valid.clone()
    counted[:, 0] = False
    return inputs, torch.tensor([0, 2, -1, 1]), torch.rand(4, 9, generator=random) * counted, counted, valid


@pytest.mark.parametrize("divergence", ["kl", "mse", "cosine"])
def test_loss_and_gradients_are_those_of_the_cpu_and_nothing_waits(divergence):
    attention = spec_of.AttentionSpec(divergence=divergence, layers="all", heads="each", query="mean")
    *given, valid = batch()
    on_cpu = network().train()
    on_gpu = copy.deepcopy(on_cpu).cuda()
    expected = taught(on_cpu, *given, valid=valid, attention=attention)
    expected.backward()
    given, valid = [each.cuda() for each in given], valid.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = taught(on_gpu, *given, valid=valid, attention=attention)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(on_gpu.parameters(), on_cpu.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-3, atol=1e-5)


def test_attention_is_read_on_the_models_device():
    inputs, _, _, counted, valid = batch()
    words = torch.where(counted, 0, -1)
    expected = agreement.attention_of(network(), inputs, valid, words, spec_of.AttentionSpec())
    found = agreement.attention_of(network().cuda(), inputs, valid, words, spec_of.AttentionSpec())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
