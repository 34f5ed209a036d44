"""Moments: merge laws, closed forms, numpy against torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salcore.moments import Moments

values = st.floats(-1e3, 1e3, allow_subnormal=False)
batches = st.lists(st.lists(values, min_size=3, max_size=3), max_size=9).map(lambda x: np.array(x).reshape(-1, 3))


def assert_same(a: Moments, b: Moments) -> None:
    assert a.count == b.count
    np.testing.assert_allclose(np.asarray(a.mean), np.asarray(b.mean), rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(np.asarray(a.m2), np.asarray(b.m2), rtol=1e-9, atol=1e-6)


@given(batches, batches)
def test_merge_equals_summary_of_joint_set(a, b):
    assert_same(Moments.from_batch(a).merge(Moments.from_batch(b)), Moments.from_batch(np.concatenate([a, b])))


@given(batches, batches)
def test_merge_is_commutative(a, b):
    a, b = Moments.from_batch(a), Moments.from_batch(b)
    assert_same(a.merge(b), b.merge(a))


@given(batches, batches, batches)
def test_merge_is_associative(a, b, c):
    a, b, c = map(Moments.from_batch, (a, b, c))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(batches)
def test_empty_is_exactly_neutral(a):
    a, nothing = Moments.from_batch(a), Moments.empty((3,))
    for merged in (a.merge(nothing), nothing.merge(a)):
        assert merged.count == a.count
        np.testing.assert_array_equal(merged.mean, a.mean)
        np.testing.assert_array_equal(merged.m2, a.m2)


@given(batches.filter(len))
def test_one_element_summaries_are_not_dropped(a):
    merged = Moments.empty((3,))
    for row in a:
        merged = merged.merge(Moments.from_batch(row[None]))
    assert_same(merged, Moments.from_batch(a))


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("ddof", [0, 1])
def test_read_outs_equal_numpy(library, ddof):
    x = np.random.default_rng(0).normal(2, 3, (7, 4, 5))
    moments = Moments.from_batch(library(x))
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(ddof), x.var(0, ddof=ddof), rtol=1e-12)
    np.testing.assert_allclose(moments.std(ddof), x.std(0, ddof=ddof), rtol=1e-12)


def test_ddof_is_chosen_when_read():
    x = Moments.from_batch(np.arange(5.0)[:, None])
    assert x.variance(0).item() * 5 == pytest.approx(x.variance(1).item() * 4)
    assert x.variance().item() == 2.5


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_too_few_values_are_nan(library):
    none, one = Moments.from_batch(library(np.ones((0, 2)))), Moments.from_batch(library(np.ones((1, 2))))
    assert none.count == 0
    assert np.isnan(np.asarray(none.mean)).all()
    assert np.asarray(one.mean).tolist() == [1, 1]
    for few in (none, one):
        for read_out in (few.variance(), few.variance(0), few.std(), few.snr()):
            assert np.isnan(np.asarray(read_out)).all()
    assert np.isnan(Moments.empty((2, 3)).mean).all()


def test_large_offset_does_not_cancel():
    # E[x^2] - E[x]^2 would return 0 or less here.
    x = 1e9 + np.array([[0.0], [1.0], [2.0], [3.0]])
    merged = Moments.from_batch(x[:1]).merge(Moments.from_batch(x[1:]))
    assert merged.variance().item() == pytest.approx(5 / 3, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8])
def test_torch_stays_torch_in_float64_without_graph(dtype):
    x = torch.arange(6).reshape(3, 2).to(dtype)
    moments = Moments.from_batch(x.requires_grad_() if dtype.is_floating_point else x).merge(Moments.empty((2,)))
    for value in (moments.mean, moments.m2, moments.variance(), moments.snr()):
        assert isinstance(value, torch.Tensor)
        assert value.dtype == torch.float64
        assert not value.requires_grad


def test_float32_input_is_summed_in_float64():
    x = np.full((1000, 1), 0.1, np.float32)
    assert Moments.from_batch(x).mean.item() == pytest.approx(float(np.float32(0.1)), rel=1e-14)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("sample_dims", [0, 1, 2, 3])
def test_snr_is_norm_of_mean_over_norm_of_sigma(library, sample_dims):
    x = np.random.default_rng(1).normal(1, 1, (6, 2, 3, 4))
    mean, std = x.mean(0), x.std(0, ddof=1)
    rows = int(np.prod(mean.shape[:sample_dims]))
    expected = np.linalg.norm(mean.reshape(rows, -1), axis=1) / np.linalg.norm(std.reshape(rows, -1), axis=1)
    snr = np.asarray(Moments.from_batch(library(x)).snr(sample_dims))
    assert snr.shape == mean.shape[:sample_dims]
    np.testing.assert_allclose(snr.ravel(), expected, rtol=1e-12)


def test_snr_without_noise_is_infinite_and_of_nothing_nan():
    snr = Moments.from_batch(np.array([[[2.0], [0.0]], [[2.0], [0.0]]])).snr()
    assert math.isinf(snr[0])
    assert math.isnan(snr[1])


def test_other_shape_is_refused():
    with pytest.raises(ValueError, match="`other`"):
        Moments.empty((2,)).merge(Moments.empty((3,)))
