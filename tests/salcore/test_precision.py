"""Precision: which processors emulate bfloat16, and convolutions that keep all of float32."""

import pytest
import torch
from torch import nn

from salcore import precision
from salcore.attribution import METHODS
from salcore.attribution.deeplift import deeplift
from salcore.precision import bfloat16_passes, emulates_bfloat16, whole_float32


@pytest.mark.parametrize(
    ("machine", "flags", "emulated"),
    [
        ("x86_64", "flags : fpu avx2 avx512f", True),
        ("x86_64", "flags : fpu avx512_bf16", False),
        ("x86_64", "flags : amx_bf16 fpu", False),
        ("aarch64", "Features : fp asimd", False),
        ("x86_64", None, False),
    ],
)
def test_a_processor_without_bfloat16_is_known(machine, flags, emulated, monkeypatch, tmp_path):
    """Where nothing is known nothing is said."""
    place = tmp_path / "cpuinfo"
    if flags:
        place.write_text(flags)
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(precision, "CPUINFO", place)
    assert emulates_bfloat16() is emulated


def test_convolutions_are_whole_in_the_block_and_as_before_after_it():
    before = torch.backends.cudnn.conv.fp32_precision
    inside = []

    def fail():
        with whole_float32():
            inside.append(torch.backends.cudnn.conv.fp32_precision)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == ["ieee"]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_deeplift_explains_with_whole_convolutions():
    """Rounded to ten bits, most maps would miss completeness and be made again in float64."""
    seen = []

    class Network(nn.Linear):
        def forward(self, inputs):
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return super().forward(inputs)

    deeplift(Network(4, 3), torch.randn(2, 4), torch.tensor([0, 1]))
    assert set(seen) == {"ieee"}


def test_passes_are_by_bfloat16_and_what_they_give_is_float32():
    torch.manual_seed(0)
    network, inputs = nn.Linear(64, 3), torch.randn(5, 64)
    exact = network(inputs)
    with bfloat16_passes(network, torch.device("cpu")):
        found = network(inputs)
        assert (inputs @ inputs.T).dtype == torch.float32, "only the network's own"
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)
    assert torch.equal(network(inputs), exact), "as before after it"


def test_what_is_no_tensor_comes_through_as_it_is():
    class Pair(nn.Module):
        def forward(self, inputs):
            return inputs, inputs

    network = Pair()
    with bfloat16_passes(network, torch.device("cpu")):
        assert isinstance(network(torch.ones(1)), tuple)


def test_gradcam_sums_in_float32_what_passes_give_in_bfloat16():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 16, 3))
    inputs, targets = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    exact = METHODS["gradcam"](network, inputs, targets, layer="1")
    with bfloat16_passes(network, torch.device("cpu")):
        found = METHODS["gradcam"](network, inputs, targets, layer="1")
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float()), "no sum was rounded to 8 bits"
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.02 * exact.abs().max().item())
