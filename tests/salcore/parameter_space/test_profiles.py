"""Filter profiles: closed form, the laws of per-sample quantities, the table of filters, and what is refused."""

import gc
import weakref

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from salcore.parameter_space import FilterTable, Layer, filter_profiles, filter_table, kernel
from salcore.seeds import forked
from tests.salcore.parameter_space.networks import CLASSES, Net, conv, noise, one, slow


def test_single_precision_is_as_near_to_the_truth_as_autograd_itself():
    with forked(0):
        model = torchvision.models.resnet18(num_classes=CLASSES)
    inputs, labels = noise(3, 3, 64, 64).float(), torch.arange(3)
    exact = slow(model.double(), inputs.double(), labels, filter_table(model, inputs[:1]))
    profiles = filter_profiles(model.float(), inputs, labels)
    assert profiles.dtype == torch.float32
    norms = torch.linalg.vector_norm(exact, dim=1)
    assert bool((torch.linalg.vector_norm(profiles - exact, dim=1) < 1e-5 * norms).all())


def test_one_convolution_has_its_closed_form():
    """Logits w_k x of one pixel: the gradient by w_k is (p_k - [k = y]) x, of which the filter's mean is taken."""
    weight, x, labels = noise(CLASSES, 3, 1, 1), noise(4, 3, 1, 1, seed=1), torch.tensor([0, 1, 4, 4])
    model = nn.Sequential(nn.Conv2d(3, CLASSES, 1, bias=False), nn.Flatten()).double()
    model[0].weight.data = weight
    p = (x.flatten(1) @ weight.flatten(1).T).softmax(1)
    expected = (p - functional.one_hot(labels, CLASSES)).abs() * x.abs().mean((1, 2, 3))[:, None]
    torch.testing.assert_close(filter_profiles(model, x, labels), expected, rtol=1e-12, atol=0)


@pytest.fixture
def network():
    with forked(4):
        return Net(
            lambda m, x: m.norm(m.again(m.layer(x).relu())),
            layer=conv(),
            again=nn.Conv2d(4, 6, 3),
            norm=nn.BatchNorm2d(6),
        )


def test_a_profile_does_not_depend_on_the_batch_around_it(network):
    inputs, labels = noise(6, 4, 9, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    together = filter_profiles(network, inputs, labels)
    order = torch.tensor([5, 2, 0])
    torch.testing.assert_close(
        filter_profiles(network, inputs[order], labels[order]), together[order], rtol=1e-12, atol=0
    )
    others = inputs.clone()
    others[1:] = 100.0
    assert torch.equal(filter_profiles(network, others, labels)[0], together[0])


def test_profiles_of_nothing(network):
    assert filter_profiles(network, noise(0, 4, 9, 8), torch.zeros(0, dtype=torch.int64)).shape == (0, 10)


def test_profiles_are_the_same_in_every_mode_of_the_caller(network):
    inputs, labels = noise(3, 4, 9, 8), torch.arange(3)
    expected = filter_profiles(network, inputs, labels)
    with torch.no_grad():
        assert torch.equal(filter_profiles(network, inputs, labels), expected)
    with torch.inference_mode():
        assert torch.equal(filter_profiles(network, inputs.clone(), labels.int()), expected)
    assert not expected.requires_grad


def test_weights_that_need_no_gradient_count_too(network):
    inputs, labels = noise(3, 4, 9, 8), torch.arange(3)
    expected = filter_profiles(network, inputs, labels)
    assert torch.equal(filter_profiles(network.requires_grad_(False), inputs, labels), expected)


def state(model):
    return (
        [module.training for module in model.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        [parameter._backward_hooks for parameter in model.parameters()],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_inputs_are_left_as_they_were(network, fails):
    network.train()
    network.norm.eval()
    network.again.requires_grad_(False)
    inputs, labels = noise(3, 4, 9, 8), torch.arange(3)
    before, given = state(network), inputs.clone()
    if fails:
        with pytest.raises(ValueError, match="labels"):
            filter_profiles(network, inputs, labels + CLASSES)
    else:
        filter_profiles(network, inputs, labels)
    after = state(network)
    assert after[:2] + after[3:] == before[:2] + before[3:]
    assert all(torch.equal(after[2][name], value) for name, value in before[2].items())
    assert torch.equal(inputs, given)
    assert not inputs.requires_grad


def test_a_first_layer_in_place_does_not_write_to_the_callers_inputs():
    model = Net(lambda m, x: m.layer(x.relu_()), layer=conv())
    inputs = noise(3, 4, 9, 8)
    given = inputs.clone()
    filter_profiles(model, inputs, torch.arange(3))
    assert torch.equal(inputs, given)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_pass_stays_in_memory(network, fails, monkeypatch):
    kept = []
    handle = network.again.register_forward_hook(lambda module, given, output: kept.append(weakref.ref(output)))
    if fails:
        monkeypatch.setattr("salcore.parameter_space.profiles.filter_means", lambda uses, samples: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            filter_profiles(network, noise(3, 4, 9, 8), torch.arange(3))
    else:
        filter_profiles(network, noise(3, 4, 9, 8), torch.arange(3))
    handle.remove()
    gc.collect()
    assert [reference() for reference in kept] == [None]


def test_the_table_names_layers_in_parameter_order_and_their_depth_in_the_order_they_run():
    model = Net(
        lambda m, x: m.second(m.blur(functional.conv2d(x, m.kernel))),
        kernel=nn.Parameter(torch.randn(4, 4, 1, 1)),
        unused=conv(),
        second=nn.Conv2d(4, 2, 1),
        blur=conv(),
    )
    table = filter_table(model, noise(1, 4, 9, 8), linear=True)
    assert [(layer.name, layer.kind, layer.filters, layer.depth) for layer in table.layers] == [
        ("kernel", "convolution", 4, 0),
        ("unused", "convolution", 4, None),
        ("second", "convolution", 2, 2),
        ("blur", "convolution", 4, 1),
        ("head", "linear", CLASSES, 3),
    ]
    assert len(table) == 19
    assert table.slices()["second"] == slice(8, 10)
    columns = table.columns()
    assert [columns[name][9] for name in ("layer", "filter", "depth")] == ["second", 1, 2]


def test_a_table_fixes_the_columns_of_a_network_that_does_not_always_run_the_same():
    model = Net(
        lambda m, x: functional.conv2d(x, m.kernel if x.mean() > 0 else m.other),
        kernel=nn.Parameter(torch.randn(2, 4, 1, 1)),
        other=nn.Parameter(torch.randn(2, 4, 1, 1)),
    )
    high, low = torch.ones(2, 4, 9, 8).double(), -torch.ones(2, 4, 9, 8).double()
    labels = torch.arange(2)
    one, two = filter_table(model, high), filter_table(model, low)
    both = FilterTable(layers=(*one.layers, *two.layers))
    found = filter_profiles(model, low, labels, table=both)
    assert bool((found[:, :2] == 0).all())
    assert torch.equal(found[:, 2:], filter_profiles(model, low, labels))
    with pytest.raises(ValueError, match=r"`table`: .* without 'other'"):
        filter_profiles(model, low, labels, table=one)


def test_another_networks_table_is_refused(network):
    inputs, labels = noise(2, 4, 9, 8), torch.arange(2)
    table = filter_table(one(conv()), inputs)
    with pytest.raises(ValueError, match=r"`table`: .* without 'again'"):
        filter_profiles(network, inputs, labels, table=table)
    strange = Layer(name="strange", kind="convolution", shape=(1, 1, 1, 1), filters=1, depth=0)
    table = FilterTable(layers=(*filter_table(network, inputs).layers, strange))
    with pytest.raises(ValueError, match=r"`table`: .* with 'strange'"):
        filter_profiles(network, inputs, labels, table=table)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, self.weight - self.weight.mean())


REFUSED = {
    "no convolution": (lambda: Net(lambda m, x: x), "the output depends on, got none"),
    "none that counts": (lambda: Net(lambda m, x: x + 0 * m.layer(x).detach(), layer=conv()), "1 that it does not"),
    "a tuple": (lambda: Tuple(lambda m, x: m.layer(x), layer=conv()), "one tensor .*, got tuple"),
    "not finite": (lambda: Net(lambda m, x: m.layer(x) * float("nan"), layer=conv()), "finite loss .* nan for 0"),
    "computed filters": (lambda: one(nn.utils.parametrizations.weight_norm(conv())), "computed from 'layer.param.*rig"),
    "standardised filters": (lambda: one(Standardised(4, 2, 3)), "computed from 'layer.weight'"),
    "used otherwise": (lambda: Net(lambda m, x: m.layer(x) * m.layer.weight.norm(), layer=conv()), "'layer.weight'"),
    "used as its own input": (
        lambda: Net(lambda m, x: m.layer(x) + m.layer(m.layer.weight).sum(), layer=conv()),
        "layer",
    ),
    "mixed ways": (
        lambda: Net(lambda m, x: functional.conv_transpose2d(m.layer(x), m.layer.weight), layer=conv()),
        "in one way",
    ),
    "batch statistics": (
        lambda: Net(lambda m, x: m.norm(m.layer(x)), layer=conv(), norm=nn.BatchNorm2d(4, track_running_stats=False)),
        "without running statistics",
    ),
    "a picture of its own": (
        lambda: Net(lambda m, x: x + m.layer(torch.ones(1, 4, 9, 8).to(x)), layer=conv()),
        "one sample",
    ),
}


class Tuple(Net):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_wrong_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=f"`model`: expected .*{message}"):
        filter_profiles(build(), noise(3, 4, 9, 8), torch.arange(3))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, CLASSES], "classes from 0 to 4, got 0 to 5"),
        ([0, -1, 1], "got -1 to 1"),
        ([0, 1], r"one integer for each of the inputs \(3, 4, 9, 8\), got \(2,\)"),
        ([0.0, 1.0, 2.0], "got .* of torch.float32"),
    ],
)
def test_labels_that_are_no_classes_are_refused(network, labels, message):
    with pytest.raises(ValueError, match=f"`labels`: expected .*{message}"):
        filter_profiles(network, noise(3, 4, 9, 8), torch.tensor(labels))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)]
)
def test_tiles_stay_within_their_bytes(layer, monkeypatch):
    monkeypatch.setattr(kernel, "_CACHED_BYTES", 8192)
    made, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *args: made.append((*args, bmm(*args))) or made[-1][-1])
    model = one(layer)
    filter_profiles(model, noise(40, *model.shape), torch.zeros(40, dtype=torch.int64))
    assert len(made) > 1
    assert max(8 * tensor.numel() for _, columns, product in made for tensor in (columns, product)) <= 8192
