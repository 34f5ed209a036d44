import numpy as np

from salcore.figures.choose import cosines, extremes, least_certain, representative


def test_representative_samples_go_from_the_highest_to_the_lowest():
    snr = np.random.default_rng(0).permutation(101).astype(float)
    assert [snr[i] for i in representative(snr, 5)] == [100, 75, 50, 25, 0]


def test_no_sample_is_shown_twice_and_undefined_ones_not_at_all():
    assert representative(np.array([np.nan, 2.0, 1.0]), 6) == [1, 2]
    assert representative(np.array([np.nan, np.nan]), 6) == [0, 1]


def test_least_certain_samples_start_with_the_worst():
    assert least_certain(np.array([3.0, np.nan, 1.0, 2.0]), 2) == [2, 3]


def test_extremes_are_the_member_against_the_mean_and_the_one_against_that():
    north, east = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    maps = np.stack([north, north + 0.1 * east, -north + 0.2 * east, north + 2 * east])[:, None]
    assert extremes(maps) == (2, 0)


def test_extremes_do_not_depend_on_the_scale_of_a_member():
    maps = np.random.default_rng(1).standard_normal((5, 3, 4))
    assert extremes(maps)[1] == extremes(maps * 1000)[1]


def test_one_member_is_its_own_extreme_and_equal_members_are_two():
    assert extremes(np.ones((1, 2, 2))) == (0,)
    assert extremes(np.ones((3, 2, 2))) == (0, 1)


def test_a_map_of_zeros_has_cosine_zero():
    assert cosines(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([2.0, 0.0])).tolist() == [0.0, 1.0]
