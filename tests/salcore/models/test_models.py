"""Networks: shapes, what makes them linear, what they refuse, and in which words."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from salcore.errors import UserError
from salcore.models import BY_KIND, MODELS, build, builder, check
from salcore.seeds import forked
from salcore.settings import settings_of
from salcore.spec import ModelSpec


def make(name, shape=(1, 28, 28), classes=10, **settings):
    with forked(0):
        return build(ModelSpec(name=name, **settings), input_shape=shape, classes=classes)


def logits(network, shape, train=False, samples=3):
    with torch.no_grad():
        return network.train(train)(torch.rand(samples, *shape))


@pytest.mark.parametrize("name", BY_KIND["images"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 8, 12)])
def test_every_model_gives_logits_for_every_shape(name, shape):
    check(ModelSpec(name=name), shape, 7)
    assert logits(make(name, shape, 7), shape).shape == (3, 7)


@pytest.mark.parametrize("name", BY_KIND["images"])
def test_outputs_are_logits_and_not_probabilities(name):
    output = logits(make(name), (1, 28, 28))
    assert not torch.allclose(output.exp().sum(1), torch.ones(3)), "log-probabilities"
    assert not torch.allclose(output.sum(1), torch.ones(3)), "probabilities"


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("pooling", ["average", "none", "max"])
def test_small_cnn_without_nonlinearity_is_affine_unless_it_takes_maxima(depth, pooling):
    network = make("small_cnn", (2, 8, 8), depth=depth, activation=False, pooling=pooling, width=3).double()
    a, b, zero = torch.randn(5, 2, 8, 8).double(), torch.randn(5, 2, 8, 8).double(), torch.zeros(5, 2, 8, 8).double()
    with torch.no_grad():
        defect = (network(a + 2 * b) - network(a) - 2 * network(b) + 2 * network(zero)).abs().max()
    affine = pooling != "max" or depth == 1  # pooling stands between layers, so one layer has none
    assert (defect < 1e-12) == affine


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_small_cnn_has_the_layers_that_it_is_asked_for(depth):
    network = make("small_cnn", depth=depth, width=5, norm="batch", pooling="max", dropout=0.25)
    kinds = [type(module) for module in network.modules()]
    counts = [kinds.count(kind) for kind in (nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d, nn.Dropout)]
    assert counts == [depth, depth, depth, depth - 1, 1]
    assert all(conv.out_channels == 5 for conv in network.modules() if isinstance(conv, nn.Conv2d))


def test_mnist_cnn_is_as_published():
    shapes = [tuple(parameter.shape) for parameter in make("mnist_cnn").parameters() if parameter.ndim > 1]
    assert shapes == [(32, 1, 3, 3), (64, 32, 3, 3), (128, 9216), (10, 128)]
    assert [module.p for module in make("mnist_cnn").modules() if isinstance(module, nn.Dropout)] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("resnet18", 1, 28),
        ("resnet18", 3, 32),
        ("squeezenet1_1", 3, 32),
        ("googlenet", 1, 32),
        ("mobilenet_v3_small", 5, 32),
        ("swin_t", 1, 28),
        ("regnet_y_400mf", 1, 28),
    ],
)
@pytest.mark.filterwarnings("error")
def test_torchvision_adapts_to_channels_and_classes_in_both_modes(name, channels, size):
    shape = (channels, size, size)
    check(ModelSpec(name=name), shape, 7)
    network = make(name, shape, 7)
    for train in (True, False):
        output = logits(network, shape, train)
        assert isinstance(output, torch.Tensor), "an auxiliary output came along"
        assert output.shape == (3, 7)


@pytest.mark.parametrize(
    ("name", "size", "smallest"),
    [
        ("vgg11", 31, "32 or more, the smallest square that vgg11 takes, got '31 x 31'"),
        ("alexnet", 32, "63 or more"),
        ("inception_v3", 32, "75 or more"),
        ("mnist_cnn", 5, "6 or more"),
        ("small_cnn", 3, "4 or more"),
        ("vit_b_16", 28, "such as 16 (its smallest) or 32"),
        ("vit_b_16", 8, "16 or more"),
    ],
)
def test_a_size_that_is_not_taken_is_refused_with_the_smallest_that_is(name, size, smallest):
    with pytest.raises(UserError) as error:
        check(ModelSpec(name=name, **({"depth": 3} if name == "small_cnn" else {})), (1, size, size), 10)
    assert error.value.key == "data.image_size"
    assert smallest in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "smallest"), [("squeezenet1_1", 17), ("mnist_cnn", 6)])
def test_the_smallest_size_named_is_the_smallest_by_really_running(name, smallest):
    """Found on the meta device; here with numbers on the CPU."""
    with pytest.raises(UserError, match=f"{smallest} or more"):
        check(ModelSpec(name=name), (3, smallest - 1, smallest - 1), 4)
    shape = (3, smallest, smallest)
    assert logits(make(name, shape, 4), shape, train=True).shape == (3, 4)
    with pytest.raises((RuntimeError, ValueError)):
        logits(make(name, (3, smallest - 1, smallest - 1), 4), (3, smallest - 1, smallest - 1))


def test_instance_norm_over_one_pixel_is_refused():
    check(ModelSpec(name="resnet18", norm="instance"), (3, 33, 33), 10)
    with pytest.raises(UserError, match="33 or more"):
        check(ModelSpec(name="resnet18", norm="instance"), (3, 32, 32), 10)


def test_check_moves_no_random_numbers():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check(ModelSpec(name="small_cnn", dropout=0.5), (1, 8, 8), 10)
    check(ModelSpec(name="regnet_y_400mf"), (1, 32, 32), 10)
    assert torch.equal(before, torch.get_rng_state())


def test_he_initialisation_has_the_variance_of_the_paper():
    network = make("squeezenet1_1", (3, 32, 32), initialization="he")
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        expected = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert not conv.bias.any()


def test_softplus_and_instance_norm_replace_every_module():
    network = make("resnet18", (1, 64, 64), activation="softplus", norm="instance")
    kinds = {type(module) for module in network.modules()}
    assert {nn.Softplus, nn.InstanceNorm2d} <= kinds
    assert not {nn.ReLU, nn.BatchNorm2d} & kinds
    assert all(module.affine for module in network.modules() if isinstance(module, nn.InstanceNorm2d))
    assert logits(network, (1, 64, 64)).shape == (3, 10)


def test_a_network_with_softplus_is_smooth():
    """A network with ReLUs alone is piecewise linear: its second derivative along a line is 0 nearly everywhere."""
    network = make("squeezenet1_1", (1, 32, 32), activation="softplus").double().eval()
    image, direction = torch.rand(1, 1, 32, 32).double(), torch.randn(1, 1, 32, 32).double()
    values = torch.stack([network(image + step * direction)[0, 0] for step in (-1e-2, 0, 1e-2)])
    assert (values[0] - 2 * values[1] + values[2]).abs() > 1e-14


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("densenet121", {"activation": "softplus"}, "model.activation"),
        ("googlenet", {"activation": "softplus"}, "model.activation"),
        ("vit_b_16", {"activation": "softplus"}, "model.activation"),
        ("vgg11", {"norm": "instance"}, "model.norm"),
    ],
)
def test_an_option_that_would_change_nothing_or_not_all_is_refused(name, settings, key):
    with pytest.raises(UserError) as error, torch.device("meta"):
        make(name, (3, 32, 32), **settings)
    assert error.value.key == key


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"widht": 4}, "model.widht", "nearest: width"),
        ({"width": 0}, "model.width", "a whole number of 1 or more"),
        ({"width": 2.5}, "model.width", "a whole number of 1 or more"),
        ({"width": True}, "model.width", "a whole number"),
        ({"depth": 5}, "model.depth", "a whole number from 1 to 4"),
        ({"activation": "relu"}, "model.activation", "true or false"),
        ({"pooling": "mean"}, "model.pooling", "'average' or 'max' or 'none'"),
        ({"dropout": 1.0}, "model.dropout", "a number from 0 to below 1"),
        ({"input_shape": 3}, "model.input_shape", "comes from the data"),
    ],
)
def test_settings_are_held_against_the_signature(settings, key, words):
    with pytest.raises(UserError, match=words) as error:
        make("small_cnn", **settings)
    assert error.value.key == key


@pytest.mark.parametrize("name", ["small_cmn", "resnet81", "", "python:", "python:math", "python:math:pi"])
def test_unknown_names_are_refused_in_one_line(name):
    with pytest.raises(UserError) as error:
        builder(name)
    assert error.value.key == "model.name"
    assert "\n" not in str(error.value)


def test_the_nearest_names_are_named():
    with pytest.raises(UserError, match="nearest: resnet18"):
        builder("resnet_18")


def test_torchvision_is_not_imported_for_our_own():
    code = (
        "import sys; from salcore.models import builder; builder('small_cnn'); sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_setting_has_a_type_and_a_default():
    for make_model in MODELS.values():
        for parameter in settings_of(make_model, reserved=("input_shape", "classes")).values():
            assert parameter.annotation is not parameter.empty
            assert parameter.default is not parameter.empty


USER_CODE = """
import torch
from torch import nn

def linear(*, input_shape, classes, bias=True):
    channels, rows, columns = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * rows * columns, classes, bias=bias))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Net(nn.Module):
    def __init__(self, hidden, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, classes))
    def forward(self, x):
        return self.layers(x)

class Pair(Net):
    def forward(self, x):
        y = self.layers(x)
        return (y, y) if self.training else y

class Broken(Net):
    def forward(self, x):
        raise OSError("no table")

def open_ended(**everything):
    assert set(everything) == {"input_shape", "classes", "extra"}
    return fixed()

def nothing():
    return "a network"
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module of the user's, importable from the working directory alone."""
    (tmp_path / "someones_nets.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "someones_nets", raising=False)
    yield "python:someones_nets"
    sys.modules.pop("someones_nets", None)


@pytest.mark.parametrize(
    ("function", "settings"),
    [("linear", {"bias": False}), ("fixed", {}), ("Net", {"hidden": 5}), ("open_ended", {"extra": 1})],
)
def test_a_users_function_or_class_is_called_with_what_it_takes(user_module, function, settings):
    spec = ModelSpec(name=f"{user_module}:{function}", **settings)
    check(spec, (1, 8, 8), 10)
    assert logits(build(spec, input_shape=(1, 8, 8), classes=10), (1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize(
    ("function", "settings", "key", "words"),
    [
        ("linear", {"biass": False}, "model.biass", "nearest: bias"),
        ("Net", {}, "model.hidden", "a value"),
        ("nothing", {}, "model.name", "torch.nn.Module, got 'str'"),
        ("Pair", {"hidden": 4}, "model.name", "type tuple"),
        ("fixed", {}, "model.name", r"logits \(2, 4\), got 'an output of shape \(2, 10\)'"),
        ("linnear", {}, "model.name", "nearest: linear"),
    ],
)
def test_a_users_mistake_is_one_line(user_module, function, settings, key, words):
    classes = 4
    with pytest.raises(UserError, match=words) as error:
        check(ModelSpec(name=f"{user_module}:{function}", **settings), (1, 8, 8), classes)
    assert error.value.key == key
    assert "\n" not in str(error.value)


def test_a_users_forward_that_fails_is_told_with_its_reason(user_module):
    with pytest.raises(UserError, match=r"RuntimeError: .*mat1 and mat2") as error:
        check(ModelSpec(name=f"{user_module}:fixed"), (1, 9, 9), 10)
    assert error.value.key == "model.name"
    assert isinstance(error.value.__cause__, RuntimeError)


def test_lazy_layers_draw_their_weights_where_all_others_do(user_module):
    spec = ModelSpec(name=f"{user_module}:Net", hidden=5)

    def weights(seed):
        with forked(seed):
            return build(spec, input_shape=(1, 8, 8), classes=10).layers[1].weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert build(spec, input_shape=(1, 8, 8), classes=10).layers[1].training


def test_lazy_layers_without_a_size_are_told(user_module):
    spec = ModelSpec(name=f"{user_module}:Broken", hidden=5)
    with pytest.raises(
        UserError, match=r"to take \(1, 64\), by which its lazy layers are sized, got 'OSError: no table"
    ):
        build(spec, input_shape=(64,), classes=10)
