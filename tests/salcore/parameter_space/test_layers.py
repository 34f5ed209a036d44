"""Profiles layer by layer."""

import numpy as np
import pytest

from salcore.parameter_space import FilterTable, Layer
from salcore.parameter_space.layers import depth_contrast, layer_means, sorted_within_layers


def layer(name, filters, depth):
    return Layer(name=name, kind="convolution", shape=(filters, 1, 1, 1), filters=filters, depth=depth)


TABLE = FilterTable(layers=(layer("last", 1, 2), layer("unused", 1, None), layer("first", 3, 0), layer("second", 2, 1)))
PROFILES = np.array([[10.0, 99.0, 1.0, 3.0, 2.0, 5.0, 7.0], [0.0, 0.0, 3.0, 0.0, 0.0, -1.0, 1.0]])


def test_the_mean_of_a_layer_is_over_its_own_filters():
    assert layer_means(PROFILES, TABLE).tolist() == [[10, 99, 2, 6], [0, 0, 1, 0]]


def test_filters_are_sorted_inside_layers_and_layers_by_depth():
    assert sorted_within_layers(PROFILES[0], TABLE).tolist() == [3, 2, 1, 7, 5, 10]


def test_a_deep_profile_is_positive_and_an_early_one_negative():
    assert depth_contrast(layer_means(PROFILES, TABLE), TABLE).tolist() == [10 - 4, 0 - 0.5]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="7 filters, got 6"):
        layer_means(PROFILES[:, :6], TABLE)
    with pytest.raises(ValueError, match="two or more layers"):
        depth_contrast(np.zeros((1, 1)), FilterTable(layers=(layer("one", 1, 0),)))
