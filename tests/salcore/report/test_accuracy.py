import numpy as np
import pytest
import torch

from salcore.report.accuracy import accuracy, confidence, ensemble_probabilities, softmax


def test_softmax_is_that_of_torch_and_survives_large_logits():
    logits = np.random.default_rng(0).standard_normal((3, 4, 5)) * 50
    expected = torch.softmax(torch.from_numpy(logits), -1).numpy()
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-12, atol=1e-300)
    assert np.isfinite(softmax(np.array([1e4, -1e4]))).all()


def test_members_and_ensemble_are_counted_and_unlabelled_samples_are_not(logits):
    labels = np.array([0, 1, 2, 3, -1, -1])
    z = np.zeros((2, 6, 4))
    z[0, [0, 1, 2, 3], [0, 1, 2, 0]] = 1  # three of four
    z[1, [0, 1, 2, 3], [0, 1, 3, 3]] = 2  # three of four
    found = accuracy((4, 7), labels, z)
    assert found.members == {4: 0.75, 7: 0.75}
    assert found.samples == 4
    assert found.ensemble.value == 0.75  # sample 3 goes to the surer member, sample 2 as well
    assert found.guessing == 0.25


def test_the_ensemble_averages_probabilities_and_not_logits():
    # Two members are mildly for class 1; one is for class 0 by a logit so large that a mean of logits would follow it.
    z = np.array([[[0.0, 1.0]], [[0.0, 1.0]], [[50.0, 0.0]]])
    found = accuracy((0, 1, 2), np.array([1]), z)
    assert ensemble_probabilities(z)[0] == pytest.approx([(2 / (1 + np.e) + 1) / 3, 1 - (2 / (1 + np.e) + 1) / 3])
    assert found.ensemble.value == float(ensemble_probabilities(z)[0, 1] > 0.5)
    assert z.mean(axis=0)[0].argmax() == 0


def test_members_at_chance_are_named_and_a_weak_but_real_one_is_not(logits):
    labels = np.arange(200) % 10
    found = accuracy((0, 1, 2, 3), labels, logits(labels, [0.9, 0.1, 0.12, 0.3]))
    assert found.at_chance == (1, 2)


def test_guessing_is_naming_the_largest_class():
    labels = np.array([1] * 90 + [0] * 10)
    always = np.zeros((1, 100, 2))
    always[..., 1] = 1
    found = accuracy((0,), labels, always)
    assert found.guessing == 0.9
    assert found.at_chance == (0,)


@pytest.mark.parametrize(("count", "largest"), [(6, 3), (40, 36), (512, 507)])
def test_with_few_samples_outside_the_largest_class_nobody_is_at_chance(logits, count, largest):
    """Three standard errors above guessing is more than 1 there: not even a perfect member would be clearly better."""
    labels = (np.arange(count) >= largest).astype(int)
    found = accuracy((0, 1), labels, logits(labels, [1.0, 0.5], classes=2))
    assert found.members[0] == 1
    assert found.at_chance == ()
    assert not found.tells_chance


def test_one_class_flags_nobody_and_no_labels_give_nothing():
    assert accuracy((0,), np.zeros(5, int), np.zeros((1, 5, 1))).at_chance == ()
    assert accuracy((0,), np.full(5, -1), np.zeros((1, 5, 3))) is None


def test_equal_members_leave_no_doubt_about_the_ensemble():
    z = np.repeat(np.random.default_rng(0).standard_normal((1, 30, 4)), 5, axis=0)
    found = accuracy(tuple(range(5)), np.arange(30) % 4, z)
    assert found.ensemble.low == found.ensemble.value == found.ensemble.high


def test_confidence_is_in_the_label_or_the_likeliest_class():
    probabilities = np.array([[0.2, 0.8], [0.2, 0.8]])
    assert confidence(probabilities, np.array([0, -1])).tolist() == [0.2, 0.8]
