"""Accuracy without the top positions, against sample-by-sample loops and networks whose drop is known."""

import math

import pytest
import torch
from sklearn.metrics import auc
from torch import nn

from salcore.faithfulness import accuracy_drop, deletion, insertion
from salcore.faithfulness.curves import area

TENTHS = tuple(tenth / 10 for tenth in range(10))


def without(image, saliency, count, fill, insert=False):
    """One image (C, H, W): its pixels replaced one after the other, in descending order of |channel mean|."""
    channels, height, width = image.shape
    places = [(row, column) for row in range(height) for column in range(width)]
    score = {place: abs(sum(saliency[c][place].item() for c in range(channels)) / channels) for place in places}
    order = sorted(places, key=lambda place: -score[place])
    result = image.clone()
    for row, column in order[count:] if insert else order[:count]:
        for channel in range(channels):
            result[channel, row, column] = fill(image[channel], channel, row, column)
    return result


FILLS = {
    "background": lambda channel, *_: channel[0, 0],
    "mean": lambda channel, *_: channel.mean(),
    "zero": lambda *_: 0.0,
}


@pytest.mark.parametrize("fill", FILLS)
def test_the_curve_is_that_of_images_taken_apart_one_by_one(noisy, images, fill):
    inputs, labels, maps = images
    curve = accuracy_drop(noisy, inputs, labels, maps, fill=fill, batch_size=3)
    noisy.eval()
    expected = []
    for fraction in TENTHS:
        hits = 0
        for image, label, saliency in zip(inputs, labels, maps, strict=True):
            changed = without(image, saliency, math.floor(round(fraction * 36, 9)), FILLS[fill])
            hits += int(noisy(changed[None])[0].argmax() == label)
        expected.append(hits / len(inputs))
    assert curve.fractions == TENTHS
    assert curve.accuracy == pytest.approx(expected)
    assert curve.area == pytest.approx(auc(TENTHS, expected) / 0.9)


@pytest.mark.parametrize("function", [deletion, insertion])
def test_probabilities_are_those_of_images_taken_apart_one_by_one(noisy, images, function):
    inputs, labels, maps = images
    found = function(noisy, inputs, labels, maps, steps=5, fill="mean", batch_size=4)
    noisy.eval()
    for sample, (image, label, saliency) in enumerate(zip(inputs, labels, maps, strict=True)):
        expected = []
        for step in range(6):
            count = math.floor(round(step / 5 * 36, 9))
            changed = without(image, saliency, count, FILLS["mean"], insert=function is insertion)
            expected.append(noisy(changed[None])[0].softmax(0)[label].item())
        assert found.probability[:, sample].tolist() == pytest.approx(expected)
        assert found.areas[sample].item() == pytest.approx(auc([step / 5 for step in range(6)], expected))
    assert found.area == pytest.approx(found.areas.mean().item())


def test_insertion_ends_where_deletion_begins(noisy, images):
    gone, come = (f(noisy, *images, fill="zero").probability for f in (deletion, insertion))
    assert torch.equal(gone[0], come[-1])
    assert torch.equal(gone[-1], come[0])


class Sum(nn.Module):
    """Class 1 where the first ten pixels sum to more than a half."""

    def forward(self, inputs):
        evidence = inputs.flatten(1)[:, :10].sum(1) - 0.5
        return torch.stack([torch.zeros_like(evidence), evidence], 1)


@pytest.fixture
def tens():
    """Eight images of 100 pixels of which the first ten are 1, all of class 1; the background is the last row's 0."""
    inputs = torch.zeros(8, 1, 10, 10, dtype=torch.float64)
    inputs[:, :, 0] = 1
    return inputs, torch.ones(8, dtype=torch.int64)


def test_perfect_saliency_drops_at_once_its_opposite_never_and_chance_between(tens):
    inputs, labels = tens
    perfect = accuracy_drop(Sum(), inputs, labels, inputs, fill="zero")
    assert perfect.accuracy == (1.0, *[0.0] * 9)
    assert perfect.area == pytest.approx(0.05 / 0.9)
    worst = accuracy_drop(Sum(), inputs, labels, 1 - inputs, fill="zero")
    assert worst.accuracy == (1.0,) * 10
    chance = accuracy_drop(Sum(), inputs, labels, None, fill="zero", draws=20)
    # All ten are gone with probability (f choose 10) / (100 choose 10).
    expected = [1 - math.comb(10 * tenth, 10) / math.comb(100, 10) for tenth in range(10)]
    assert chance.accuracy == pytest.approx(expected, abs=0.13)
    assert perfect.area < chance.area < worst.area


def test_magnitude_and_sign_rank_otherwise(tens):
    inputs, labels = tens
    against = accuracy_drop(Sum(), inputs, labels, -inputs, fill="zero")
    assert against.accuracy[1] == 0
    assert accuracy_drop(Sum(), inputs, labels, -inputs, fill="zero", ranking="signed").accuracy == (1.0,) * 10


def test_a_tenth_short_of_a_position_removes_none(tens):
    inputs, labels = tens
    narrow = inputs[:, :, :1, :]  # ten pixels, all needed but for one half
    curve = accuracy_drop(Sum(), narrow, labels, narrow, fractions=(0.09, 0.95, 1.0), fill="zero")
    assert curve.accuracy == (1.0, 1.0, 1.0, 0.0)  # of 0, 0, 9 and 10 pixels


def test_chance_is_seeded_and_a_mean_over_draws(noisy, images):
    def chance(**settings):
        return accuracy_drop(noisy, images[0], images[1], None, **settings).accuracy

    assert chance(seed=1) == chance(seed=1, batch_size=2)
    assert chance(seed=1, draws=1) != chance(seed=2, draws=1)
    assert any(value * 7 % 1 > 1e-9 for value in chance(draws=4))


def test_of_padded_series_only_valid_cells_are_ranked_counted_and_filled():
    class Seen(nn.Module):
        def forward(self, inputs):
            seen.append(inputs.clone())
            return inputs.sum((1, 2))[:, None] * torch.tensor([0.0, 1.0])

    seen = []
    inputs = torch.ones(2, 2, 5, dtype=torch.float64)
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    saliency = torch.ones_like(inputs) + torch.arange(5)  # highest in the padding
    labels = torch.ones(2, dtype=torch.int64)
    accuracy_drop(
        Seen(), inputs, labels, saliency, kind="series", valid=valid, fractions=(0.5,), fill=torch.tensor(7.0)
    )
    changed = (seen[1] == 7).int()
    assert changed.sum((1, 2)).tolist() == [5, 2]
    assert changed[1].tolist() == [[0, 1, 0, 0, 0]] * 2


def test_a_text_keeps_its_query(fading, texts):
    inputs, maps, valid, query = texts
    seen = []
    fading.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    labels = torch.zeros(6, dtype=torch.int64)
    settings = {"kind": "text", "valid": valid, "query": query, "fill": torch.tensor(7.0)}
    accuracy_drop(fading, inputs, labels, maps, fractions=(1.0,), **settings)
    changed = (seen[1] == 7).all(2)
    assert torch.equal(changed, valid & (torch.arange(9) >= query[:, None]))


def test_insertion_starts_from_the_query_and_the_padding_as_they_are(fading, texts):
    inputs, maps, valid, query = texts
    seen = []
    fading.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    settings = {"kind": "text", "valid": valid, "query": query, "fill": torch.tensor(7.0), "steps": 1}
    insertion(fading, inputs, torch.zeros(6, dtype=torch.int64), maps, **settings)
    assert torch.equal((seen[0] == 7).all(2), valid & (torch.arange(9) >= query[:, None]))
    assert torch.equal(seen[1], inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributions": torch.zeros(7, 2, 5, 6)}, r"^`attributions`: expected \(7, C, 6, 6\), got \(7, 2, 5, 6\)"),
        ({"attributions": torch.zeros(6, 2, 6, 6)}, r"^`attributions`"),
        ({"fractions": (0.5, 0.2)}, "^`fractions`: expected ascending"),
        ({"fractions": (0.5, 0.5)}, "^`fractions`: expected ascending"),
        ({"fractions": (0.5, 1.1)}, "^`fractions`"),
        ({"fractions": (math.nan,)}, "^`fractions`"),
        ({"fractions": (0.0,)}, "^`fractions`"),
        ({"fractions": ()}, "^`fractions`"),
        ({"labels": torch.full((7,), 3)}, "^`labels`: expected classes from 0 to 2, got 3"),
        ({"labels": torch.full((7,), -1)}, "^`labels`: expected known classes"),
        ({"labels": torch.zeros(7)}, "^`labels`: expected one integer"),
        ({"labels": torch.zeros(6, dtype=torch.int64)}, "^`labels`: expected one integer"),
        ({"fill": "black"}, "^`fill`: expected one of background, mean, uniform, zero or a tensor, got 'black'"),
        ({"fill": torch.zeros(3, 1, 1)}, "^`fill`: expected values that broadcast"),
        ({"ranking": "loudest"}, "^`ranking`"),
        ({"attributions": None, "draws": 0}, "^`draws`"),
        ({"model": nn.Identity()}, r"^`model`: expected logits of shape \(7, K\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(noisy, images, changes, message):
    inputs, labels, maps = images
    arguments = {"model": noisy, "inputs": inputs, "labels": labels, "attributions": maps, **changes}
    with pytest.raises(ValueError, match=message):
        accuracy_drop(**arguments)


def test_a_map_that_is_not_finite_is_named_by_its_sample(noisy, images):
    maps = images[2].clone()
    maps[4, 1, 2, 3] = math.nan
    with pytest.raises(ValueError, match=r"^`attributions`: expected finite values, got NaN or infinity in sample 4"):
        accuracy_drop(noisy, *images[:2], maps)


def test_a_background_is_of_images_alone():
    with pytest.raises(ValueError, match=r"^`fill`: expected mean, uniform"):
        accuracy_drop(
            Sum(), torch.zeros(1, 2, 9), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2, 9), kind="series"
        )


def test_a_network_that_says_nan_is_refused(noisy, images):
    noisy.linear.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^`model`: expected finite logits"):
        accuracy_drop(noisy, *images)


def test_areas_are_scikit_learns_over_uneven_fractions():
    fractions, values = (0.0, 0.05, 0.3, 0.9), [1.0, 0.4, 0.5, 0.1]
    assert float(area(fractions, torch.tensor(values, dtype=torch.float64))) == pytest.approx(
        auc(fractions, values) / 0.9
    )
