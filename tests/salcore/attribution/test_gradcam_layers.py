"""GradCAM's default layer on torchvision's families and on networks as users write them, and layers in between."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from salcore.attribution.gradcam import gradcam, top_layer
from salcore.models import build
from salcore.seeds import forked, generator
from salcore.spec import ModelSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum.attr import LayerAttribution, LayerGradCam


def network(name, shape, **settings):
    with forked(0):
        return build(ModelSpec(name=name, **settings), input_shape=shape, classes=5).eval()


def images(shape, count=2):
    return torch.randn(count, *shape, generator=generator(1), dtype=torch.float64), torch.arange(count) % 5


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


TOP = {
    ("small_cnn", 28): ("features", 14),
    ("mnist_cnn", 28): ("relu2", 24),
    ("resnet18", 64): ("layer4", 2),
    ("resnet50", 64): ("layer4", 2),
    ("resnext50_32x4d", 64): ("layer4", 2),
    ("vgg19", 32): ("features.35", 2),
    ("vgg19", 112): ("features.35", 7),  # where pooling to 7 x 7 gives the size of the map before the last pooling
    ("vgg19_bn", 64): ("features.51", 4),
    ("alexnet", 64): ("features.11", 3),
    ("squeezenet1_1", 64): ("classifier.2", 3),
    ("densenet121", 64): ("features", 2),
    ("googlenet", 64): ("inception5b", 2),
    ("mobilenet_v3_small", 64): ("features", 2),
    ("mobilenet_v3_large", 64): ("features", 2),
    ("efficientnet_b0", 64): ("features", 2),
    ("shufflenet_v2_x1_0", 64): ("conv5", 2),
    ("mnasnet1_0", 64): ("layers", 2),
    ("convnext_tiny", 64): ("features", 2),
    ("swin_t", 64): ("permute", 2),
    ("swin_v2_t", 64): ("permute", 2),
    ("maxvit_t", 224): ("blocks.3", 7),
}


@pytest.mark.parametrize(("name", "size"), TOP)
def test_the_top_layer_is_the_last_map(name, size):
    """On the meta device, where a network costs nothing; the map's side is that of what the layer really puts out."""
    with torch.device("meta"):
        model = network(name, (3, size, size))
        inputs, sides = torch.zeros(2, 3, size, size), []
        layer, side = TOP[name, size]
        assert top_layer(model, inputs) == layer
        model.get_submodule(layer).register_forward_hook(lambda module, given, output: sides.append(output.shape[2:]))
        model(inputs)
    assert sides == [(side, side)]


@pytest.mark.parametrize(("name", "layer"), [("vit_b_16", "conv_proj"), ("small_vit", "patches")])
def test_a_network_of_tokens_is_refused_unless_its_layer_is_named(name, layer):
    model = network(name, (3, 32, 32))
    if name == "vit_b_16":
        with forked(1):  # torchvision starts it at zero, where no logit depends on anything
            nn.init.normal_(model.heads.head.weight)
    inputs, targets = images((3, 32, 32))
    words = f"^`model`: .*tokens after '{layer}'.*`layer`.*generic_attention or attention_rollout$"
    with pytest.raises(ValueError, match=words):
        gradcam(model, inputs, targets)
    maps = gradcam(model, inputs, targets, layer=layer)
    assert maps.shape == (2, 1, 32, 32)
    assert maps.abs().max() > 0


def test_a_network_without_convolutions_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with pytest.raises(ValueError, match="`model`: expected a two-dimensional convolution"):
        gradcam(model, *images((3, 4, 4)))


@pytest.mark.parametrize(("name", "layer"), [("swin_t", "permute"), ("mobilenet_v3_small", "features")])
def test_a_top_map_of_one_pixel_is_refused_with_the_layers_that_have_more(name, layer):
    model = network(name, (3, 32, 32))
    with pytest.raises(
        ValueError, match=rf"^`layer`: .* \(2 x 2\), .* \(4 x 4\), .*got '{layer}' whose output is 1 x 1"
    ):
        gradcam(model, *images((3, 32, 32)))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet50", ["layer3", "layer4.0.conv2", None]),
        ("densenet121", ["features.transition2", "features.denseblock3.denselayer1.conv1"]),
        ("mobilenet_v3_small", ["features.4", None]),
        ("convnext_tiny", ["features.3", "features.7.1.block.0", None]),
        ("googlenet", ["inception4a.branch2", None]),
    ],
)
def test_captum_agrees_at_the_top_and_in_between(name, layers):
    model, shape = network(name, (3, 64, 64)).double(), (3, 64, 64)
    inputs, targets = images(shape)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # Captum keeps the very tensor that the next layer would overwrite
    for layer in layers:
        module = model.get_submodule(layer or top_layer(model, inputs))
        small = LayerGradCam(model, module).attribute(inputs, target=targets)
        expected = LayerAttribution.interpolate(small, shape[1:], interpolate_mode="bilinear").detach()
        close(gradcam(model, inputs, targets, layer=layer), expected)
        assert expected.abs().max() > 0


def test_a_layer_with_the_channels_last_is_turned():
    """Swin's last norm puts out (N, h, w, C), and the permutation after it the same as (N, C, h, w)."""
    model, (inputs, targets) = network("swin_t", (3, 64, 64)).double(), images((3, 64, 64))
    close(gradcam(model, inputs, targets, layer="norm"), gradcam(model, inputs, targets))
    taken = []
    handle = model.features[5].register_forward_hook(lambda module, given, output: taken.append(output))
    selected = model(inputs).gather(1, targets[:, None]).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(selected, taken)
    expected = (gradient.mean((1, 2), keepdim=True) * taken[0].detach()).sum(3)[:, None]
    assert expected.shape == (2, 1, 4, 4)
    expected = functional.interpolate(expected, (64, 64), mode="bilinear")
    close(gradcam(model, inputs, targets, layer="features.5"), expected)


def convolutions(*widths):
    pairs = zip((3, *widths), widths, strict=False)
    return [nn.Conv2d(before, after, 3, padding=1) for before, after in pairs]


class Gated(nn.Module):
    """Squeeze-excitation with linear layers, as tutorials write it: its pooling is run after the last convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.pool, self.gate = nn.Conv2d(3, width, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Linear(width, width)

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(self.pool(x).flatten(1)).sigmoid()[:, :, None, None]


class Spatially(nn.Module):
    """Spatial attention (CBAM): the last convolution puts out one channel, which weights the others."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.look = nn.Conv2d(3, width, 3, 2), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x * self.look(torch.stack([x.mean(1), x.amax(1)], 1)).sigmoid()


class Functional(nn.Module):
    """No pooling is a module, and what comes after it has another size."""

    def __init__(self):
        super().__init__()
        self.one, self.two = convolutions(4, 6)
        self.drop, self.head = nn.Dropout2d(), nn.Linear(6, 5)

    def forward(self, x):
        x = functional.max_pool2d(self.one(x).relu(), 2)
        return self.head(self.drop(functional.max_pool2d(self.two(x).relu(), 2)).mean((2, 3)))


class ChannelsLast(nn.Module):
    """A convolution, then linear layers and a norm over (N, h, w, C); turned back at the end, or not."""

    def __init__(self, width, turned):
        super().__init__()
        self.conv, self.turned = nn.Conv2d(3, width, 2, 2), turned
        self.mix, self.act, self.norm = nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)
        self.back, self.head = nn.Identity(), nn.Linear(width, 5)

    def forward(self, x):
        x = self.norm(self.act(self.mix(self.conv(x).permute(0, 2, 3, 1))))
        return self.head(self.back(x.permute(0, 3, 1, 2)).mean((2, 3)) if self.turned else x.mean((1, 2)))


def headed(*layers, width):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


@pytest.mark.parametrize(
    ("model", "layer", "side"),
    [
        (headed(Gated(4), nn.ReLU(), width=4), "1", 7),
        (nn.Sequential(Gated(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 5)), "1", 7),
        (headed(Spatially(4), nn.ReLU(), width=4), "1", 7),
        (nn.Sequential(Spatially(4), nn.Flatten(), nn.Linear(196, 5)), "0", 7),
        (Functional(), "two", 8),
        (headed(*convolutions(4, 6), nn.BatchNorm2d(6), nn.MaxPool2d(3, 1, 1), nn.ReLU(), width=6), "2", 16),
        (headed(*convolutions(4, 6), nn.MaxPool2d(4), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Dropout(), width=4), "5", 4),
        (nn.Sequential(*convolutions(4, 6), nn.Flatten(), nn.Linear(6 * 256, 5)), "1", 16),
        (ChannelsLast(6, turned=True), "back", 8),
        (ChannelsLast(8, turned=True), "back", 8),  # 8 x 8 x 8: nothing tells the axes apart
    ],
    ids=[
        "gate, pooling",
        "gate, no pooling",
        "spatial attention, pooling",
        "spatial attention, no pooling",
        "functions",
        "pooling that keeps the size",
        "pooling in between",
        "no pooling",
        "channels last and back",
        "as many channels as rows",
    ],
)
def test_the_top_layer_of_networks_as_users_write_them(model, layer, side):
    inputs, sides = torch.zeros(1, 3, 16, 16), []
    assert top_layer(model.eval(), inputs) == layer
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: sides.append(tuple(call[2].shape[2:])))
    model(inputs)
    handle.remove()
    assert sides == [(side, side)]


def test_maps_that_end_with_the_channels_last_have_no_default():
    model, (inputs, targets) = ChannelsLast(6, turned=False).double(), images((3, 16, 16))
    with pytest.raises(ValueError, match=r"tokens after 'conv'.*`layer`"):
        gradcam(model, inputs, targets)
    turned = ChannelsLast(6, turned=True).double()
    turned.load_state_dict(model.state_dict())
    close(gradcam(model, inputs, targets, layer="norm"), gradcam(turned, inputs, targets))


def test_a_mistyped_layer_is_answered_with_the_nearest_names():
    model, (inputs, targets) = network("convnext_tiny", (3, 32, 32)), images((3, 32, 32))
    with pytest.raises(ValueError, match=r"`layer`.*nearest: features\.7\.\d.*got 'features.7.9'"):
        gradcam(model, inputs, targets, layer="features.7.9")


class Cubic(nn.Module):
    """A layer-norm block on (N, 8, 8, 8), the very shape of the patch embedding's (N, C, h, w)."""

    def __init__(self):
        super().__init__()
        with forked(0):
            self.patches, self.norm, self.layer = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.layer(self.norm(self.patches(x).permute(0, 2, 3, 1))).relu().mean((1, 2)))


def test_a_layer_whose_channels_look_like_its_pixels_is_refused():
    with pytest.raises(ValueError, match=r"`layer`.*channels can be told from its pixels, got 'layer'"):
        gradcam(Cubic(), torch.randn(2, 3, 32, 32), torch.zeros(2).long(), layer="layer")


class Twice(nn.Module):
    """Runs its convolution on each image and its mirror image together."""

    def __init__(self):
        super().__init__()
        with forked(0):
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        both = self.head(self.conv(torch.cat([x, x.flip(3)])).relu().mean((2, 3)))
        return both[: len(x)] + both[len(x) :]


def test_a_layer_that_sees_more_images_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"`layer`.*a map for each input, got 'conv' with 4"):
        gradcam(Twice(), torch.randn(2, 3, 16, 16), torch.zeros(2).long(), layer="conv")
