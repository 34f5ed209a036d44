"""Quick convolutions: what torch's own give, of every geometry, and only stock networks have them."""

from itertools import product

import pytest
import torch
from torch import nn

from salcore.calls import Calls
from salcore.models import build
from salcore.models.quick import QuickConv2d, QuickFlatten, as_built, channels_last, quick
from salcore.seeds import forked
from salcore.spec import ModelSpec

SIDES = (1, 2, 3, 5)
GEOMETRIES = [
    {"kernel_size": (rows, columns), "padding": padding, "stride": stride}
    for rows, columns, padding, stride in product((1, 3, 5), (3, 4), ((0, 0), (1, 1), (2, 1)), (1, 2))
]
OTHERS = [
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 3, "padding": 1, "bias": False},
]


def pair(settings, channels=4):
    """torch's convolution and a quick one with its weights, both in float64."""
    with forked(0):
        plain, other = (make(channels, 6, **settings).double() for make in (nn.Conv2d, QuickConv2d))
    other.load_state_dict(plain.state_dict())
    return plain, other


def gradients(layer, inputs):
    """The output, and the gradients of a weighted sum of it by the inputs and by every parameter."""
    inputs = inputs.clone().requires_grad_()
    output = layer(inputs)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    return output, *torch.autograd.grad((output * weights).sum(), [inputs, *layer.parameters()])


def same(plain, other, inputs):
    try:
        expected = gradients(plain, inputs)
    except RuntimeError as error:  # a window larger than the image
        with pytest.raises(RuntimeError, match=str(error).split(".")[0].split("(")[0]):
            other(inputs)
        return
    for found, known in zip(gradients(other, inputs), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", GEOMETRIES, ids=str)
def test_output_and_gradients_are_those_of_torch_at_every_size(settings):
    plain, other = pair(settings)
    for rows, columns in product(SIDES, SIDES):
        same(plain, other, torch.randn(3, 4, rows, columns, dtype=torch.float64))


@pytest.mark.parametrize("settings", OTHERS, ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_geometries_without_a_shortcut_are_those_of_torch_as_well(settings, side):
    same(*pair(settings), torch.randn(3, 4, side, side, dtype=torch.float64))


def test_one_image_without_a_batch_is_taken_as_torch_takes_it():
    plain, other = pair({"kernel_size": 3, "padding": 1})
    same(plain, other, torch.randn(4, 1, 1, dtype=torch.float64))


def test_one_channel_is_taken():
    plain, other = pair({"kernel_size": 3, "padding": 1}, channels=1)
    same(plain, other, torch.randn(3, 1, 7, 5, dtype=torch.float64))


def calls(network, inputs):
    """How many convolutions and linear layers a network calls."""
    counts = {"conv2d": 0, "linear": 0}

    def counted(name):
        def rule(function, arguments, keywords):
            counts[name] += 1
            return function(*arguments, **keywords)

        return rule

    with Calls({name: counted(name) for name in counts}):
        network(inputs)
    return counts


@pytest.mark.parametrize(
    ("side", "padding", "stride", "shortcut"),
    [(1, 1, 1, True), (2, 1, 2, True), (2, 1, 1, False), (1, 2, 1, False), (3, 0, 1, False), (3, 1, 3, False)],
)
def test_only_where_one_pixel_is_left_the_taps_outside_are_left_out(side, padding, stride, shortcut):
    layer = QuickConv2d(4, 6, 3, padding=padding, stride=stride)
    found = calls(layer, torch.randn(2, 4, side, side))
    assert found == {"conv2d": int(not shortcut), "linear": int(shortcut)}


@pytest.fixture
def resnet():
    spec = ModelSpec(name="resnet18")
    with forked(1):
        return spec, build(spec, input_shape=(3, 32, 32), classes=10).double().eval()


def test_a_resnet_at_32_pixels_has_four_shortcuts_and_the_same_gradients(resnet):
    spec, network = resnet
    inputs = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected, names = gradients(network, inputs), [*network.state_dict()]
    assert quick(network, spec) is network
    assert calls(network, inputs) == {"conv2d": 16, "linear": 5}
    for found, known in zip(gradients(network, inputs), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-12)
    assert [*network.state_dict()] == names


def test_activations_have_their_channels_innermost(resnet):
    spec, network = resnet
    strides = []
    network.layer1.register_forward_hook(lambda module, inputs, output: strides.append(output.stride()))
    network(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    quick(network, spec)(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert [found[1] for found in strides] == [64, 1]


def test_gradients_come_back_from_a_linear_layer_channels_last():
    """To the pooling before it, in whose own order they would else not be."""
    spec = ModelSpec(name="mnist_cnn")
    with forked(2):
        network = build(spec, input_shape=(1, 8, 8), classes=3).eval()
    inputs, strides = torch.randn(2, 1, 8, 8), []
    network.pool.register_full_backward_hook(lambda module, before, after: strides.append(after[0].stride()))
    expected = gradients(network, inputs)
    for found, known in zip(gradients(quick(network, spec), inputs), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)
    assert [found[1] for found in strides] == [4, 1]


def test_flattening_takes_what_is_no_image_or_wants_no_gradient():
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        inputs = torch.randn(*shape, requires_grad=len(shape) < 4)
        assert torch.equal(QuickFlatten()(inputs), inputs.flatten(1))


def test_weights_stay_as_they_were_laid_out(resnet):
    spec, network = resnet
    assert all(value.is_contiguous() for value in quick(network, spec).state_dict().values())


def test_as_built_it_is_torchs_own_inside_the_block_alone(resnet):
    spec, network = resnet
    quick(network, spec)
    with as_built(network):
        assert type(network.conv1) is nn.Conv2d
    assert type(network.conv1) is QuickConv2d
    with pytest.raises(RuntimeError, match="expected input"), as_built(network):
        network(torch.zeros(1, 7, 32, 32, dtype=torch.float64))
    assert type(network.conv1) is QuickConv2d


def viewing(*, input_shape, classes):
    """A user's network that views its activations, which only torch's default order allows."""

    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(input_shape[0], 4, 3, padding=1)
            self.linear = nn.Linear(4 * input_shape[1] * input_shape[2], classes)

        def forward(self, inputs):
            return self.linear(self.convolution(inputs).view(len(inputs), -1))

    return Viewing()


def test_a_users_network_is_left_alone():
    spec = ModelSpec(name=f"python:{viewing.__module__}:viewing")
    network = quick(build(spec, input_shape=(3, 6, 6), classes=2), spec)
    assert type(network.convolution) is nn.Conv2d
    assert network(torch.randn(2, 3, 6, 6)).shape == (2, 2)
    with pytest.raises(RuntimeError, match="view"):
        network(channels_last(torch.randn(2, 3, 6, 6)))
