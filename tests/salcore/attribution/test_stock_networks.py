"""Every method on torchvision's networks as they come: a finite map, or one line that says what would work."""

import pytest
import torch

from salcore.attribution import METHODS
from salcore.models import build
from salcore.seeds import forked
from salcore.spec import ModelSpec
from tests.needed import needed

SIDES = {
    **dict.fromkeys(("resnet18", "vgg19", "small_cnn", "small_vit", "vit_b_16"), 32),
    **dict.fromkeys(
        ("resnet50", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "swin_t"), 64
    ),
}
TRANSFORMERS = {"vit_b_16", "swin_t", "small_vit"}
CHEAP = {
    "smoothgrad": {"num_samples": 2},
    "integrated_gradients": {"num_steps": 2},
    "deepshap": {"num_baselines": 2},
    "gradient_shap": {"num_samples": 2},
    "kernel_shap": {"num_superpixels": 4, "num_samples": 14},
    "lime": {"num_superpixels": 4, "num_samples": 8, "penalty": "ridge"},
    "gradcam": {},
}
MIDDLE = {"resnet18": "layer3", "vgg19": "features.26", "densenet121": "features.denseblock2"}
"""Layers with more than one pixel, where the last one has a single pixel at this size."""


@pytest.fixture(params=SIDES, scope="module")
def stock(request):
    with forked(0):
        model = build(ModelSpec(name=request.param), input_shape=(3,) + (SIDES[request.param],) * 2, classes=5)
    for parameter in model.parameters():
        if not parameter.any():  # torchvision starts the last layer of a ViT at zero: no gradient passes it
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
    return request.param, model.eval()


def refused(method, name):
    """Whether a network of this kind cannot be explained by the method at all."""
    return {
        "deeplift": name in TRANSFORMERS,
        "deepshap": name in TRANSFORMERS,
        "gradcam": name in {"vit_b_16", "small_vit"},
        "attention_rollout": name not in {"vit_b_16", "small_vit"},
        "generic_attention": name not in {"vit_b_16", "small_vit"},
    }.get(method, False)


@pytest.mark.parametrize("method", METHODS)
def test_a_stock_network_gets_its_map_or_a_line_of_advice(stock, method):
    name, model = stock
    side = SIDES[name]
    inputs = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    settings = CHEAP.get(method, {}) | needed(method, model)
    if method == "gradcam" and name in MIDDLE:
        settings = {"layer": MIDDLE[name]}
    if refused(method, name):
        with pytest.raises(ValueError, match=r"integrated_gradients|generic_attention") as error:
            METHODS[method](model, inputs, torch.tensor([0, 3]), **settings)
        assert "\n" not in str(error.value)
        return
    maps = METHODS[method](model, inputs, torch.tensor([0, 3]), **settings)
    assert maps.shape in [(2, 3, side, side), (2, 1, side, side)]
    assert maps.isfinite().all()
    assert maps.abs().max() > 0
