"""Significance masks against Benjamini-Hochberg from p-values, and the false ones counted where the truth is known."""

import numpy as np
import pytest
from scipy import ndimage, stats

from salcore.significance import CONTROLLED, FALSE_SHARE, significant


def moments(maps):
    return maps.mean(0), maps.var(0, ddof=1), len(maps)


def slow(mean, variance, members, q=FALSE_SHARE, distribution=None, correct=True):
    """The mask `(P,)` of one map, from the p-value of each pixel."""
    chosen = np.flatnonzero(variance > 0)
    t = np.abs(mean[chosen]) / np.sqrt(variance[chosen] / members)
    p = 2 * (distribution or stats.t(members - 1)).sf(t)
    mask = np.zeros(len(mean), bool)
    if len(p):
        mask[chosen] = (stats.false_discovery_control(p) if correct else p) <= q
    return mask


def truth(rng, share, shape=(16, 16)):
    """A signal `shape` that is exactly 0 but in the smooth blobs where a blurred field is highest."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    return np.where(field > np.quantile(field, 1 - share), 1.0, 0.0)


def draw(rng, members, signal, *, blur, strength):
    """Maps `(M, P)`: Gaussian noise, correlated between neighbours, of a size that differs between pixels by far."""
    noise = rng.normal(size=(members, *signal.shape))
    if blur:
        noise = ndimage.gaussian_filter(noise, (0, blur, blur), mode="wrap")
        noise /= noise.std()
    size = 10 ** ndimage.gaussian_filter(rng.normal(size=signal.shape), 2, mode="wrap") ** 3
    size *= 10 ** rng.uniform(-1, 1, signal.shape)
    return ((strength * signal + noise) * size).reshape(members, -1)


def false_shares(find, members, *, draws=300, blur=2, share=0.3, strength=2.0, seed=0):
    """Share of false pixels among those marked, for each draw, and the power."""
    rng, found, power = np.random.default_rng(seed), [], []
    for _ in range(draws):
        signal = truth(rng, share)
        mask = find(*moments(draw(rng, members, signal, blur=blur, strength=strength)))
        null = signal.ravel() == 0
        found.append((mask & null).sum() / max(1, mask.sum()))
        power.append((mask & ~null).sum() / max(1, (~null).sum()))
    return np.array(found), np.mean(power)


def bound(found):
    """What is allowed: 5 % and three Monte-Carlo standard errors."""
    return FALSE_SHARE + 3 * found.std(ddof=1) / np.sqrt(len(found))


def ours(mean, variance, members):
    return significant(mean[None], variance[None], members)[0][0].astype(bool)


@pytest.mark.parametrize("members", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0, 20.0])
def test_equals_benjamini_hochberg_from_p_values(members, strength):
    rng = np.random.default_rng(members)
    signal = strength * rng.normal(size=(6, 3, 5, 7)) * (rng.random((6, 3, 5, 7)) < 0.4)
    mean, variance, count = moments(rng.normal(size=(members, *signal.shape)) + signal)
    mask, tested = significant(mean, variance, count)
    assert (mask.dtype, mask.shape, tested.dtype) == (np.uint8, signal.shape, np.int32)
    assert tested.tolist() == [105] * 6
    for n in range(6):
        expected = slow(mean[n].ravel(), variance[n].ravel(), count)
        np.testing.assert_array_equal(mask[n].ravel().astype(bool), expected)
    assert strength < 20 or members < 5 or mask.any(axis=(1, 2, 3)).all()


def test_a_map_is_tested_by_itself():
    rng = np.random.default_rng(0)
    mean, variance, _ = moments(rng.normal(size=(6, 9, 40)) + np.linspace(0, 4, 9)[:, None])
    together, tested = significant(mean, variance, 6)
    for n in range(9):
        alone, count = significant(mean[n : n + 1], variance[n : n + 1], 6)
        np.testing.assert_array_equal(alone[0], together[n])
        assert count[0] == tested[n]


def test_the_largest_k_counts_where_a_smaller_one_fails():
    # Of two hypotheses the first fails q / 2 by itself, and both pass q: a step-up procedure rejects both.
    t = stats.t.isf(np.array([0.04, 0.045]) / 2, 9)
    assert significant(t[None] / np.sqrt(10), np.ones((1, 2)), 10)[0].tolist() == [[1, 1]]
    t = stats.t.isf(np.array([0.04, 0.055]) / 2, 9)
    assert significant(t[None] / np.sqrt(10), np.ones((1, 2)), 10)[0].tolist() == [[0, 0]]


@pytest.mark.parametrize(("p", "marked"), [(0.049, 1), (0.051, 0)])
@pytest.mark.parametrize("members", [2, 5, 30])
def test_a_single_pixel_has_students_interval(p, marked, members):
    mean = stats.t.isf(p / 2, members - 1) * np.sqrt(3.0 / members)
    for sign in (1, -1):
        assert significant(np.array([[sign * mean]]), np.array([[3.0]]), members)[0].item() == marked


def test_pixels_without_variance_are_not_tested():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(5, 2, 50)) + 3
    maps[:, :, 10:] = 7.0
    mask, tested = significant(*moments(maps))
    assert tested.tolist() == [10, 10]
    assert not mask[:, 10:].any()
    np.testing.assert_array_equal(mask[:, :10], significant(*moments(maps[:, :, :10]))[0])
    mask, tested = significant(np.ones((1, 4)), np.zeros((1, 4)), 5)
    assert (mask.sum(), tested.tolist()) == (0, [0])


@pytest.mark.parametrize("members", [0, 1])
def test_fewer_than_two_members_test_nothing(members):
    mask, tested = significant(np.ones((2, 3, 4)), np.full((2, 3, 4), np.nan), members)
    assert (mask.shape, mask.sum(), tested.tolist()) == ((2, 3, 4), 0, [0, 0])


def test_superpixels_are_one_hypothesis_each():
    rng = np.random.default_rng(3)
    segments = rng.integers(0, 12, (9, 9))
    values = rng.normal(size=(8, 12)) + np.linspace(0, 2.5, 12)
    mask, tested = significant(*moments(values[:, segments][:, None]))
    expected, _ = significant(*moments(values[:, None]))
    assert tested.tolist() == [12]
    np.testing.assert_array_equal(mask[0], expected[0][segments])
    assert 0 < expected.sum() < 12


def test_a_large_superpixel_does_not_open_the_door_for_others():
    # 0.04 is above 2 q / 3, the bound of three hypotheses, and below 99 q / 100, that of a hundred pixels.
    t = stats.t.isf(np.array([1e-6, 0.04, 0.5]) / 2, 9)[[0] * 98 + [1, 2]] / np.sqrt(10)
    mask, tested = significant(t[None], np.ones((1, 100)), 10)
    assert (mask.sum(), tested.tolist()) == (98, [3])
    assert slow(t, np.ones(100), 10).sum() == 99


@pytest.mark.parametrize("members", [5, 10, 30])
@pytest.mark.parametrize("blur", [0, 2])
def test_false_ones_are_at_most_5_percent(members, blur):
    found, power = false_shares(ours, members, blur=blur)
    assert found.mean() <= bound(found)
    assert power > (0.2 if members == 5 else 0.9)


@pytest.mark.parametrize("members", [5, 30])
def test_pure_noise_is_marked_in_few_samples(members):
    found, _ = false_shares(ours, members, share=0.0, strength=0.0)
    assert found.mean() <= bound(found)


def as_if_ddof_0(mean, variance, members):
    return slow(mean, variance * (members - 1) / members, members)


def as_if_normal(mean, variance, members):
    return slow(mean, variance, members, distribution=stats.norm)


def without_correction(mean, variance, members):
    return slow(mean, variance, members, correct=False)


def without_root(mean, variance, members):
    return slow(mean, variance / members, members)


@pytest.mark.parametrize("wrong", [as_if_ddof_0, as_if_normal, without_correction, without_root])
def test_the_count_of_false_ones_would_show_an_easy_mistake(wrong):
    found, _ = false_shares(wrong, 5, blur=0, share=0.1, strength=6.0)
    right, _ = false_shares(ours, 5, blur=0, share=0.1, strength=6.0)
    assert found.mean() > bound(found)
    assert right.mean() <= bound(right)


def test_a_false_superpixel_counts_once():
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        values = rng.normal(size=(10, 40)) + np.where(np.arange(40) < 12, 2.0, 0.0)
        segments = np.repeat(np.arange(40), rng.integers(1, 12, 40))
        mask = significant(*moments(values[:, None, segments]))[0][0]
        marked = np.unique(segments[mask.astype(bool)])
        found.append((marked >= 12).sum() / max(1, len(marked)))
    assert np.mean(found) <= bound(np.array(found))


def test_what_is_controlled_is_said_with_its_assumptions():
    for word in ("5 %", "t test", "Benjamini-Hochberg", "independently", "normal", "Not promised"):
        assert word in CONTROLLED
