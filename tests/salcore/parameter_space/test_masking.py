"""Masking around objects: which pixels, what it does to probabilities, and that it finds a culprit that is known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from salcore.data import load
from salcore.data.batches import inputs_of
from salcore.data.pasted import PATCH, pasted
from salcore.moments import Moments
from salcore.parameter_space import ProfileStatistics, filter_profiles, filter_table
from salcore.parameter_space.input_space import input_space_saliency
from salcore.parameter_space.masking import masking_effect, most_salient_outside, paired_test, random_outside
from salcore.seeds import forked
from salcore.spec import DataSpec
from tests.salcore.parameter_space.networks import CLASSES, Net, conv, noise

BOXES = np.array([[0, 0, 3, 4], [2, 1, 8, 9], [5, 5, 6, 6], [0, 0, 8, 8]])
"""In pictures of 9 rows and 8 columns; the last leaves one row outside."""


def inside(boxes, size=(9, 8)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_the_most_salient_pixels_are_those_of_the_largest_magnitude_outside_the_box():
    maps = noise(4, 3, 9, 8)
    found = most_salient_outside(maps, BOXES, fraction=0.1)
    for mask, image, box in zip(found, maps, inside(BOXES), strict=True):
        scores = {
            (row, column): max(abs(image[channel, row, column].item()) for channel in range(3))
            for row in range(9)
            for column in range(8)
            if not box[row, column]
        }
        highest = sorted(scores, key=lambda place: -scores[place])[:7]  # a tenth of 72 pixels
        assert {tuple(place) for place in mask.nonzero().tolist()} == set(highest)


def test_of_equal_pixels_the_first_are_taken_and_of_too_few_all():
    zeros = torch.zeros(4, 1, 9, 8)
    assert most_salient_outside(zeros, BOXES, fraction=0.03)[0].nonzero().tolist() == [[0, 3], [0, 4]]
    assert torch.equal(most_salient_outside(zeros, BOXES, fraction=1.0), ~inside(BOXES))
    assert most_salient_outside(zeros, BOXES, fraction=1e-9).flatten(1).sum(1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("maps", "boxes", "fraction", "words"),
    [
        (torch.zeros(4, 1, 9, 8), BOXES, 0.0, "`fraction`: expected a share .* got 0.0"),
        (torch.zeros(4, 1, 9, 8), BOXES, 5, "`fraction`: expected a share .* got 5"),
        (torch.full((4, 1, 9, 8), math.nan), BOXES, 0.1, "`maps`: expected finite numbers"),
        (torch.zeros(4, 9, 8), BOXES, 0.1, r"`maps`: expected finite numbers \(N, C, H, W\), got \(4, 9, 8\)"),
        (torch.zeros(3, 1, 9, 8), BOXES, 0.1, r"`boxes`: expected \(3, 4\) integers, got \(4, 4\)"),
        (torch.zeros(4, 1, 9, 8), BOXES / 2, 0.1, "`boxes`: expected .* of float64"),
        (torch.zeros(4, 1, 8, 8), BOXES, 0.1, r"`boxes`: .* a pixel outside, got \[0, 0, 8, 8\] of the whole image"),
    ],
)
def test_what_cannot_be_masked_is_told(maps, boxes, fraction, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        most_salient_outside(maps, boxes, fraction)


def test_random_pixels_are_as_many_and_outside_too():
    counts = torch.tensor([7, 0, 71, 8])
    found = random_outside(BOXES, (9, 8), counts, samples=range(4))
    assert torch.equal(found.flatten(1).sum(1), counts)
    assert not (found & inside(BOXES)).any()


def test_random_pixels_depend_on_the_sample_and_the_seed_alone():
    together = random_outside(BOXES, (9, 8), [5] * 4, samples=[3, 1, 4, 1])
    alone = random_outside(BOXES[2:3], (9, 8), [5], samples=[4])
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(alone, random_outside(BOXES[2:3], (9, 8), [5], samples=[5]))
    assert not torch.equal(alone, random_outside(BOXES[2:3], (9, 8), [5], samples=[4], seed=1))
    more = random_outside(BOXES[2:3], (9, 8), [9], samples=[4])
    assert bool((more | ~alone).all())


def test_every_pixel_outside_is_as_likely():
    boxes = np.repeat(BOXES[:1], 500, axis=0)
    often = random_outside(boxes, (9, 8), [6] * 500, samples=range(500)).sum(0)[~inside(BOXES[:1])[0]]
    assert stats.chisquare(often.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("counts", "samples", "words"),
    [
        ([9, 9, 9, 9], range(4), "`counts`: expected 0 to 8 pixels, as lie outside the box, got 9"),
        ([1, 1, 1, -1], range(4), "`counts`: .* got -1"),
        ([1, 1, 1, 1], range(3), "`samples`: expected a number for each of 4 counts, got 3"),
    ],
)
def test_more_random_pixels_than_there_are_are_refused(counts, samples, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        random_outside(BOXES, (9, 8), counts, samples=samples)


@pytest.fixture
def network():
    return Net(lambda m, x: m.norm(m.layer(x)), layer=conv(), norm=nn.BatchNorm2d(4))


def test_the_effect_is_the_change_of_the_probabilities_of_the_masked_images(network):
    inputs, labels = noise(5, 4, 9, 8), torch.tensor([0, 1, 2, 3, 4])
    masks = torch.rand(5, 2, 9, 8, generator=torch.Generator().manual_seed(3)) < 0.3
    effect = masking_effect(network.train(), inputs, labels, masks, fill=0.5)
    network.eval()
    with torch.no_grad():
        before = network(inputs).softmax(1)
    for n in range(5):
        for kind in range(2):
            image = inputs[n].clone()
            image[:, masks[n, kind]] = 0.5
            with torch.no_grad():
                after = network(image[None]).softmax(1)[0]
            predicted, label = int(before[n].argmax()), int(labels[n])
            assert effect.incorrect[n, kind] == pytest.approx((after - before[n])[predicted].item(), abs=1e-12)
            assert effect.true[n, kind] == pytest.approx((after - before[n])[label].item(), abs=1e-12)
            assert effect.corrected[n, kind] == (predicted != label and int(after.argmax()) == label)


def test_nothing_masked_changes_nothing_and_the_model_and_inputs_stay_as_they_were(network):
    network.train()
    inputs, state = noise(2, 4, 9, 8), {key: value.clone() for key, value in network.state_dict().items()}
    given = inputs.clone()
    effect = masking_effect(network, inputs, torch.zeros(2).long(), torch.zeros(2, 1, 9, 8, dtype=torch.bool))
    assert not effect.true.any()
    assert not effect.incorrect.any()
    masking_effect(network, inputs, torch.zeros(2).long(), torch.ones(2, 1, 9, 8, dtype=torch.bool))
    assert network.training
    assert torch.equal(inputs, given)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("labels", "masks", "words"),
    [
        (torch.zeros(2).long(), torch.zeros(2, 9, 8, dtype=torch.bool), r"`masks`: expected \(N, B, H, W\) bool"),
        (torch.zeros(2).long(), torch.zeros(2, 1, 9, 8), "`masks`: .* torch.float32"),
        (torch.zeros(2).long(), torch.zeros(2, 1, 8, 9, dtype=torch.bool), "`masks`"),
        (
            torch.full((2,), CLASSES),
            torch.zeros(2, 1, 9, 8, dtype=torch.bool),
            "`labels`: expected classes from 0 to 4",
        ),
        (torch.zeros(3).long(), torch.zeros(2, 1, 9, 8, dtype=torch.bool), "`labels`: expected 2 integers"),
    ],
)
def test_masks_and_labels_that_do_not_fit_are_told(network, labels, masks, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        masking_effect(network, noise(2, 4, 9, 8), labels, masks)


def test_the_paired_test_is_scipys():
    before, after = np.random.default_rng(0).normal([[0.0], [0.3]], 1.0, (2, 40))
    mean, t, p = paired_test(after - before)
    expected = stats.ttest_rel(after, before)
    assert mean == pytest.approx((after - before).mean())
    assert t == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue)
    assert paired_test(before - after).p == pytest.approx(p)


def test_the_paired_test_of_too_little_is_nan():
    assert math.isnan(paired_test(np.array([])).mean)
    assert paired_test(np.array([0.5]))[0] == 0.5
    for changes in ([0.5], [0.0, 0.0], []):
        assert math.isnan(paired_test(np.array(changes)).t)
        assert math.isnan(paired_test(np.array(changes)).p)
    assert paired_test(np.array([-0.5, -0.5])) == (-0.5, -math.inf, 0.0)
    with pytest.raises(ValueError, match=r"`changes`: expected one for each sample \(N,\), got \(2, 1\)"):
        paired_test(np.zeros((2, 1)))


@pytest.fixture(scope="module")
def misled():
    """The data, and a network that learned to look at the clutter beside an object as well as at the object."""
    data = load(DataSpec(name="pasted", eval_samples=1000))
    inputs, labels = of_part(data, data.train)
    with forked(0):
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(16, 4))
        steps = 5 * math.ceil(len(labels) / 64)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
        for _ in range(5):
            for rows in torch.randperm(len(labels)).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
                optimizer.step()
                schedule.step()
    return data, model.eval()


def of_part(data, part):
    return inputs_of(part, part.index, data)[0], torch.from_numpy(part.labels[part.index])


def test_the_salient_filters_lead_to_the_clutter_that_misleads(misled):
    data, model = misled
    known = pasted("test", 0)
    samples = data.evaluation.index
    inputs, labels = of_part(data, data.evaluation)
    with torch.no_grad():
        predictions = model(inputs).argmax(1).numpy()
    towards = (predictions != known.labels[samples]) & (predictions == known.patterns[samples])
    assert towards.sum() > 0.6 * (predictions != known.labels[samples]).sum()  # by chance a sixth
    rows = np.flatnonzero(towards)[:80]
    assert len(rows) == 80

    held_out = of_part(data, data.validation)
    table = filter_table(model, inputs[:1])
    statistics = ProfileStatistics.of(Moments.from_batch(filter_profiles(model, *held_out).numpy()), table)
    maps = input_space_saliency(model, inputs[rows], labels[rows], statistics=statistics)

    objects, patches = (boxes[samples[rows]] for boxes in (known.objects, known.patches))
    salient = most_salient_outside(maps, objects, fraction=0.05)
    random = random_outside(objects, (32, 32), salient.flatten(1).sum(1), samples=samples[rows].tolist())
    clutter = inside(patches, (32, 32))
    area = PATCH**2 / (32**2 - 11**2)  # of what is outside the object's box
    assert (salient & clutter).sum() / salient.sum() > 3 * area
    assert 0.7 * area < (random & clutter).sum() / random.sum() < 1.3 * area

    effect = masking_effect(model, inputs[rows], labels[rows], torch.stack([salient, random], dim=1))
    for changes, sign in ((effect.true, 1), (effect.incorrect, -1)):
        mean, _, p = paired_test(changes[:, 0])
        assert sign * mean > 0.05
        assert p < 0.05
        assert abs(paired_test(changes[:, 1]).mean) < abs(mean) / 3
        more, _, p = paired_test(changes[:, 0] - changes[:, 1])
        assert sign * more > 0
        assert p < 0.05
    assert effect.corrected[:, 0].mean() > 2 * effect.corrected[:, 1].mean()


def test_a_network_that_works_in_place_changes_neither_effects_nor_inputs():
    class InPlace(nn.Sequential):
        def forward(self, inputs):
            return super().forward(inputs.sub_(0.5).mul_(2))

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9 * 8, CLASSES))
    inputs, labels, masks = noise(2, 4, 9, 8), torch.zeros(2).long(), torch.zeros(2, 2, 9, 8, dtype=torch.bool)
    masks[:, 1, :4] = True
    given = inputs.clone()
    found = masking_effect(InPlace(*plain), inputs, labels, masks)
    assert torch.equal(inputs, given)
    assert not found.true[:, 0].any()
    assert found.true[:, 1].all()
