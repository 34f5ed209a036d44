"""The laws of stratified, nested orders."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from salcore.data.splits import divide, stratified_order

label_sets = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(lambda values: np.array(values))


@given(label_sets, st.integers(0, 2**32))
def test_an_order_holds_every_sample_once(labels, seed):
    assert sorted(stratified_order(labels, seed).tolist()) == list(range(len(labels)))


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 1000), st.data())
def test_every_prefix_of_balanced_classes_is_stratified_to_one_sample(classes, each, seed, data):
    labels = np.array(data.draw(st.permutations(np.repeat(np.arange(classes), each).tolist())))
    ordered = labels[stratified_order(labels, seed)]
    for count in range(len(labels) + 1):
        shares = np.bincount(ordered[:count], minlength=classes)
        assert shares.max() - shares.min() <= 1


@given(label_sets, st.integers(0, 1000))
def test_every_prefix_of_unbalanced_classes_keeps_their_shares(labels, seed):
    """Up to place t class c has n_c t samples, rounded: to 1/2; so all K together are m = N t to K / 2."""
    ordered = labels[stratified_order(labels, seed)]
    values, counts = np.unique(labels, return_counts=True)
    for length in range(len(labels) + 1):
        shares = (ordered[:length, None] == values).sum(0)
        bound = 0.5 + len(values) / 2 * counts / len(labels)
        assert (np.abs(shares - length * counts / len(labels)) <= bound + 1e-9).all()


@given(label_sets, st.integers(0, 1000), st.data())
def test_a_division_is_rising_disjoint_and_complete(labels, seed, data):
    count = data.draw(st.integers(0, len(labels)))
    chosen, rest = divide(labels, count, seed)
    assert len(chosen) == count
    assert np.all(np.diff(chosen) > 0)
    assert np.all(np.diff(rest) > 0)
    assert sorted([*chosen, *rest]) == list(range(len(labels)))


@given(st.integers(0, 1000))
def test_the_order_is_fixed_by_its_key_and_differs_between_keys(seed):
    labels = np.arange(60) % 3
    again = stratified_order(labels, seed, 1)
    np.testing.assert_array_equal(stratified_order(labels, seed, 1), again)
    assert (stratified_order(labels, seed, 2) != again).any()
    assert (stratified_order(labels, seed + 1, 1) != again).any()


def test_the_order_within_a_class_is_drawn_at_random():
    labels = np.zeros(2000, dtype=int)
    firsts = np.array([stratified_order(labels, seed)[0] for seed in range(300)])
    # Uniform on 0..1999: mean 999.5, standard error 577 / sqrt(300) = 33; five of them.
    assert abs(firsts.mean() - 999.5) < 167
    assert len(np.unique(firsts)) > 250
