"""Maps lie where they should: they turn and move with the image, and follow an object that is pasted elsewhere."""

import pytest
import torch
from torch import nn

from salcore.attribution import METHODS
from salcore.seeds import forked
from tests.needed import needed

SIDE, CLASSES = 12, 3
EQUIVARIANT = {
    "gradient": {},
    "input_x_gradient": {},
    "integrated_gradients": {"num_steps": 8},
    "gradcam": {"layer": "0"},
    "deeplift": {},
    "deepshap": {"baselines": "mean"},
    "gradient_shap": {"baselines": "zero", "num_samples": 4},
    "kernel_shap": {"num_superpixels": 9, "num_samples": 510},
}
"""Methods that draw nothing that has a place in the image."""
FOLLOWING = EQUIVARIANT | {"smoothgrad": {"num_samples": 32}, "lime": {"num_superpixels": 36, "num_samples": 400}}


@pytest.fixture
def symmetric():
    """Periodic convolutions with mirrored filters and a mean over pixels: it treats all places and both sides alike."""
    with forked(2):
        layers = [nn.Conv2d(2, 5, 3, padding=1, padding_mode="circular"), nn.Softplus()]
        layers += [nn.Conv2d(5, 4, 3, padding=1, padding_mode="circular"), nn.GELU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)]
        model = nn.Sequential(*layers).double()
    for layer in (model[0], model[2]):
        layer.weight.data = (layer.weight.data + layer.weight.data.flip(3)) / 2
    return model


def images():
    inputs = torch.randn(3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return inputs, torch.arange(3)


@pytest.mark.parametrize(("name", "settings"), [*EQUIVARIANT.items(), ("input_space_saliency", {})])
@pytest.mark.parametrize("move", [lambda x: x.flip(3), lambda x: x.roll((4, 8), (2, 3))], ids=["mirror", "shift"])
def test_the_map_turns_and_moves_with_the_image(symmetric, name, settings, move):
    inputs, targets = images()
    settings = settings | needed(name, symmetric)
    still = METHODS[name](symmetric, inputs, targets, **settings)
    moved = METHODS[name](symmetric, move(inputs), targets, **settings)
    torch.testing.assert_close(moved, move(still), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(moved, still, rtol=1e-2)


class Finder(nn.Module):
    """Looks for one pattern anywhere: the logit of class 0 grows with how well some place matches, class 1 is flat."""

    def __init__(self, pattern):
        super().__init__()
        self.match = nn.Conv2d(1, 1, pattern.shape[-1], bias=False)
        self.match.weight.data = pattern - pattern.mean()
        self.act = nn.ReLU()

    def forward(self, x):
        found = self.act(self.match(x)).square().mean((1, 2, 3))
        return torch.stack([found, torch.zeros_like(found) * found], 1)


@pytest.mark.parametrize(("name", "settings"), FOLLOWING.items())
def test_the_map_follows_the_object(name, settings):
    pattern = torch.tensor([[0.0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]]).double()[None, None]
    model = Finder(pattern)
    settings = {"layer": "act"} if name == "gradcam" else settings
    for row, column in ((0, 0), (2, 7), (8, 4), (8, 8)):
        image = 0.02 * torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        image[:, :, row : row + 4, column : column + 4] += pattern
        size = METHODS[name](model, image, torch.zeros(1).long(), **settings).abs()[0, 0]
        on_object = size[row : row + 4, column : column + 4].mean()
        assert on_object > 3 * (size.sum() - on_object * 16) / (SIDE**2 - 16), (name, row, column)
