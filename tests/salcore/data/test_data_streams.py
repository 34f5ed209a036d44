"""Random numbers that never change."""

import math

import numpy as np
import pytest
from scipy import stats

from salcore.data.splits import stratified_order
from salcore.data.streams import normal, raw


def test_the_stream_is_the_one_that_was_published():
    # Written down once: other numbers would be other synthetic sets and other splits under the same spec.
    assert raw(2, 0).tolist() == [11749869230777074271, 4976686463289251617]
    assert stratified_order(np.arange(20) % 2, 3, 1)[:6].tolist() == [9, 0, 6, 7, 12, 15]


def test_every_part_of_the_key_makes_another_stream():
    streams = [raw(4, 1), raw(4, 2), raw(4, 1, 0), raw(4, 1, 1), raw(4, 1, 0, 1)]
    assert len({tuple(stream) for stream in streams}) == 5
    assert raw(9, 1, 0)[:4].tolist() == raw(4, 1, 0).tolist()


def test_normal_numbers_equal_the_formula_one_by_one():
    bits = raw(6, 5).reshape(3, 2)
    for row, found in zip(bits.tolist(), normal(bits), strict=True):
        u, v = (((number >> 11) + 1) / 2**53 for number in row)
        radius = math.sqrt(-2 * math.log(u))
        expected = [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
        assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_normal_numbers_are_normal_and_independent():
    draws = normal(raw(40_000, 7))
    assert draws.dtype == np.float32
    assert stats.kstest(draws, "norm").pvalue > 0.01
    assert abs(np.corrcoef(draws[::2], draws[1::2])[0, 1]) < 0.03


def test_the_ends_of_the_range_are_finite():
    ends = np.array([0, 0, 2**64 - 1, 2**64 - 1], np.uint64)
    assert np.isfinite(normal(ends)).all()
