"""Input-space saliency against its definition: autograd through the whole of it, and finite differences."""

import gc
import weakref

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from salcore.moments import Moments
from salcore.parameter_space import ProfileStatistics, filter_profiles, filter_table
from salcore.parameter_space.input_space import boosted, input_space_saliency
from salcore.seeds import forked
from tests.salcore.parameter_space.networks import CLASSES, Net, conv, magnitudes, noise, one, slow

FILTERS, BOOST = 3, 50.0


def labels(count):
    return torch.arange(count) % CLASSES


def statistics_of(model, shape, *, linear=False):
    """Those of other samples, with the uneven deviations of real ones."""
    held_out = noise(7, *shape, seed=9)
    table = filter_table(model, held_out[:1], linear=linear)
    profiles = filter_profiles(model, held_out, labels(7), table=table)
    return ProfileStatistics.of(Moments.from_batch(profiles.numpy()), table)


def standardised(profiles, statistics):
    return (profiles - torch.from_numpy(statistics.mean)) / torch.from_numpy(statistics.deviation)


def distance(one, other):
    return 1 - functional.cosine_similarity(one, other, dim=-1, eps=0.0)


def constant(profile):
    """The boosted profile of one sample, entry by entry."""
    largest = sorted(range(len(profile)), key=lambda k: -profile[k].item())[:FILTERS]
    values = [value.item() * (BOOST if k in largest else 1) for k, value in enumerate(profile)]
    return torch.tensor(values, dtype=torch.float64)


def by_autograd(model, inputs, targets, statistics):
    """Eq. 1 to 4 as they stand, one sample at a time."""
    model = model.eval().requires_grad_(True)
    maps = []
    for n in range(len(inputs)):
        x = inputs[n : n + 1].clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            profile = standardised(magnitudes(model, x, targets[n : n + 1], statistics.table), statistics)
        maps.append(torch.autograd.grad(distance(profile, constant(profile.detach())), x)[0])
    return torch.cat(maps)


def agree(model, shape, *, linear=False, count=3, rtol=1e-9):
    inputs, statistics = noise(count, *shape), statistics_of(model, shape, linear=linear)
    found = input_space_saliency(model, inputs, labels(count), statistics=statistics, filters=FILTERS, boost=BOOST)
    expected = by_autograd(model, inputs, labels(count), statistics)
    assert found.shape == inputs.shape
    assert bool((expected.flatten(1).abs().amax(1) > 0).all())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * expected.abs().max().item())


def plain(m, x):
    return m.norm(m.again(m.layer(x).tanh()))


def parts(**others):
    return {"layer": conv(), "again": nn.Conv2d(4, 6, 3), "norm": nn.BatchNorm2d(6), **others}


def warm(model):
    """Batch-norms with statistics of their own."""
    with forked(5), torch.no_grad():
        model.train()(3 * torch.randn(16, *model.shape).double() + 1)
    return model


NETWORKS = {
    "batch-norm": lambda: warm(Net(plain, **parts())),
    "ReLU and pooling": lambda: warm(Net(lambda m, x: functional.max_pool2d(plain(m, x).relu_(), 2), **parts())),
    "strided": lambda: one(nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(2, 1))),
    "dilated": lambda: one(nn.Conv2d(4, 6, 2, dilation=(3, 2))),
    "grouped": lambda: one(nn.Conv2d(4, 6, 3, groups=2)),
    "depthwise": lambda: one(nn.Conv2d(4, 8, 3, groups=4)),
    "1 x 1": lambda: one(nn.Conv2d(4, 6, 1)),
    "transposed": lambda: one(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)),
    "one position": lambda: Net(lambda m, x: m.layer(x).tanh(), (4, 3, 3), layer=nn.Conv2d(4, 6, 3)),
    "one position, padded": lambda: Net(
        lambda m, x: m.again(m.layer(x).tanh()),
        (4, 3, 3),
        layer=nn.Conv2d(4, 6, 3),
        again=nn.Conv2d(6, 6, 3, padding=1),
    ),
    "one position, grouped": lambda: Net(
        lambda m, x: m.layer(x).tanh(), (4, 2, 3), layer=nn.Conv2d(4, 6, (2, 3), groups=2)
    ),
    "one position, transposed": lambda: Net(
        lambda m, x: m.layer(x).tanh(), (4, 1, 1), layer=nn.ConvTranspose2d(4, 6, 3, groups=2)
    ),
    "reused": lambda: Net(lambda m, x: m.layer(m.layer(x).tanh()), layer=conv()),
    "reused at two sizes": lambda: Net(
        lambda m, x: m.layer(x).mean((2, 3)) + m.layer(x[..., ::2]).amax((2, 3)), layer=conv()
    ),
    "one sequence": lambda: one(nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 11)),
    "three axes": lambda: one(nn.Conv3d(2, 4, 2, padding=1, groups=2), (2, 3, 4, 5)),
    "functional": lambda: Net(
        lambda m, x: functional.conv2d(x, m.kernel, padding="same"), kernel=nn.Parameter(torch.randn(5, 4, 3, 3))
    ),
    "unused": lambda: Net(lambda m, x: m.layer(x), layer=conv(), spare=conv()),
    "folded into the batch": lambda: Net(
        lambda m, x: m.layer(x.flatten(0, 1)[:, None]).unflatten(0, (-1, 4)).tanh().amax(1), layer=nn.Conv2d(1, 5, 3)
    ),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_it_is_the_gradient_of_the_distance(build):
    model = build()
    agree(model, model.shape)


def test_linear_rows_count_where_the_table_has_them():
    model = Net(
        lambda m, x: m.mix(m.layer(x).flatten(2).mT.tanh()).amax(1), layer=conv(), mix=nn.Linear(4, 3)
    )  # every pixel passes the linear layer, as tokens do
    agree(model, model.shape, linear=True)
    agree(model, model.shape)


def test_torchvisions_resnet_where_its_last_maps_are_single_pixels():
    with forked(0):
        model = torchvision.models.resnet18(num_classes=CLASSES).double()
    agree(model, (3, 32, 32), count=2, rtol=1e-6)


def test_attention_is_differentiated_twice():
    model = Net(
        lambda m, x: m.attend(*[m.layer(x).flatten(2).mT] * 3, need_weights=False)[0],
        layer=conv(),
        attend=nn.MultiheadAttention(4, 2, batch_first=True),
    )
    agree(model, model.shape)


def test_a_hardsigmoid_is_differentiated_twice_too():
    """Torch's own is not: the same network of other operations is the oracle."""
    layer = conv()
    mine, others = (Net(lambda m, x, f=f: f(m.layer(x)), layer=layer) for f in (functional.hardsigmoid, other_sigmoid))
    inputs, statistics = noise(3, 4, 9, 8), statistics_of(others, others.shape)
    found = input_space_saliency(mine, inputs, labels(3), statistics=statistics, filters=FILTERS, boost=BOOST)
    torch.testing.assert_close(found, by_autograd(others, inputs, labels(3), statistics))


def other_sigmoid(x):
    return (x / 6 + 0.5).clamp(0, 1)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


def test_a_network_that_torch_does_not_differentiate_twice_is_told():
    model = Net(lambda m, x: Once.apply(m.layer(x)), layer=conv())
    statistics = statistics_of(model, model.shape)
    with pytest.raises(ValueError, match=r"^`model`: expected a network that torch differentiates twice, got .*once_"):
        input_space_saliency(model, noise(1, 4, 9, 8), labels(1), statistics=statistics, filters=FILTERS)


@pytest.fixture
def network():
    return warm(Net(plain, **parts()))


@pytest.fixture
def statistics(network):
    return statistics_of(network, network.shape)


def test_it_is_the_slope_of_the_distance_by_finite_differences(network, statistics):
    x, y, step = noise(1, 4, 9, 8), labels(1), 1e-6
    network.eval()
    goal = constant(standardised(slow(network, x, y, statistics.table), statistics)[0])
    found = input_space_saliency(network, x, y, statistics=statistics, filters=FILTERS, boost=BOOST)
    for place in ((0, 0, 0, 0), (0, 1, 4, 4), (0, 3, 8, 7), (0, 2, 5, 1)):
        ends = []
        for sign in (1, -1):
            moved = x.clone()
            moved[place] += sign * step
            ends.append(distance(standardised(slow(network, moved, y, statistics.table), statistics)[0], goal).item())
        assert found[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_a_step_against_the_map_makes_the_most_salient_filters_more_salient(network, statistics):
    x, y = noise(4, 4, 9, 8), labels(4)
    before = standardised(filter_profiles(network, x, y), statistics)
    goal = boosted(before, FILTERS, BOOST)
    maps = input_space_saliency(network, x, y, statistics=statistics, filters=FILTERS, boost=BOOST)
    steps = 1e-3 * maps / maps.flatten(1).norm(dim=1)[:, None, None, None]
    nearer, farther = (standardised(filter_profiles(network, moved, y), statistics) for moved in (x - steps, x + steps))
    assert bool((distance(nearer, goal) < distance(before, goal)).all())
    assert bool((distance(farther, goal) > distance(before, goal)).all())


def test_the_largest_entries_are_boosted_and_not_those_of_the_largest_magnitude():
    profiles = torch.tensor([[1.0, -9.0, 4.0, 4.0], [-3.0, -2.0, -1.0, -4.0]])
    assert boosted(profiles, 2, 10.0).tolist() == [[1.0, -9.0, 40.0, 40.0], [-3.0, -20.0, -10.0, -4.0]]
    assert boosted(torch.ones(1, 4), 2, 10.0).tolist() == [[10.0, 10.0, 1.0, 1.0]]


def test_the_deviation_weighs_the_filters(network, statistics):
    """A filter of enormous deviation is out of the profile, as is one that is not there."""
    deviation = statistics.deviation.copy()
    deviation[4:] = 1e12
    without = ProfileStatistics(table=statistics.table, mean=statistics.mean, deviation=deviation, count=7)
    x, y = noise(2, 4, 9, 8), labels(2)
    found = input_space_saliency(network, x, y, statistics=without, filters=FILTERS, boost=BOOST)
    torch.testing.assert_close(found, by_autograd(network, x, y, without))
    assert not torch.allclose(
        found, input_space_saliency(network, x, y, statistics=statistics, filters=FILTERS, boost=BOOST), rtol=0.1
    )


def test_a_map_does_not_depend_on_the_batch_around_it(network, statistics):
    x, y = noise(6, 4, 9, 8), labels(6)
    together = input_space_saliency(network, x, y, statistics=statistics, filters=FILTERS)
    for n in range(6):
        alone = input_space_saliency(network, x[n : n + 1], y[n : n + 1], statistics=statistics, filters=FILTERS)
        torch.testing.assert_close(alone[0], together[n], rtol=1e-10, atol=1e-14)


def test_a_profile_at_the_mean_has_a_map_of_zeros(network, statistics):
    x, y = noise(1, 4, 9, 8), labels(1)
    mean = filter_profiles(network, x, y)[0].numpy()
    even = ProfileStatistics(table=statistics.table, mean=mean, deviation=np.ones_like(mean), count=1)
    assert torch.equal(input_space_saliency(network, x, y, statistics=even, filters=FILTERS), torch.zeros_like(x))


def test_maps_of_nothing(network, statistics):
    nothing = input_space_saliency(network, noise(0, 4, 9, 8), labels(0), statistics=statistics, filters=FILTERS)
    assert nothing.shape == (0, 4, 9, 8)


@pytest.mark.parametrize("size", [(9, 8), (12, 5), (30, 30)])
def test_inputs_may_have_any_size_that_the_model_takes(size):
    model = Net(lambda m, x: m.layer(x).amax((2, 3)), layer=conv())
    statistics = statistics_of(model, (4, 9, 8))
    found = input_space_saliency(model, noise(2, 4, *size), labels(2), statistics=statistics, filters=3)
    assert found.shape == (2, 4, *size)
    assert bool((found.flatten(1).abs().amax(1) > 0).all())


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_it_follows_the_type_of_the_model(network, statistics, dtype, near):
    x, y = noise(2, 4, 9, 8).to(dtype).double(), labels(2)
    network = network.to(dtype).double()
    exact = input_space_saliency(network, x, y, statistics=statistics, filters=FILTERS)
    found = input_space_saliency(network.to(dtype), x, y, statistics=statistics, filters=FILTERS)
    assert found.dtype == dtype
    assert (found.double() - exact).norm() < near * exact.norm()


def test_nothing_of_the_pass_stays_in_memory(network, statistics):
    kept = []
    handle = network.again.register_forward_hook(lambda module, given, output: kept.append(weakref.ref(output)))
    input_space_saliency(network, noise(3, 4, 9, 8), labels(3), statistics=statistics, filters=FILTERS)
    handle.remove()
    gc.collect()
    assert [reference() for reference in kept] == [None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": 0}, "`filters`: expected 1 or more, and fewer than the network's 10, got 0"),
        ({"filters": 10}, "`filters`: expected 1 or more, and fewer than the network's 10, got 10"),
        ({"boost": 1.0}, "`boost`: expected a factor above 1, got 1.0"),
        ({"boost": float("nan")}, "`boost`: .* got nan"),
        ({"statistics": "mean"}, "`statistics`: expected ProfileStatistics, got str"),
    ],
)
def test_settings_that_do_not_fit_are_named(network, statistics, settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        input_space_saliency(
            network, noise(1, 4, 9, 8), labels(1), **{"statistics": statistics, "filters": 1} | settings
        )


def test_statistics_of_another_network_are_refused(network):
    other = statistics_of(one(conv()), (4, 9, 8))
    with pytest.raises(ValueError, match="`statistics`: expected the table of this network's filters, got one without"):
        input_space_saliency(network, noise(1, 4, 9, 8), labels(1), statistics=other, filters=1)


def test_a_loss_without_the_inputs_is_refused():
    model = Net(lambda m, x: m.layer(x.detach()), layer=conv())
    statistics = statistics_of(model, model.shape)
    with pytest.raises(ValueError, match="`model`: expected a loss that can be differentiated by the inputs"):
        input_space_saliency(model, noise(1, 4, 9, 8), labels(1), statistics=statistics, filters=1)
