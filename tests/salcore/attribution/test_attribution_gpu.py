"""The GPU gives what the CPU gives: methods follow the model, and draws do not depend on the device."""

from types import SimpleNamespace

import pytest
import torch

from salcore.attribution import COMPLETE, METHODS
from salcore.models import build
from salcore.padding import bound
from salcore.seeds import forked, generator
from tests import objectives
from tests.needed import needed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CHEAP = {
    "smoothgrad": {"num_samples": 4},
    "integrated_gradients": {"num_steps": 4},
    "deepshap": {"num_baselines": 3},
    "gradient_shap": {"num_samples": 4},
    "kernel_shap": {"num_superpixels": 4},
    "lime": {"num_superpixels": 4, "num_samples": 16},
}


def network(name="gradient"):
    kind, settings = "small_cnn", {"width": 6, "norm": "batch"}
    if "attention" in name:
        kind, settings = "small_vit", {"width": 8, "depth": 2}
    with forked(0):
        spec = SimpleNamespace(name=kind, weights=None, settings=settings)
        return build(spec, input_shape=(2, 8, 8), classes=5).double()


def batch():
    return torch.randn(7, 2, 8, 8, generator=generator(1), dtype=torch.float64), torch.arange(7) % 5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tensors_on", ["cpu", "cuda"])
def test_maps_are_those_of_the_cpu_wherever_the_callers_tensors_are(name, tensors_on):
    model, (inputs, targets) = network(name), batch()
    settings = CHEAP.get(name, {}) | needed(name, model)
    expected = METHODS[name](model, inputs, targets, **settings)
    model.cuda()
    maps = METHODS[name](model, inputs.to(tensors_on), targets.to(tensors_on), **settings)
    assert maps.device.type == "cuda"
    torch.testing.assert_close(maps.cpu(), expected, rtol=1e-9, atol=1e-11)
    if name in COMPLETE:
        assert COMPLETE[name](model, inputs, targets, maps, **settings).device.type == "cuda"


@pytest.mark.parametrize("name", METHODS)
def test_targets_out_of_range_are_named_and_the_device_stays_usable(name):
    (inputs, _), model = batch(), network(name).cuda()
    settings = CHEAP.get(name, {}) | needed(name, model)
    with pytest.raises(ValueError, match="`targets`"):
        METHODS[name](model, inputs.cuda(), torch.full((7,), 5, device="cuda"), **settings)
    assert torch.ones(2, device="cuda").sum().item() == 2


@pytest.mark.parametrize("name", objectives.PLAIN)
@pytest.mark.parametrize("draws_on", ["cpu", "cuda"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_objectives_take_a_generator_of_either_device_and_never_wait(name, draws_on, mode):
    model, (inputs, labels) = network().cuda().train(), batch()
    inputs, labels = inputs.cuda(), labels.cuda()
    guidance = SimpleNamespace(
        mask_fraction=0.5, weight=1.0, ranking="signed", of="logit", mode=mode, fill="uniform", detach_target=False
    )
    torch.cuda.set_sync_debug_mode("error" if draws_on == "cuda" else "default")
    try:
        draws = generator(0, device=draws_on)
        loss = objectives.loss(name, model, inputs, labels, guidance=guidance, generator=draws)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


@pytest.mark.parametrize("name", ["lstm", "input_cell_lstm", "tcn", "transformer", "bilstm"])
@pytest.mark.parametrize("method", ["gradient", "deeplift"])
def test_padded_sequences_have_the_maps_of_the_cpu(name, method):
    """Recurrent layers in evaluation mode among them, whose backward pass cuDNN refuses."""
    if method == "deeplift" and name in ("input_cell_lstm", "transformer"):
        pytest.skip("softmax has no rule")
    with forked(0):
        spec = SimpleNamespace(name=name, weights=None, settings={})
        model = build(spec, input_shape=(10, 10), classes=5).double().eval()
    inputs, targets = batch()[0].flatten(1)[:, :100].view(7, 10, 10), torch.arange(7) % 5
    valid = torch.arange(10) < torch.tensor([10, 1, 4, 10, 7, 2, 9])[:, None]
    expected = METHODS[method](bound(model, valid), inputs, targets)
    maps = METHODS[method](bound(model, valid).cuda(), inputs, targets)
    torch.testing.assert_close(maps.cpu(), expected, rtol=1e-9, atol=1e-11)
