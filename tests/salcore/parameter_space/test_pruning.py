"""Filters turned off sample by sample, against a network of its own for every sample, pruned by hand."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from salcore.parameter_space import filter_table
from salcore.parameter_space.pruning import prune, turned_off
from salcore.seeds import forked
from tests.salcore.parameter_space.networks import CLASSES, Net, conv, noise, one

MODES = ["paper", "silenced"]


@pytest.fixture(autouse=True)
def seeded():
    """Weights are drawn from the global generator."""
    with forked(7):
        yield


def randomised(model):
    """Weights, running means and variances that no special case hides behind, in float64."""
    with forked(1):
        model = model.double()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                nn.init.normal_(module.weight, 0.5, 0.5)
                nn.init.normal_(module.bias, std=0.5)
    return model


def place(layer, number):
    """Where in a layer's weight the weights of one of its filters are."""
    if layer.kind != "transposed convolution":
        return (number,)
    own = layer.shape[1]  # outputs of a group, each of which sees the inputs of its group
    inputs = layer.shape[0] // (layer.filters // own)
    return slice(number // own * inputs, (number // own + 1) * inputs), number % own


def silence(number, last):
    def hook(module, given, output):
        output = output.clone()
        (output.movedim(-1, 1) if last else output)[:, number] = 0
        return output

    return hook


def alone(model, x, off, table, norms, mode):
    """The logits of one input, by a copy of the network that lacks the filters; `norms` are those after layers."""
    model = deepcopy(model).eval()
    parameters = dict(model.named_parameters())
    columns = table.columns()
    layers = {layer.name: layer for layer in table.layers}
    with torch.no_grad():
        for k in off.nonzero()[:, 0].tolist():
            layer, number = layers[columns["layer"][k]], columns["filter"][k]
            after = [model.get_submodule(name) for name in norms.get(layer.name, [])]
            if mode == "paper":
                parameters.get(f"{layer.name}.weight", parameters.get(layer.name))[place(layer, number)] = 0
            for norm in after:
                if norm.affine:
                    norm.bias[number] = 0
                    norm.weight[number] *= mode == "paper"
            if mode == "silenced" and not any(norm.affine for norm in after):
                for module in after or [model.get_submodule(layer.name)]:
                    module.register_forward_hook(silence(number, layer.kind == "linear"))
        return model(x[None])[0]


def agrees(model, inputs, norms, mode, *, linear=False, share=0.3):
    table = filter_table(model, inputs, linear=linear)
    off = torch.rand(len(inputs), len(table), generator=torch.Generator().manual_seed(3)) < share
    off[0] = False
    if share > 0.1:
        off[1] = True
    expected = torch.stack([alone(model, *pair, table, norms, mode) for pair in zip(inputs, off, strict=True)])
    with turned_off(model, table, off, mode=mode):
        found = model(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        whole = model.eval()(inputs)
    assert torch.equal(found[0], whole[0])
    assert not torch.allclose(found[2:], whole[2:], rtol=1e-3)


class Residual(nn.Module):
    """Two blocks like a ResNet's, the second strided with a projection."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.short, self.bn3 = nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu_()
        x = functional.relu(self.bn1(self.conv1(x)) + x, inplace=True)
        return self.head((self.bn2(self.conv2(x)) + self.bn3(self.short(x))).relu().mean((2, 3)))


RESIDUAL = {"stem": ["norm"], "conv1": ["bn1"], "conv2": ["bn2"], "short": ["bn3"]}


@pytest.fixture
def residual():
    return randomised(Residual())


def functional_norm(m, x):
    """Normalised by the two functions that torch has, by keywords and by places."""
    x = functional.conv2d(x, weight=m.kernel, padding=1)
    n = m.norm
    x = functional.batch_norm(x, n.running_mean, n.running_var, weight=n.weight, bias=n.bias, eps=n.eps)
    x = torch.convolution(x.relu(), m.other, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    n = m.again
    return torch.batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, n.eps, False)


def kernel():
    return nn.Parameter(torch.randn(4, 4, 3, 3))


def norm():
    return nn.BatchNorm2d(4)


NORMED = {"layer": ["norm"]}
NETWORKS = {
    "biases, no norm": lambda: (
        Net(lambda m, x: functional.max_pool2d(m.again(m.layer(x).relu()).relu(), 2), layer=conv(), again=conv()),
        {},
    ),
    "bias before a norm": lambda: (Net(lambda m, x: m.norm(m.layer(x)), layer=conv(), norm=norm()), NORMED),
    "norm without shift": lambda: (
        Net(lambda m, x: m.norm(m.layer(x)), layer=conv(), norm=nn.BatchNorm2d(4, affine=False)),
        NORMED,
    ),
    "norm before": lambda: (Net(lambda m, x: m.layer(m.norm(x)), layer=conv(), norm=norm()), {}),
    "norm after a ReLU in place": lambda: (
        Net(lambda m, x: m.norm(m.layer(x).relu_()), layer=conv(), norm=norm()),
        {},
    ),
    "norm after a sum in place": lambda: (
        Net(lambda m, x: m.norm(m.layer(x).add_(x)), layer=conv(), norm=norm()),
        {},
    ),
    "norm of a concatenation": lambda: (
        Net(lambda m, x: m.norm(torch.cat([x, m.layer(x)], 1)), layer=conv(), norm=nn.BatchNorm2d(8)),
        {},
    ),
    "two norms of one output": lambda: (
        Net(lambda m, x: (lambda y: m.norm(y) * m.again(y))(m.layer(x)), layer=conv(), norm=norm(), again=norm()),
        {"layer": ["norm", "again"]},
    ),
    "used twice, each with its norm": lambda: (
        Net(lambda m, x: m.again(m.layer(m.norm(m.layer(x)).relu())), layer=conv(), norm=norm(), again=norm()),
        {"layer": ["norm", "again"]},
    ),
    "dropout before the norm": lambda: (
        Net(lambda m, x: m.norm(m.drop(m.layer(x))), layer=conv(), drop=nn.Identity(), norm=norm()),
        NORMED,
    ),
    "grouped": lambda: (
        Net(lambda m, x: m.norm(m.layer(x)), layer=nn.Conv2d(4, 6, 3, groups=2), norm=nn.BatchNorm2d(6)),
        NORMED,
    ),
    "depthwise, separable": lambda: (
        Net(
            lambda m, x: m.point(m.norm(m.layer(x)).relu()),
            layer=nn.Conv2d(4, 8, 3, groups=4, bias=False),
            norm=nn.BatchNorm2d(8),
            point=nn.Conv2d(8, 3, 1),
        ),
        NORMED,
    ),
    "transposed, grouped": lambda: (
        Net(lambda m, x: m.norm(m.layer(x)), layer=nn.ConvTranspose2d(4, 6, 3, groups=2), norm=nn.BatchNorm2d(6)),
        NORMED,
    ),
    "1-d": lambda: (
        Net(lambda m, x: m.norm(m.layer(x)), (4, 11), layer=nn.Conv1d(4, 4, 3), norm=nn.BatchNorm1d(4)),
        NORMED,
    ),
    "3-d": lambda: (one(nn.Conv3d(2, 4, (2, 3, 1), padding=1), (2, 4, 5, 6)), {}),
    "padding reflect": lambda: (one(nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect")), {}),
    "channels last": lambda: (
        Net(lambda m, x: m.norm(m.layer(x.to(memory_format=torch.channels_last))), layer=conv(), norm=norm()),
        NORMED,
    ),
    "functional": lambda: (
        Net(functional_norm, kernel=kernel(), other=kernel(), norm=norm(), again=norm()),
        {"kernel": ["norm"], "other": ["again"]},
    ),
    "in place after": lambda: (Net(lambda m, x: m.layer(x).relu_(), layer=conv()), {}),
    "never run": lambda: (Net(lambda m, x: m.layer(x), layer=conv(), again=conv()), {}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_each_sample_sees_the_network_without_its_own_filters(build, mode):
    model, norms = build()
    randomised(model)
    agrees(model, noise(5, *model.shape), norms, mode)


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_linear_layers_are_turned_off_too(mode):
    model = Net(
        lambda m, x: m.norm(m.hidden(m.tokens(x.flatten(2).mT).mean(1))),
        tokens=nn.Linear(4, 3),
        hidden=nn.Linear(3, 6),
        norm=nn.BatchNorm1d(6),
    )
    agrees(randomised(model), noise(5, *model.shape), {"hidden": ["norm"]}, mode, linear=True)


def of_densenet(name):
    return [name.replace("conv1", "norm2").replace("conv0", "norm0")] if name.endswith(("conv0", "conv1")) else []


REAL = {
    "resnet18": lambda name: [name.replace("conv", "bn").replace("downsample.0", "downsample.1")],
    "densenet121": of_densenet,
    "mobilenet_v3_small": lambda name: [] if "fc" in name else [name.removesuffix("0") + "1"],
}


@pytest.mark.parametrize("name", REAL)
def test_real_networks_agree(name):
    model = randomised(torchvision.models.get_model(name, weights=None, num_classes=CLASSES))
    inputs = noise(3, 3, 32, 32)
    norms = {layer.name: REAL[name](layer.name) for layer in filter_table(model, inputs[:1]).layers}
    for mode in MODES:
        agrees(model, inputs, norms, mode, share=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_a_channel_that_is_off_is_constant_and_where_silenced_zero(residual, mode):
    inputs, seen = noise(4, 3, 9, 8), {}
    table = filter_table(residual, inputs)
    off = torch.rand(4, len(table), generator=torch.Generator().manual_seed(0)) < 0.5
    for names in RESIDUAL.values():
        residual.get_submodule(names[0]).register_forward_hook(
            lambda module, given, output, name=names[0]: seen.update({name: output.clone()})
        )
    with turned_off(residual, table, off, mode=mode):
        residual(inputs)
    for layer, columns in table.slices().items():
        after, channels, gone = residual.get_submodule(RESIDUAL[layer][0]), seen[RESIDUAL[layer][0]], off[:, columns]
        constant = -after.weight * after.running_mean / (after.running_var + after.eps).sqrt()
        expected = constant.expand(4, -1)[gone] * (mode == "paper")
        torch.testing.assert_close(channels[gone], expected[:, None, None].expand_as(channels[gone]))
        assert bool((channels[gone] == 0).all()) == (mode == "silenced")
        assert bool((channels[~gone].std((1, 2)) > 0).all())


def probabilities(model, inputs):
    with torch.no_grad():
        return model.eval()(inputs).softmax(1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_effects_are_those_of_the_first_filters_of_each_samples_order(residual, mode, batch_size):
    inputs, labels, budgets = noise(6, 3, 9, 8), torch.arange(6) % CLASSES, [0, 1, 3, 8]
    table = filter_table(residual, inputs)
    order = torch.stack([torch.randperm(len(table), generator=torch.Generator().manual_seed(n))[:9] for n in range(6)])
    found = prune(residual, inputs, labels, order, budgets, table, mode=mode, batch_size=batch_size)
    before = probabilities(residual, inputs)
    predicted = before.argmax(1)
    assert bool((predicted != labels).any())
    for n in range(6):
        for b, budget in enumerate(budgets):
            off = torch.zeros(len(table), dtype=torch.bool)
            off[order[n, :budget]] = True
            after = alone(residual, inputs[n], off, table, RESIDUAL, mode).softmax(0)
            for got, cls in ((found.incorrect, predicted[n]), (found.true, labels[n])):
                assert got[n, b] == pytest.approx(float(after[cls] - before[n, cls]), abs=1e-10)
            assert found.corrected[n, b] == (after.argmax() == labels[n] != predicted[n])
    assert bool(
        (found.incorrect[:, 0] == 0).all() and (found.true[:, 0] == 0).all() and not found.corrected[:, 0].any()
    )
    assert float(np.abs(found.incorrect[:, 1:]).min()) > 0


def test_turning_off_what_speaks_for_the_wrong_class_corrects_it():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten()).double()
    model[0].weight.data[:] = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1)
    inputs = torch.ones(1, 1, 1, 1)
    found = prune(model, inputs, torch.tensor([1]), torch.tensor([[0]]), [1], filter_table(model, inputs), mode="paper")
    p = 1 / (1 + np.exp(-1.0))  # logits (2, 1), then (0, 1)
    np.testing.assert_allclose([found.incorrect, found.true], [[[1 - 2 * p]], [[2 * p - 1]]])
    assert found.corrected.tolist() == [[True]]


def test_a_samples_effect_does_not_depend_on_the_others(residual):
    inputs, labels = noise(5, 3, 9, 8), torch.arange(5)
    table = filter_table(residual, inputs)
    order = torch.stack([torch.arange(len(table)).roll(3 * n) for n in range(5)])
    together = prune(residual, inputs, labels, order, [2, 5], table, mode="paper", batch_size=4)
    for n in range(5):
        part = slice(n, n + 1)
        single = prune(residual, inputs[part], labels[part], order[part], [5], table, mode="paper")
        np.testing.assert_allclose(single.true[0, 0], together.true[n, 1], atol=1e-12)


def test_no_samples_have_no_effects(residual):
    table = filter_table(residual, noise(1, 3, 9, 8))
    order = torch.zeros(0, 3, dtype=torch.int64)
    found = prune(residual, noise(0, 3, 9, 8), torch.zeros(0, dtype=torch.int64), order, [1, 3], table, mode="paper")
    assert found.incorrect.shape == found.true.shape == found.corrected.shape == (0, 2)


def test_effects_are_the_same_in_every_mode_of_the_caller_and_in_the_models_precision(residual):
    inputs, labels, order = noise(3, 3, 9, 8), torch.arange(3), torch.arange(9).repeat(3, 1)
    table = filter_table(residual, inputs)
    expected = prune(residual, inputs, labels, order, [4, 9], table, mode="paper").true
    with torch.inference_mode():
        found = prune(residual, inputs.clone(), labels.int(), order, [4, 9], table, mode="paper").true
        assert np.array_equal(found, expected)
    single = prune(residual.float(), inputs, labels, order, [4, 9], table, mode="paper").true
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=1e-6)
    half = prune(residual.bfloat16(), inputs, labels, order, [4, 9], table, mode="silenced").true
    assert half.dtype == np.float32


def test_a_network_of_inference_mode_can_be_pruned_too(residual):
    inputs, labels, order = noise(3, 3, 9, 8), torch.arange(3), torch.arange(9).repeat(3, 1)
    table = filter_table(residual, inputs)
    expected = prune(residual, inputs, labels, order, [4], table, mode="paper").true
    with torch.inference_mode():
        frozen = Residual().double()
        frozen.load_state_dict(residual.state_dict())
    assert np.array_equal(prune(frozen, inputs, labels, order, [4], table, mode="paper").true, expected)


def state(model):
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_inputs_are_left_as_they_were(fails):
    model = Net(lambda m, x: m.norm(m.layer(x.relu_())), layer=conv(), norm=norm())  # writes to what it is given
    model.train()
    model.norm.eval()
    model.layer.requires_grad_(False)
    inputs, labels = noise(3, 4, 9, 8), torch.arange(3)
    table, order = filter_table(model, inputs), torch.arange(4).repeat(3, 1)
    before, given = state(model), inputs.clone()
    if fails:
        handle = model.norm.register_forward_hook(lambda module, given, output: 1 / 0 if (output == 0).any() else None)
        with pytest.raises(ZeroDivisionError):
            prune(model, inputs, labels, order, [1, 4], table, mode="silenced")
        handle.remove()
    else:
        first = prune(model, inputs, labels, order, [1, 4], table, mode="silenced")
        again = prune(model, inputs, labels, order, [4], table, mode="silenced", batch_size=2)
        np.testing.assert_allclose(first.true[:, 1], again.true[:, 0], atol=1e-14)
    after = state(model)
    assert after[:3] == before[:3]
    assert all(torch.equal(after[3][name], value) for name, value in before[3].items())
    assert torch.equal(inputs, given)
    assert torch.equal(functional.relu(torch.ones(1)), torch.ones(1))


def test_dropout_and_batch_statistics_of_a_training_network_play_no_part(residual):
    inputs, labels, order = noise(4, 3, 9, 8), torch.arange(4), torch.arange(9).repeat(4, 1)
    table = filter_table(residual, inputs)
    expected = prune(residual.eval(), inputs, labels, order, [5], table, mode="paper")
    found = prune(residual.train(), inputs, labels, order, [5], table, mode="paper")
    assert np.array_equal(found.true, expected.true)


def folded(m, x):
    """Both halves of the picture as rows of their own."""
    return m.layer(x[:, :, :8].unflatten(2, (2, 4)).movedim(2, 1).flatten(0, 1)).unflatten(0, (len(x), 2))


REFUSED = {
    "folded": (lambda: Net(folded, layer=conv()), r"4 samples in the output of 'layer', got \(8, 4, 4, 8\)"),
    "one at a time": (
        lambda: Net(lambda m, x: torch.stack([m.layer(row) for row in x]), layer=conv()),
        r"4 samples in the output of 'layer', got \(4, 9, 8\)",  # as many channels as samples
    ),
    "TorchScript": (lambda: Net(lambda m, x: m.layer(x), layer=torch.jit.script(conv())), "can be seen .* 'layer'"),
    "batch statistics": (
        lambda: Net(lambda m, x: m.norm(m.layer(x)), layer=conv(), norm=nn.BatchNorm2d(4, track_running_stats=False)),
        "without running statistics",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_a_network_that_would_be_pruned_wrongly_is_refused_by_name(build, message):
    model, inputs = build(), noise(4, 4, 9, 8)
    table, order = filter_table(model, inputs[:1]), torch.tensor([[0], [1], [2], [3]])
    with pytest.raises(ValueError, match=f"`model`: expected .*{message}"):
        prune(model, inputs, torch.arange(4), order, [1], table, mode="paper")


def test_another_networks_table_is_refused(residual):
    inputs = noise(3, 3, 9, 8)
    other = filter_table(one(conv()), noise(1, 4, 9, 8))
    with pytest.raises(
        ValueError, match=r"`table`: expected the table of this network's filters, got one with 'layer'"
    ):
        prune(residual, inputs, torch.arange(3), torch.tensor([[0]] * 3), [1], other, mode="paper")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budgets": [1, 4]}, "`budgets`: expected at most 3 filters, which the order holds, got 4"),
        ({"budgets": [2, 2]}, r"`budgets`: expected increasing numbers of filters, got \[2, 2\]"),
        ({"budgets": [-1, 2]}, "`budgets`: expected increasing"),
        ({"budgets": []}, "`budgets`: expected increasing"),
        ({"order": torch.tensor([[0, 1, 20]] * 2)}, "`order`: expected filters from 0 to 19, got 0 to 20"),
        ({"order": torch.tensor([[0, -1, 2]] * 2)}, "`order`: expected filters from 0 to 19, got -1 to 2"),
        ({"order": torch.tensor([[0, 5, 0]] * 2)}, "`order`: expected different filters"),
        ({"order": torch.tensor([[0, 1, 2]])}, r"`order`: .* each of 2 samples as int64, got \(1, 3\) of torch.int64"),
        ({"order": torch.zeros(2, 3)}, "`order`: .* got .* of torch.float32"),
        ({"labels": torch.tensor([0, CLASSES])}, "`labels`: expected classes from 0 to 4, got 0 to 5"),
        ({"labels": torch.tensor([0])}, r"`labels`: expected 2 integers, got \(1,\)"),
        ({"labels": torch.tensor([0.0, 1.0])}, "`labels`: expected 2 integers, got .* of torch.float32"),
        ({"mode": "halved"}, "`mode`: expected one of paper, silenced, got 'halved'"),
        ({"batch_size": 0}, "`batch_size`: expected 1 or more, got 0"),
    ],
)
def test_what_cannot_be_pruned_is_refused(residual, changed, message):
    inputs = noise(2, 3, 9, 8)
    settings = {
        "labels": torch.tensor([0, 1]),
        "order": torch.tensor([[0, 1, 2]] * 2),
        "budgets": [1, 3],
        "mode": "paper",
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        prune(residual, inputs, table=filter_table(residual, inputs), **settings)


@pytest.mark.parametrize("off", [torch.zeros(3, 19, dtype=torch.bool), torch.zeros(3, 20), torch.zeros(20) > 0])
def test_filters_that_are_off_are_booleans_of_all_filters(residual, off):
    table = filter_table(residual, noise(1, 3, 9, 8))
    with (
        pytest.raises(ValueError, match=r"`off`: expected booleans \(N, 20\)"),
        turned_off(residual, table, off, mode="paper"),
    ):
        pass
