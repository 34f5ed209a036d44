"""One step on chosen filters, against torch's own optimiser on a copy of the network with masked gradients."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from salcore.parameter_space import filter_table, finetuning
from salcore.parameter_space.filters import filters_of, layer_weights
from salcore.parameter_space.finetuning import fine_tune
from salcore.seeds import forked
from tests.salcore.parameter_space.networks import CLASSES, Net, conv, noise, one
from tests.salcore.parameter_space.test_pruning import place, probabilities, randomised, state


@pytest.fixture(autouse=True)
def seeded():
    """Weights are drawn from the global generator."""
    with forked(7):
        yield


def filter_norm(model, table):
    return torch.cat([weight.detach().flatten() for weight in layer_weights(model, table)]).norm()


def stepped(model, x, label, columns, table, step):
    """A copy of the network after one step of SGD on the filters, of all its parameters where `columns` is None."""
    model = deepcopy(model).eval().requires_grad_(True)
    model.zero_grad()
    functional.cross_entropy(model(x[None]), torch.tensor([label])).backward()
    if columns is not None:
        masks = {weight: torch.zeros_like(weight) for weight in layer_weights(model, table)}
        names, numbers = table.columns()["layer"], table.columns()["filter"]
        layers = dict(zip((layer.name for layer in table.layers), zip(table.layers, masks, strict=True), strict=True))
        for k in columns.tolist():
            layer, weight = layers[names[k]]
            masks[weight][place(layer, numbers[k])] = 1
        for parameter in model.parameters():
            parameter.grad = parameter.grad * masks[parameter] if parameter in masks else None
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    rate = step * filter_norm(model, table) / torch.cat(gradients).norm()
    torch.optim.SGD(model.parameters(), lr=float(rate)).step()
    return model


NETWORKS = {
    "batch-norm": lambda: Net(
        lambda m, x: m.again(m.norm(m.layer(x)).relu()), layer=conv(), norm=nn.BatchNorm2d(4), again=nn.Conv2d(4, 6, 3)
    ),
    "grouped": lambda: one(nn.Conv2d(4, 8, 3, groups=2)),
    "depthwise": lambda: one(nn.Conv2d(4, 8, 3, groups=4)),
    "transposed": lambda: one(nn.ConvTranspose2d(4, 8, 3)),
    "transposed, grouped": lambda: one(nn.ConvTranspose2d(4, 8, 3, groups=2)),
    "transposed, depthwise": lambda: one(nn.ConvTranspose2d(4, 8, 3, groups=4)),
    "reused": lambda: Net(lambda m, x: m.again(m.layer(m.layer(x).relu())), layer=conv(), again=conv()),
    "functional": lambda: Net(
        lambda m, x: m.layer(functional.conv2d(x, m.kernel)), kernel=nn.Parameter(torch.randn(4, 4, 3, 3)), layer=conv()
    ),
}


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_step_is_that_of_sgd_with_the_other_gradients_masked(build, linear):
    model = randomised(build()).train()
    inputs, labels, budgets = noise(4, 4, 9, 8), torch.tensor([1, 0, 2, 4]), [0, 1, 3, 7]
    table = filter_table(model, inputs, linear=linear)
    orders = {
        name: torch.randperm(len(table), generator=torch.Generator().manual_seed(n))[:8] for n, name in enumerate("ab")
    }
    orders["last"] = torch.arange(len(table)).flip(0)
    settings = (orders, budgets, table, inputs[1:], labels[1:])
    found, whole = fine_tune(model, inputs[0], 1, *settings, step=0.05)
    before = probabilities(model, inputs)
    assert list(found) == ["a", "b", "last"]
    steps = [(found[name], b, orders[name][:budget]) for name in orders for b, budget in enumerate(budgets) if budget]
    for tuned, b, columns in [*steps, (whole, 0, None)]:
        after = probabilities(stepped(model, inputs[0], 1, columns, table, 0.05), inputs)
        change = (after - before).gather(1, torch.stack([before.argmax(1), labels], 1))
        for effect, rows in ((tuned.own, slice(0, 1)), (tuned.others, slice(1, None))):
            np.testing.assert_allclose(effect.incorrect[:, b], change[rows, 0], rtol=0, atol=1e-12)
            np.testing.assert_allclose(effect.true[:, b], change[rows, 1], rtol=0, atol=1e-12)
            corrected = (after.argmax(1) == labels) & (before.argmax(1) != labels)
            assert effect.corrected[:, b].tolist() == corrected[rows].tolist()
        assert tuned.own.true[0, b] > 0
    for tuned in found.values():
        assert tuned.own.true.shape == (1, 4)
        assert tuned.others.true.shape == (3, 4)
        assert not np.concatenate([tuned.own.true[:, 0], tuned.others.incorrect[:, 0]]).any()
    assert whole.others.true.shape == (3, 1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_layers_inside_torchscript_are_tuned_too():
    layers = conv().double(), conv().double()
    plain = Net(lambda m, x: m.layer(m.again(x)), layer=layers[0], again=layers[1])
    scripted = Net(lambda m, x: m.layer(m.again(x)), layer=torch.jit.script(layers[0]), again=layers[1])
    for setting in ({"budgets": [8]}, {"budgets": [2, 5]}):
        changed = {"orders": {"down": torch.arange(8).flip(0)}, **setting}
        (found, whole), (expected, same) = tuned(scripted, **changed), tuned(plain, **changed)
        np.testing.assert_allclose(found["down"].others.true, expected["down"].others.true, atol=1e-14)
        np.testing.assert_allclose(whole.others.true, same.others.true, atol=1e-14)


def test_every_step_has_the_same_length(network):
    model, x = network, noise(1, 4, 9, 8)[0]
    table = filter_table(model, x[None])
    before, lengths = [weight.detach().clone() for weight in model.parameters()], []

    def measure(*_):
        moved = [(now - then).detach().flatten() for now, then in zip(model.parameters(), before, strict=True)]
        lengths.append(float(torch.cat(moved).norm()))

    handle = model.head.register_forward_hook(measure)
    orders = {"up": torch.arange(10), "down": torch.arange(10).flip(0)}
    fine_tune(model, x, 2, orders, [1, 4, 10], table, x[None][:0], torch.zeros(0, dtype=torch.int64), step=0.3)
    handle.remove()
    expected = 0.3 * float(filter_norm(model, table))
    np.testing.assert_allclose([length for length in lengths if length], [expected] * 7, rtol=1e-12)


@pytest.fixture
def network():
    return randomised(NETWORKS["batch-norm"]())


def tuned(network, step=0.05, label=1, **changed):
    inputs = noise(4, 4, 9, 8)
    settings = {
        "orders": {"up": torch.arange(10)},
        "budgets": [0, 2, 10],
        "table": None,
        "others": inputs[1:],
        "other_labels": torch.tensor([0, 2, 4]),
        **changed,
    }
    settings["table"] = settings["table"] or filter_table(network, inputs)
    return fine_tune(network, inputs[0], label, step=step, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fails", [0, 2, 4, 5])
def test_the_model_is_left_as_it_was_to_the_last_bit(network, dtype, fails):
    network.to(dtype).train()
    network.norm.eval()
    network.again.requires_grad_(False)
    network.layer.weight.grad = torch.ones_like(network.layer.weight)
    before, passes, table = state(network), [], filter_table(network, noise(1, 4, 9, 8))

    def hook(*_):
        passes.append(None)
        if len(passes) == fails:
            raise KeyboardInterrupt

    handle = network.head.register_forward_hook(hook)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            tuned(network, table=table)
    else:
        tuned(network, table=table)
    handle.remove()
    assert len(passes) == (fails or 5)  # before, for the gradient, two budgets, the whole network
    after = state(network)
    assert after[:3] == before[:3]
    assert all(torch.equal(after[3][name], value) for name, value in before[3].items())
    assert bool((network.layer.weight.grad == 1).all())
    assert network.again.weight.grad is None


def test_a_failure_while_the_step_is_written_is_undone_too(network, monkeypatch):
    table, before = filter_table(network, noise(1, 4, 9, 8)), state(network)[3]
    parts = finetuning._parts

    def broken(*given):
        first, *rest = parts(*given)
        return [
            first,
            *(
                finetuning._Part(values=each.values, index=each.index, before=each.before, gradient=None)
                for each in rest
            ),
        ]

    monkeypatch.setattr(finetuning, "_parts", broken)
    monkeypatch.setattr(finetuning, "_norm", lambda tensors: torch.tensor(1.0))
    with pytest.raises(TypeError):
        tuned(network, table=table, budgets=[10])
    assert all(torch.equal(state(network)[3][name], value) for name, value in before.items())


def test_a_confident_sample_gives_no_step_and_no_nan(network):
    network.head.weight.data.zero_()
    network.head.bias.data = torch.tensor([0.0, 2000.0, 0.0, 0.0, 0.0]).double()
    found, whole = tuned(network)
    for effect in (found["up"].own, found["up"].others, whole.own, whole.others):
        assert not effect.true.any()
        assert not effect.incorrect.any()


def test_a_tiny_gradient_gives_a_whole_step(network):
    """Its squares underflow in single precision, its direction does not."""
    network.float()
    network.head.weight.data.mul_(1e-25)
    network.head.bias.data.zero_()
    lengths, first = [], network.layer.weight.detach().clone()
    table = filter_table(network, noise(1, 4, 9, 8))
    network.layer.register_forward_hook(
        lambda *_: lengths.append(float((network.layer.weight.detach() - first).norm()))
    )
    tuned(network, table=table, orders={"up": torch.arange(4)}, budgets=[4], step=0.1)
    assert lengths[2] == pytest.approx(0.1 * float(filter_norm(network, table)), rel=1e-4)


def test_a_step_up_the_right_class_corrects_the_sample_and_one_like_it():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten()).double()
    model[0].weight.data[:] = torch.tensor([3.0, 4.0]).view(2, 1, 1, 1)
    x = torch.ones(1, 1, 1)
    table = filter_table(model, x[None])
    others = torch.stack([2 * x, -x])
    found, whole = fine_tune(
        model, x, 0, {"both": torch.tensor([1, 0])}, [1, 2], table, others, torch.tensor([0, 1]), step=0.3
    )
    p = 1 / (1 + np.exp(1.0))  # logits 3 and 4, then 3 and 2.5
    np.testing.assert_allclose(found["both"].own.true[0, 0], 1 / (1 + np.exp(-0.5)) - p)
    assert found["both"].own.corrected.tolist() == [[True, True]]
    assert found["both"].others.corrected.tolist() == [[True, True], [True, True]]
    # Both filters have gradients of the same size, so each moves by 1.5 / sqrt(2), in opposite directions.
    both = 1 / (1 + np.exp(1 - 1.5 * 2**0.5)) - p
    np.testing.assert_allclose([found["both"].own.true[0, 1], whole.own.true[0, 0]], both)


def test_effects_are_the_same_in_every_mode_of_the_caller_and_for_any_neighbours(network):
    found, whole = tuned(network)
    with torch.inference_mode():
        inside, same = tuned(network)
    assert np.array_equal(inside["up"].others.true, found["up"].others.true)
    assert np.array_equal(same.own.true, whole.own.true)
    inputs = noise(4, 4, 9, 8)
    fewer, _ = tuned(network, others=inputs[2:3], other_labels=torch.tensor([2]))
    np.testing.assert_allclose(fewer["up"].own.true, found["up"].own.true, atol=1e-12)
    np.testing.assert_allclose(fewer["up"].others.true, found["up"].others.true[1:2], atol=1e-12)
    none, _ = tuned(network, others=inputs[:0], other_labels=torch.zeros(0, dtype=torch.int64))
    np.testing.assert_allclose(none["up"].own.true, found["up"].own.true, atol=1e-12)
    assert none["up"].others.true.shape == (0, 3)


def test_a_network_that_writes_to_its_input_does_not_write_to_the_callers():
    model = Net(lambda m, x: m.again(m.layer(x.mul_(2.0))), layer=conv(), again=conv())
    plain = Net(lambda m, x: m.again(m.layer(x * 2.0)), layer=conv(), again=conv())
    plain.load_state_dict(model.state_dict())
    inputs = noise(3, 4, 9, 8)
    given, table = inputs.clone(), filter_table(plain, inputs)
    settings = ({"up": torch.arange(8)}, [1, 8], table, inputs[1:], torch.tensor([1, 2]))
    found, _ = fine_tune(model, inputs[0], 0, *settings, step=0.1)
    assert torch.equal(inputs, given)
    assert np.array_equal(
        found["up"].others.true, fine_tune(plain, inputs[0], 0, *settings, step=0.1)[0]["up"].others.true
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": 0.0}, "`step`: expected a positive number, got 0.0"),
        ({"step": float("nan")}, "`step`: expected a positive number, got nan"),
        ({"step": float("inf")}, "`step`: expected a positive number, got inf"),
        ({"label": CLASSES}, "`label`: expected classes from 0 to 4, got 5 to 5"),
        ({"other_labels": torch.tensor([0, 1])}, r"`other_labels`: expected 3 integers, got \(2,\)"),
        ({"other_labels": torch.tensor([0, 1, -1])}, "`other_labels`: expected classes from 0 to 4, got -1 to 1"),
        ({"budgets": [1, 11]}, "`budgets`: expected at most 10 filters, which the order holds, got 11"),
        ({"orders": {"up": torch.arange(1, 11)}}, "`orders`: expected filters from 0 to 9, got 1 to 10"),
        ({"orders": {"up": torch.zeros(10, dtype=torch.int64)}}, "`orders`: expected different filters"),
    ],
)
def test_what_cannot_be_tuned_is_refused(network, changed, message):
    with pytest.raises(ValueError, match=message):
        tuned(network, **changed)


def test_networks_that_cannot_be_tuned_are_refused(network):
    other = filter_table(one(nn.Conv2d(4, 6, 3)), noise(1, 4, 9, 8))
    with pytest.raises(ValueError, match="`table`: expected the table of this network's filters, got one with 'layer'"):
        tuned(network, table=other)
    table = filter_table(network, noise(1, 4, 9, 8))
    with torch.inference_mode():
        frozen = NETWORKS["batch-norm"]().double()
    with pytest.raises(ValueError, match="`model`: expected parameters that autograd records"):
        tuned(frozen, table=table)
    network.head.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="`model`: expected a finite loss for the sample, got nan"):
        tuned(network, table=table)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_a_filter_is_what_makes_its_channel(kind, groups):
    model = Net(lambda m, x: m.layer(x), (4, 9), layer=kind(4, 8, 3, groups=groups, bias=False))
    inputs = noise(2, 4, 9)
    (layer,) = filter_table(model, inputs).layers
    for number in range(8):
        weight = model.layer.weight.detach().clone()
        view, index = filters_of(weight, layer, torch.tensor([number]))
        assert view[index].numel() == layer.shape[0] * layer.shape[1] * layer.shape[2] // 8
        view[index] = 0
        found = torch.func.functional_call(model.layer, {"weight": weight}, (inputs,))
        silent = (found == 0).all(0).all(1)
        assert silent.nonzero().tolist() == [[number]]
