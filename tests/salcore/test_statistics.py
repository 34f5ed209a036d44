"""Read-outs against closed forms, and the jackknife against ensembles that really lack a member."""

import numpy as np
import pytest

from salcore import statistics
from salcore.moments import Moments


def measured(maps):
    """||mean||^2 and ||sigma||^2 `(N,)` of maps `(M, N, P)`."""
    return (maps.mean(0) ** 2).sum(-1), maps.var(0, ddof=1).sum(-1)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("members", "printed"), [(30, 0.18), (5, 0.45)])
def test_pure_noise_has_the_snr_of_the_null(rng, members, printed):
    mean2, noise2 = measured(rng.normal(size=(members, 200, 500)))
    assert statistics.null(members) == pytest.approx(printed, abs=0.005)
    assert statistics.snr(mean2, noise2).mean() == pytest.approx(statistics.null(members), rel=0.01)


def test_pure_noise_has_no_debiased_signal(rng):
    mean2, noise2 = measured(rng.normal(size=(10, 400, 100)))
    signal2 = statistics.signal2(mean2, noise2, 10)
    assert 0.4 < (signal2 < 0).mean() < 0.6
    assert abs(signal2.mean()) < 3 * signal2.std() / 20
    assert (statistics.debiased(signal2, noise2)[signal2 < 0] == 0).all()


@pytest.mark.parametrize("members", [3, 10, 40])
@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
def test_debiased_snr_does_not_depend_on_the_number_of_members(rng, members, strength):
    maps = strength + rng.normal(size=(members, 300, 200))
    mean2, noise2 = measured(maps)
    signal2 = statistics.signal2(mean2, noise2, members)
    assert np.sqrt(signal2.mean() / noise2.mean()) == pytest.approx(strength, rel=0.02)
    at_30 = statistics.at_members(signal2.mean(), noise2.mean())
    assert at_30 == pytest.approx(np.sqrt(strength**2 + 1 / 30), rel=0.02)


def test_at_the_members_that_were_there_it_is_the_snr_itself(rng):
    mean2, noise2 = measured(rng.normal(1, 1, size=(7, 5, 20)))
    signal2 = statistics.signal2(mean2, noise2, 7)
    np.testing.assert_allclose(statistics.at_members(signal2, noise2, 7), statistics.snr(mean2, noise2))


def test_edges():
    assert np.isinf(statistics.snr(1.0, 0.0))
    assert np.isnan(statistics.snr(0.0, 0.0))
    assert np.isnan(statistics.snr(1.0, np.nan))
    assert np.isnan(statistics.null(0))
    assert statistics.at_members(-1.0, 1.0) == 0


@pytest.mark.parametrize("members", [3, 4, 11])
def test_noise_without_a_member_equals_the_ensemble_without_it(rng, members):
    maps = rng.normal(0.5, 2, size=(members, 6, 9))
    noise2 = measured(maps)[1]
    for i in range(members):
        deviation2 = ((maps[i] - maps.mean(0)) ** 2).sum(-1)
        expected = measured(np.delete(maps, i, axis=0))[1]
        np.testing.assert_allclose(statistics.noise2_without(noise2, deviation2, members), expected, rtol=1e-10)


def test_noise_of_one_member_left_is_unknown():
    assert np.isnan(statistics.noise2_without(np.ones(2), np.ones(2), 2)).all()


def test_jackknife_of_a_mean_is_its_standard_error(rng):
    # For a mean the jackknife is exactly s / sqrt(M), and the interval Student's.
    x = rng.normal(size=8)
    without = np.array([np.delete(x, i).mean() for i in range(8)])
    estimate = statistics.jackknife(x.mean(), without)
    reach = 2.3646242515927844 * x.std(ddof=1) / np.sqrt(8)  # t(0.975, 7) of a printed table: 2.3646
    assert estimate.low == pytest.approx(x.mean() - reach)
    assert estimate.high == pytest.approx(x.mean() + reach)


@pytest.mark.parametrize("without", [[], [1.0], [1.0, 2.0], [1.0, np.nan, 2.0], [1.0, 2.0, np.inf], [np.inf] * 3])
def test_jackknife_of_too_little_has_no_interval(without):
    estimate = statistics.jackknife(1.5, np.array(without))
    assert estimate.value == 1.5
    assert np.isnan([estimate.low, estimate.high]).all()


def test_intervals_of_many_values_are_those_of_each(rng):
    without = rng.normal(size=(6, 4))
    without[2, 3] = np.nan
    low, high = statistics.interval(np.arange(4.0), Moments.from_batch(without))
    for n in range(4):
        one = statistics.jackknife(float(n), without[:, n])
        np.testing.assert_allclose([low[n], high[n]], [one.low, one.high], rtol=1e-12)
    assert np.isnan([low[3], high[3]]).all()
    np.testing.assert_allclose(high[:3] - low[:3], 2 * 2.5705818366147395 * np.sqrt(5 * without[:, :3].var(0)))


def test_members_for_an_snr_of_the_mean_map():
    assert statistics.members_for(0.5, 4.0) == 64
    assert statistics.members_for(0.5, 4.001) == 65
    assert statistics.members_for(0.1, 0.1 * 3**0.5) == 3  # rounding does not add a member
    assert statistics.members_for(5.0, 0.1) == statistics.members_for(np.inf, 3.0) == 1
    assert statistics.members_for(0.0, 1.0) == statistics.members_for(1e-200, 1.0) == np.inf
    assert np.isnan([statistics.members_for(np.nan, 1.0), statistics.members_for(0.5, np.nan)]).all()
    for members in (3, 10, 29):
        assert statistics.members_for(0.7, statistics.mean_map_snr(0.7, members)) == members


def test_mean_map_snr_is_that_of_the_mean_of_so_many(rng):
    means = rng.normal(0.5, 1, size=(16, 20_000)).mean(0)
    assert means.mean() / means.std() == pytest.approx(statistics.mean_map_snr(0.5, 16), rel=0.05)


# Quantiles 0.975 of Student's t with 2, 4, 9, 17 and 18 degrees of freedom, from a printed table.
T = {3: 4.3027, 5: 2.7764, 10: 2.2622, 18: 2.1098, 19: 2.1009}


@pytest.mark.parametrize(("today", "then"), [(5, 10), (3, 5), (10, 19), (10, 3)])
def test_projected_members_are_where_the_interval_is_as_wide_as_asked(today, then):
    asked = 0.3 * (T[then] / then**0.5) / (T[today] / today**0.5)
    assert statistics.projected_members(0.3, asked * 1.001, today) == then
    assert statistics.projected_members(0.3, asked * 0.999, today) == (then + 1)


def test_projected_members_of_what_is_there_are_those_there():
    for members in (3, 4, 17, 1000):
        assert statistics.projected_members(0.2, 0.2, members) == members
    for asked in (1e-3, 1e-5, 1e-7):
        assert statistics.projected_members(0.2, asked, 10) == pytest.approx(
            (2 * 0.1 * 1.95996 / asked / (2.26216 / 10**0.5)) ** 2, rel=1e-3
        )


@pytest.mark.parametrize(
    ("width", "asked", "members"),
    [
        (np.nan, 0.1, 5),
        (np.inf, 0.1, 5),
        (0.1, 0, 5),
        (0.1, -1, 5),
        (0.1, np.nan, 5),
        (0.1, 1e-12, 5),
        (0.1, 1e-300, 5),
    ],
)
def test_no_number_of_members_is_enough(width, asked, members):
    assert statistics.projected_members(width, asked, members) == np.inf


def test_no_width_is_narrow_at_once():
    assert statistics.projected_members(0.0, 0.1, 7) == statistics.projected_members(0.1, 100, 7) == 3


def test_interval_covers_the_truth_about_as_often_as_it_says(rng):
    strength, hits = 0.5, 0
    for _ in range(300):
        maps = strength + rng.normal(size=(8, 1, 150))
        (mean2, noise2), rest = measured(maps), [measured(np.delete(maps, i, axis=0)) for i in range(8)]
        estimate = statistics.debiased_summary(
            statistics.signal2(mean2, noise2, 8).sum(),
            noise2.sum(),
            np.array([statistics.signal2(m, n, 7).sum() for m, n in rest]),
            np.array([n.sum() for _, n in rest]),
        )
        hits += estimate.low <= strength <= estimate.high
    assert 0.88 <= hits / 300 <= 0.99


def test_debiased_summary_clips_a_negative_ratio_at_zero_and_keeps_the_order():
    estimate = statistics.debiased_summary(-0.01, 1.0, np.array([-0.2, 0.1, 0.05]), np.ones(3))
    assert estimate.value == estimate.low == 0 < estimate.high
    raised = statistics.debiased_summary(-0.01, 1.0, np.array([-0.2, 0.1, 0.05]), np.ones(3), at=30)
    assert raised.value == pytest.approx(np.sqrt(1 / 30 - 0.01))


def test_convergence_grid_ends_at_all_members_and_stays_small():
    for members in (1, 2, 6, 7, 24, 25, 26, 30, 100, 10_000):
        grid = statistics.convergence_grid(members)
        assert len(grid) <= 24
        assert grid[-1] == members
        assert set(range(1, min(members, 6) + 1)) <= set(grid)
        assert list(grid) == sorted(set(grid))
