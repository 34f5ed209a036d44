"""Nearest neighbours among standardised profiles."""

import numpy as np
import pytest

from salcore.parameter_space import FilterTable, Layer
from salcore.parameter_space.neighbours import depth_half, nearest, same_pair

RNG = np.random.default_rng(0)
QUERIES, ROWS = (RNG.normal(size=(n, 12)).astype(np.float32) for n in (5, 40))


def cut(rows, size):
    return [(slice(start, start + len(rows[start : start + size])), rows[start : start + size])
            for start in range(0, len(rows), size)]  # fmt: skip


def cosine(queries, rows):
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(queries, rows)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_neighbours_are_those_of_the_whole_table_however_it_is_cut(size):
    found = nearest(QUERIES, cut(ROWS, size), 6)
    expected = cosine(QUERIES, ROWS)
    order = np.argsort(-expected, axis=1)[:, :6]
    np.testing.assert_array_equal(found.place, order)
    np.testing.assert_allclose(found.similarity, np.take_along_axis(expected, order, 1), rtol=1e-5)


def test_the_opposite_profile_is_the_farthest_and_length_does_not_count():
    found = nearest(QUERIES[:1], cut(np.concatenate([-QUERIES[:1], 100 * QUERIES[:1], QUERIES[1:]]), 3), 6)
    assert (found.place[0, 0], found.place[0, -1]) == (1, 0)
    np.testing.assert_allclose(found.similarity[0, [0, -1]], [1, -1], rtol=1e-5)


def test_some_rows_and_some_filters_alone():
    columns, among = np.arange(12) < 4, np.arange(40) % 3 == 0
    found = nearest(QUERIES, cut(ROWS, 9), 3, columns=columns, among=among)
    expected = np.where(among, cosine(QUERIES[:, columns], ROWS[:, columns]), -2)
    np.testing.assert_array_equal(found.place, np.argsort(-expected, axis=1)[:, :3])


def test_of_equal_rows_the_first_comes_first():
    same = np.eye(12, dtype=np.float32)[[3] * 5]  # no rounding makes one of them more equal
    assert nearest(same[:1], cut(same, 2), 3).place.tolist() == [[0, 1, 2]]


def test_there_are_no_more_neighbours_than_rows_and_zeros_are_like_nothing():
    found = nearest(np.zeros((1, 12), np.float32), cut(ROWS[:2], 2), 6)
    assert found.place.tolist() == [[0, 1]]
    assert found.similarity.tolist() == [[0.0, 0.0]]


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        nearest(QUERIES, [], 0)
    with pytest.raises(ValueError, match="12 filters, got 11"):
        nearest(QUERIES, cut(ROWS[:, :11], 4), 1)


def test_a_pair_of_classes_counts_in_either_order():
    labels, predictions = np.array([[1, 2, 2, 1, 1]]), np.array([[2, 1, 3, 1, 3]])
    found = same_pair(np.array([[1]]), np.array([[2]]), labels, predictions)
    assert found.tolist() == [[True, True, False, False, False]]


def test_halves_go_by_depth_and_not_by_the_order_of_parameters():
    depths = [2, None, 0, 1]
    layers = [
        Layer(name=str(n), kind="convolution", shape=(2, 1, 1, 1), filters=2, depth=d) for n, d in enumerate(depths)
    ]
    table = FilterTable(layers=tuple(layers))
    assert np.flatnonzero(depth_half(table, "early")).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(depth_half(table, "deep")).tolist() == [0, 1]
    with pytest.raises(ValueError, match="early or deep"):
        depth_half(table, "shallow")
