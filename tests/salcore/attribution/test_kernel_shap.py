"""KernelSHAP against Shapley's formula, its axioms and Captum. What it shares with LIME is tested in test_lime.py."""

import itertools
import math
import warnings

import pytest
import torch
from torch import nn

from salcore.attribution.kernel_shap import coalitions, kernel_shap, superpixel_residual
from salcore.attribution.superpixels import segment
from salcore.models import build
from salcore.seeds import forked, generator
from salcore.spec import ModelSpec
from tests.oracles import masked_superpixels, shapley_values

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum.attr import KernelShap

SHAPE, CLASSES = (2, 8, 8), 5


def network(**settings):
    with forked(0):
        spec = ModelSpec(name="small_cnn", **({"width": 6, "pooling": "max"} | settings))
        return build(spec, input_shape=SHAPE, classes=CLASSES).double().eval()


def images(count=3, shape=SHAPE):
    inputs = torch.randn(count, *shape, generator=generator(1), dtype=torch.float64)
    return inputs, torch.arange(count) % CLASSES


def close(actual, expected, tolerance=1e-11):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


class Game(nn.Module):
    """Any game of the pixels of an image (1, 1, M), played by those that are 1: the value is the only logit."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x.flatten(1))[:, None]

    def shapley(self, players):
        def value(subset):
            return self.value(torch.tensor([[float(place in subset) for place in range(players)]]).double()).item()

        return torch.tensor(shapley_values(value, players), dtype=torch.float64)

    def estimate(self, players, **settings):
        inputs = torch.ones(1, 1, 1, players, dtype=torch.float64)
        settings = {"num_superpixels": players, "num_samples": 2**players} | settings
        return kernel_shap(self, inputs, torch.zeros(1, dtype=torch.int64), **settings)[0, 0, 0]


def tangled(players, seed=0):
    """Pairs, triples and a saturation: every size of coalition matters."""
    alone, pairs = (
        torch.randn(*shape, generator=generator(seed, 9)).double() for shape in ((players,), (players,) * 2)
    )

    def value(x):
        return torch.tanh(x @ alone + 0.3 * ((x @ pairs) * x).sum(1)) * 3 + x[:, 0] * x[:, players // 2] * x[:, -1]

    return Game(value)


@pytest.mark.parametrize("superpixels", ["grid", torch.arange(64).view(8, 8) // 3 % 8, "slic"])
@pytest.mark.parametrize("baseline", [None, 0.5, "blurred", "superpixel"])
def test_eight_superpixels_of_a_network_have_their_exact_shapley_values(superpixels, baseline):
    model, (inputs, targets) = network(norm="batch"), images()
    segmentation = segment(inputs, superpixels, 8)
    labels = segmentation.labels.expand(3, -1, -1)
    settings = {"superpixels": superpixels, "num_superpixels": 8, "baseline": baseline}
    maps = kernel_shap(model, inputs, targets, num_samples=254, **settings)
    off = _off(baseline, inputs, segmentation)
    for sample in range(3):
        expected = _exact(model, inputs[sample], off[sample], labels[sample], int(targets[sample]))
        close(maps[sample, 0], expected[labels[sample]])
    assert maps.abs().max() > 0.01
    assert superpixel_residual(model, inputs, targets, maps, **settings).abs().max() < 1e-12


def _off(baseline, inputs, segmentation):
    from salcore.attribution.perturbation import switched_off

    return switched_off(baseline, inputs, segmentation, 0)


def _exact(model, image, off, labels, target):
    players = int(labels.max()) + 1
    subsets = [frozenset(each) for size in range(players + 1) for each in itertools.combinations(range(players), size)]
    with torch.no_grad():
        logits = model(torch.stack([masked_superpixels(image, off, labels, subset) for subset in subsets]))
    values = dict(zip(subsets, logits[:, target].tolist(), strict=True))
    return torch.tensor(shapley_values(values.__getitem__, players), dtype=torch.float64)


@pytest.mark.parametrize("players", [1, 2, 3, 4, 5, 9])
def test_all_coalitions_give_shapley_values_for_any_number_of_players(players):
    game = tangled(players)
    close(game.estimate(players, num_samples=max(1, 2**players - 2)), game.shapley(players))


def test_estimates_converge_to_shapley_values():
    """The error falls as samples are added, about as 1 / sqrt S while few are drawn; none is left at the end."""
    players, game, seeds, errors = 10, tangled(10), range(12), []
    exact = game.shapley(10)
    for samples in (20, 80, 320, 1000):
        found = torch.stack([game.estimate(players, num_samples=samples, seed=seed) for seed in seeds])
        errors.append((found - exact).square().mean().sqrt().item())
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2] > 4 * errors[3] > 0
    found = torch.stack([game.estimate(players, num_samples=320, seed=seed) for seed in range(60)])
    spread = found.std(0) / 60**0.5
    assert ((found.mean(0) - exact).abs() < 4 * spread + 0.02 * exact.abs().max()).all()
    close(game.estimate(players, num_samples=1022), exact)


@pytest.mark.parametrize("samples", [24, 31, 100, 4094])
def test_the_axioms_hold_for_every_number_of_samples_where_they_are_exact(samples):
    """Efficiency, linearity, and players who add the same to every coalition get just that."""
    players = 12
    first, second = tangled(12, 0), tangled(12, 1)
    both = Game(lambda x: 2 * first.value(x) - 3 * second.value(x))
    settings = {"num_samples": samples, "seed": 4}
    found = both.estimate(players, **settings)
    ends = both.value(torch.tensor([[1.0], [0.0]]).double().expand(2, players))
    assert found.sum().item() == pytest.approx((ends[0] - ends[1]).item(), abs=1e-12)
    close(found, 2 * first.estimate(players, **settings) - 3 * second.estimate(players, **settings))
    linear = torch.arange(12).double() - 4
    close(Game(lambda x: x @ linear + 7).estimate(players, **settings), linear)


def test_dummies_get_nothing_and_twins_the_same():
    def value(x):
        return torch.exp(x[:, 0] + x[:, 1] - x[:, 2] * x[:, 3]) + x[:, 5]

    found = Game(value).estimate(7)
    close(found[[4, 6]], torch.zeros(2).double())
    close(found[0], found[1])
    close(found[2], found[3])
    close(found[5], torch.tensor(1.0).double())
    assert abs(found[0] - found[2]) > 0.1


@pytest.mark.parametrize(
    ("players", "samples"), [(4, 14), (8, 254), (8, 100), (9, 500), (12, 24), (13, 700), (64, 512)]
)
def test_coalitions_are_pairs_of_complements_from_the_outside_in(players, samples):
    masks, weights = coalitions(players, samples, 0)
    assert len(masks) == len(weights)
    assert samples - 2 < len(masks) <= samples
    rows = {tuple(mask.tolist()): weight.item() for mask, weight in zip(masks, weights, strict=True)}
    assert len(rows) == len(masks)
    assert all(rows[tuple(not on for on in mask)] == weight for mask, weight in rows.items())
    assert weights.sum().item() == pytest.approx(1)
    assert weights.min() > 0
    sizes = masks.sum(1)
    assert sizes.min() == 1
    assert sizes.max() == players - 1
    assert (sizes == 1).sum() == players
    kernel = {size: 1 / (size * (players - size)) for size in range(1, players)}
    whole = [size for size in kernel if (sizes == size).sum() == math.comb(players, size)]
    for size in whole:
        share = weights[sizes == size].sum().item()
        if samples > 2 * players:
            assert share == pytest.approx(kernel[size] / sum(kernel.values()))
        assert weights[sizes == size].unique().diff().abs().sum() < 1e-12
    assert whole == [size for size in kernel if min(size, players - size) <= min(len(whole) + 1, players) // 2]


def test_sizes_are_drawn_by_the_kernels_weight():
    """Of the sizes that are drawn each carries about its share of the weight, and no player is preferred."""
    players = 30
    masks, weights = coalitions(players, 4000, 3)
    sizes = masks.sum(1)
    shares = torch.zeros(players + 1).double().scatter_add_(0, sizes, weights)[1:-1]
    kernel = torch.tensor([1 / (size * (players - size)) for size in range(1, players)]).double()
    assert (shares - kernel / kernel.sum()).abs().max() < 0.006
    close((weights[:, None] * masks).sum(0), torch.full((players,), 0.5).double())
    presence = masks[sizes > 15].double().mean(0)
    assert (presence - presence.mean()).abs().max() < 0.05


def test_draws_depend_on_the_seed():
    first, second, again = (coalitions(16, 200, seed) for seed in (0, 1, 0))
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_captum_agrees_where_all_coalitions_are_taken():
    """Given each coalition once with the kernel's weight, and ends that are heavy but not a million times as heavy:
    its regression is in float32.
    """
    model, (inputs, targets) = network(), images()
    labels = segment(inputs, "grid", 8).labels
    masks, weights = coalitions(8, 254, 0)
    heavy = {(True,) * 8: 1e4, (False,) * 8: 1e4}
    heavy |= {tuple(mask.tolist()): 254 * weight.item() for mask, weight in zip(masks, weights, strict=True)}
    captum = KernelShap(model)

    def perturb(original, **_):
        yield from (torch.tensor([mask]).long() for mask in heavy)

    captum.perturb_func = perturb
    captum.similarity_func = lambda a, b, mask, **_: torch.tensor([heavy[tuple(mask[0].bool().tolist())]])
    expected = torch.cat(
        [
            captum.attribute(inputs[n : n + 1], target=int(targets[n]), feature_mask=labels[:, None], n_samples=256)
            for n in range(3)
        ]
    )
    maps = kernel_shap(model, inputs, targets, num_superpixels=8, num_samples=254)
    torch.testing.assert_close(maps.expand_as(expected).float(), expected.float(), rtol=1e-3, atol=1e-4)


def test_the_residual_is_of_superpixels_and_keeps_its_sign():
    model, (inputs, targets) = network(), images()
    settings = {"num_superpixels": 4, "baseline": "uniform", "seed": 2}
    maps = kernel_shap(model, inputs, targets, **settings)
    assert superpixel_residual(model, inputs, targets, maps, num_samples=9, **settings).abs().max() < 1e-12
    more = superpixel_residual(model, inputs, targets, maps + 0.5, **settings)
    close(more, torch.full((3,), 2.0).double())
    assert superpixel_residual(model, inputs, (targets + 1) % 5, maps, **settings).abs().min() > 1e-4
    assert superpixel_residual(model, inputs[:0], targets[:0], maps[:0], **settings).shape == (0,)
    single = model.float()
    maps = kernel_shap(single, inputs, targets, **settings)
    rest = superpixel_residual(single, inputs, targets, maps, **settings)
    assert rest.dtype == torch.float32
    assert rest.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("number", "samples", "words"),
    [
        (8, 15, "expected 16 or more for 8 superpixels, or fewer superpixels, got 15"),
        (64, 100, "expected 128 or more for 64"),
        (2, 1, "expected 2 or more for 2"),
        (4, 7, "expected 8 or more for 4"),
    ],
)
def test_too_few_samples_say_how_many_are_needed(number, samples, words):
    with pytest.raises(ValueError, match=f"^`num_samples`: {words}") as error:
        kernel_shap(network(), *images(), num_superpixels=number, num_samples=samples)
    assert "\n" not in str(error.value)


def test_the_fewest_samples_are_enough():
    for number, samples in ((1, 1), (2, 2), (3, 6), (4, 8), (8, 16), (64, 128)):
        settings = {"superpixels": torch.arange(64).view(8, 8) % number}
        maps = kernel_shap(network(), *images(), num_samples=samples, **settings)
        assert superpixel_residual(network(), *images(), maps, **settings).abs().max() < 1e-12
