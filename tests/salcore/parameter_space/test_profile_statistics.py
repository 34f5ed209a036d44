"""Mean and deviation of profiles over a held-out set, and what they are kept in."""

import numpy as np
import pytest
import torch

from salcore.moments import Moments
from salcore.parameter_space import FilterTable, Layer, ProfileStatistics

TABLE = FilterTable(
    layers=(
        Layer(name="stem", kind="convolution", shape=(2, 1, 3, 3), filters=2, depth=0),
        Layer(name="unused", kind="convolution", shape=(1, 1, 1, 1), filters=1, depth=None),
    )
)
PROFILES = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 0.0], [8.0, 5.0, 0.0]], np.float32)


def statistics(profiles=PROFILES):
    return ProfileStatistics.of(Moments.from_batch(profiles), TABLE)


def test_profiles_are_standardised_by_the_deviation_of_the_sample_and_a_constant_by_one():
    found = statistics()
    np.testing.assert_allclose(found.mean, [4.0, 5.0, 0.0])
    np.testing.assert_allclose(found.deviation, [np.std([1, 3, 8], ddof=1), 1.0, 1.0])
    np.testing.assert_allclose(found.standardise(PROFILES)[:, 0], (np.array([1, 3, 8]) - 4) / np.sqrt(13), rtol=1e-6)
    np.testing.assert_array_equal(found.standardise(PROFILES)[:, 1:], 0)


def test_statistics_of_one_set_are_applied_to_another_in_its_own_type():
    other = torch.tensor([[4.0, 6.5, 0.25]], dtype=torch.float64)
    found = statistics().standardise(other)
    assert found.dtype == torch.float64
    assert found.tolist() == [[0.0, 1.5, 0.25]]
    assert statistics().standardise(np.float32([[4, 6.5, 0.25]])).dtype == np.float32


def test_a_tiny_deviation_counts_as_none():
    base = np.array([[1.0, 1.0, 1e-16], [1.0, 1.0, 3e-16]])
    np.testing.assert_array_equal(statistics(base).deviation, 1)


def test_of_one_sample_the_deviation_is_one():
    np.testing.assert_array_equal(statistics(PROFILES[:1]).deviation, 1)


def test_profiles_of_another_network_are_refused():
    with pytest.raises(ValueError, match="3 filters, got 4"):
        statistics().standardise(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="of 3 filters"):
        ProfileStatistics.of(Moments.from_batch(np.zeros((2, 4))), TABLE)


def test_what_is_written_is_read_back():
    found, head = ProfileStatistics.decode(statistics().encode({"fingerprint": "abc"}))
    assert found.table == TABLE
    assert found.count == 3
    assert head == {"fingerprint": "abc"}
    np.testing.assert_array_equal(found.mean, statistics().mean)
    np.testing.assert_array_equal(found.deviation, statistics().deviation)


def test_another_file_is_no_statistics():
    import pyarrow as pa

    with pytest.raises(ValueError, match="profile statistics"):
        ProfileStatistics.decode(pa.py_buffer(b"nothing of the kind"))
