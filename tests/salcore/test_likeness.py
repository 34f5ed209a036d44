"""Likenesses and intervals of each sample against slow float64 re-derivations, their nulls, and what they promise."""

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from salcore import shards
from salcore.likeness import NEIGHBOURS, TO_MEAN
from salcore.reduce import reduce_range
from salcore.significance import significant
from salcore.statistics import Estimate, debiased_summary, jackknife
from salcore.summary import summarise
from tests.oracles import likeness_by_hand

SHAPE = (2, 12, 13)
INTERVALS = ("snr", "snr_debiased", "snr_at_30")
NEW = (*TO_MEAN, "ssim_pairwise", "significant_share", "snr_debiased", "snr_at_30")
NEW += tuple(f"{name}_{end}" for name in INTERVALS for end in ("low", "high"))


def ensemble(members, rows=4, shape=SHAPE, strength=0.7, seed=0):
    rng = np.random.default_rng(seed)
    signal, noise = rng.normal(size=(rows, *shape)), rng.normal(size=(members, rows, *shape))
    return ((strength * signal + noise) * 10.0 ** rng.integers(-3, 3, (rows, *[1] * len(shape)))).astype(np.float32)


def reduced(maps, **settings):
    rows = np.arange(maps.shape[1])
    columns = {"sample": rows, "label": rows, "target": rows, "prediction": rows, "metadata": {}}
    dtype = settings.pop("dtype", "float32")
    sources = [shards.open_shard(shards.encode(maps=x, dtype=dtype, **columns)) for x in maps]
    metadata = {"method": "gradient"}
    return reduce_range(sources, members=range(len(maps)), inputs_digest="", metadata=metadata, **settings)


def column(result, name):
    values = result.stats[name].combine_chunks()
    return values.to_numpy_ndarray() if name == "significant" else values.to_numpy(zero_copy_only=False)


def bits(table):
    return shards.serialise(table.combine_chunks().replace_schema_metadata(None), 1000).to_pybytes()


# The oracles: one sample's maps (M, ...) in float64


def slow_ssim(a, b):
    a, b = (np.atleast_3d(x / np.abs(x).max()) for x in (a, b))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2, "full": True}
    return np.mean([structural_similarity(x, y, **settings)[1][5:-5, 5:-5].mean() for x, y in zip(a, b, strict=True)])


def mean_where_defined(values):
    values = np.array(values)
    return values[~np.isnan(values)].mean() if not np.isnan(values).all() else np.nan


def slow_to_mean(maps):
    each = [likeness_by_hand(maps[i], np.delete(maps, i, axis=0).mean(0)) for i in range(len(maps))]
    return {name: mean_where_defined([one[name] for one in each]) for name in each[0]}


def read_outs(maps):
    """SNR, signal2 and noise2 of one sample."""
    mean2, noise2 = (maps.mean(0) ** 2).sum(), maps.var(0, ddof=1).sum()
    return np.sqrt(mean2 / noise2), mean2 - noise2 / len(maps), noise2


def ring(members):
    """The pairs that are averaged: all that are at most 5 places apart on a ring."""
    return {frozenset((i, (i + step) % members)) for i in range(members) for step in range(1, NEIGHBOURS + 1)} - {
        frozenset((i,)) for i in range(members)
    }


# Oracle


@pytest.mark.parametrize("members", [2, 3, 6, 17])
def test_likenesses_equal_slow_recomputation(members):
    maps = ensemble(members)
    result = reduced(maps)
    for n in range(maps.shape[1]):
        for name, expected in slow_to_mean(maps[:, n].astype(np.float64)).items():
            assert column(result, name)[n] == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("members", [2, 3, 10, 11, 12, 13])
def test_pairwise_ssim_equals_scikit_image_over_its_pairs(members):
    maps = ensemble(members, rows=2)
    got = column(reduced(maps), "ssim_pairwise")
    pairs = ring(members)
    if members <= 2 * NEIGHBOURS + 1:
        assert pairs == {frozenset(pair) for pair in combinations(range(members), 2)}
    else:
        assert len(pairs) == NEIGHBOURS * members
    for n in range(2):
        each = {pair: slow_ssim(*maps[sorted(pair), n].astype(np.float64)) for pair in pairs}
        assert got[n] == pytest.approx(np.mean(list(each.values())), abs=1e-6)


def test_pairs_beyond_eleven_members_estimate_all_pairs():
    maps = ensemble(20, rows=3, strength=2.0)
    every = [[slow_ssim(*maps[[i, j], n].astype(np.float64)) for i, j in combinations(range(20), 2)] for n in range(3)]
    np.testing.assert_allclose(column(reduced(maps), "ssim_pairwise"), np.mean(every, axis=1), rtol=0.05)


def test_intervals_equal_ensembles_that_really_lack_a_member():
    maps = ensemble(7)
    result = reduced(maps)
    for n in range(maps.shape[1]):
        x = maps[:, n].astype(np.float64)
        snr, signal2, noise2 = read_outs(x)
        without = np.array([read_outs(np.delete(x, i, axis=0)) for i in range(7)]).T
        expected = {"snr": jackknife(snr, without[0])}
        for name, at in (("snr_debiased", np.inf), ("snr_at_30", 30)):
            expected[name] = debiased_summary(signal2, noise2, without[1], without[2], at)
        reach = 2.4469118511449692 * np.sqrt(6 / 7 * ((without[0] - without[0].mean()) ** 2).sum())  # t, 6 degrees
        assert column(result, "snr_high")[n] == pytest.approx(snr + reach, rel=1e-5)
        for name, estimate in expected.items():
            got = Estimate(value=column(result, name)[n], low=column(result, f"{name}_low")[n],
                           high=column(result, f"{name}_high")[n])  # fmt: skip
            assert vars(got) == pytest.approx(vars(estimate), rel=1e-4, abs=1e-6), name


def test_significance_is_of_the_float64_moments_of_all_members():
    maps = ensemble(9, rows=5, strength=2.0)
    result, exact = reduced(maps), maps.astype(np.float64)
    mask, tested = significant(exact.mean(0), exact.var(0, ddof=1), 9)
    np.testing.assert_array_equal(column(result, "significant"), mask)
    np.testing.assert_array_equal(column(result, "tested"), tested)
    np.testing.assert_allclose(column(result, "significant_share"), mask.mean((1, 2, 3)))
    assert 0 < mask.sum() < mask.size


def test_summary_is_the_mean_over_samples():
    maps = ensemble(6, rows=9)
    row = summarise([reduced(maps[:, :4]), reduced(maps[:, 4:])]).to_pylist()[0]
    whole = reduced(maps)
    for name in (*TO_MEAN, "ssim_pairwise", "significant_share"):
        assert row[name] == pytest.approx(column(whole, name).mean(), rel=1e-12), name


# Ties, zeros, constants


def quantised(members, rows=5, shape=SHAPE):
    """Few values, many of them 0, and a place where only one member is not 0."""
    rng = np.random.default_rng(1)
    maps = rng.integers(-2, 3, (members, rows, *shape)) * (rng.random((members, rows, *shape)) < 0.5)
    maps[:, :, :, :3] = 0
    maps[members // 2, :, :, 1] = 2
    maps[0, :, 0, 0] = -1
    return maps.astype(np.float32)


@pytest.mark.parametrize("members", [3, 5, 9])
def test_ties_share_their_rank_and_zeros_are_in_no_top(members):
    # Powers of 2 keep the mean of the others exact: what is equal stays equal.
    maps = quantised(members)
    result = reduced(maps)
    for n in range(maps.shape[1]):
        for name, expected in slow_to_mean(maps[:, n].astype(np.float64)).items():
            assert column(result, name)[n] == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize("odd", range(19))
def test_where_the_others_are_zero_they_are_zero_whatever_was_rounded(odd):
    maps = np.zeros((19, 1, 1, 8, 8), np.float32)
    maps[:, 0, 0, :4] = np.random.default_rng(0).normal(size=(19, 4, 8)) + 2
    maps[odd, 0, 0, 4:] = np.random.default_rng(1).normal(size=(4, 8))
    result = reduced(maps)
    expected = slow_to_mean(maps[:, 0].astype(np.float64))
    for name, value in expected.items():
        assert column(result, name)[0] == pytest.approx(value, rel=1e-6), name


def test_minus_zero_is_zero():
    maps, names = quantised(4), list(TO_MEAN[2:])
    signs = np.where(np.random.default_rng(0).random(maps.shape) < 0.5, np.float32(-0.0), np.float32(0))
    mixed = np.where(maps == 0, signs, maps)
    assert bits(reduced(mixed).stats.select(names)) == bits(reduced(maps).stats.select(names))


def test_maps_of_zeros_and_constant_maps():
    maps = ensemble(4, rows=4)
    maps[:, 1], maps[:, 2], maps[2, 3] = 0, 3, 0
    result = reduced(maps)
    for name in ("spearman_to_mean", "sign_agreement", "top_overlap"):
        assert np.isnan(column(result, name)[1]), name
    assert np.isnan(column(result, "spearman_to_mean")[2])
    assert column(result, "sign_agreement")[2] == column(result, "top_overlap")[2] == 1
    for name, expected in slow_to_mean(maps[:, 3].astype(np.float64)).items():
        assert column(result, name)[3] == pytest.approx(expected, rel=1e-5), name
    assert column(result, "tested").tolist() == [312, 0, 0, 312]
    assert column(result, "significant_share")[1] == column(result, "significant_share")[2] == 0
    np.testing.assert_allclose(column(result, "ssim_pairwise")[1:3], 1, atol=1e-6)
    for name in INTERVALS:
        ends = [column(result, f"{name}_{end}")[1:3] for end in ("low", "high")]
        assert np.isnan(ends).all(), name


def test_members_that_agree_and_members_that_oppose():
    base = ensemble(1, rows=3)
    same = reduced(np.concatenate([base * 2.0**k for k in range(5)]))
    for name in (*TO_MEAN, "ssim_pairwise"):
        np.testing.assert_allclose(column(same, name), 1, atol=1e-5, err_msg=name)
    opposed = reduced(np.concatenate([base, -base]))
    np.testing.assert_allclose(column(opposed, "spearman_to_mean"), -1)
    np.testing.assert_allclose(column(opposed, "sign_agreement"), 0)
    np.testing.assert_allclose(column(opposed, "top_overlap"), 1)


# Nulls


@pytest.mark.parametrize("members", [2, 5, 14])
def test_pure_noise_has_the_nulls(members):
    maps = np.random.default_rng(members).normal(size=(members, 60, 1, 24, 24)).astype(np.float32)
    result = reduced(maps)
    nulls = dict.fromkeys(TO_MEAN, 0.0) | {"ssim_pairwise": 0, "sign_agreement": 0.5, "top_overlap": 29 / 576}
    for name, null in nulls.items():
        values = column(result, name)
        constants = 0.015 if "ssim" in name else 1e-3  # C1 and C2 lift the SSIM of noise a little
        assert abs(values.mean() - null) < 4 * values.std() / 60**0.5 + constants, name
    assert column(result, "significant_share").mean() < 0.002
    if members > 2:
        covered = (column(result, "snr_debiased_low") == 0).mean()
        assert covered > 0.85


# Promises


def test_new_columns_are_the_same_bits_for_any_block():
    maps = np.concatenate([ensemble(14, rows=7, shape=(1, 13, 15)), quantised(14, 4, (1, 13, 15))], axis=1)
    whole = reduced(maps)
    names = [*NEW, "significant", "tested"]
    for block_rows in (1, 2, 3, 10):
        assert bits(reduced(maps, block_rows=block_rows).stats.select(names)) == bits(whole.stats.select(names))


def test_twelve_members_at_once_are_eight_and_four_more():
    maps = ensemble(12)
    grown = [reduced(maps[:members]) for members in (8, 12)]
    assert bits(grown[1].stats) == bits(reduced(maps.copy()).stats)
    assert bits(grown[0].stats) != bits(grown[1].stats)
    for n in range(maps.shape[1]):
        expected = slow_to_mean(maps[:8, n].astype(np.float64))["spearman_to_mean"]
        assert column(grown[0], "spearman_to_mean")[n] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("members", [1, 2, 3])
def test_few_members(members):
    result = reduced(ensemble(members))
    known = {1: (), 2: [name for name in NEW if not name.endswith(("_low", "_high"))], 3: NEW}[members]
    for name in NEW:
        assert np.isnan(column(result, name)).all() == (name not in known), name
    assert column(result, "tested").tolist() == [312 * (members > 1)] * 4
    assert members > 1 or not column(result, "significant").any()


@pytest.mark.parametrize("shape", [(23,), (6, 5), (1, 1, 1), (2, 1, 9)])
def test_any_shape_of_map(shape):
    maps = ensemble(5, shape=shape)
    result = reduced(maps)
    for n in range(maps.shape[1]):
        for name, expected in slow_to_mean(maps[:, n].astype(np.float64)).items():
            assert column(result, name)[n] == pytest.approx(expected, rel=1e-5, nan_ok=True), name
    assert np.isnan(column(result, "ssim_pairwise")).all() == (len(shape) == 1)
    assert column(result, "significant").shape == maps.shape[1:]


def test_float16_maps_are_compared_as_they_were_stored():
    maps = ensemble(5)
    rows = np.arange(4)
    columns = {"sample": rows, "label": rows, "target": rows, "prediction": rows, "metadata": {}}
    stored = np.stack([shards.open_shard(shards.encode(maps=x, dtype="float16", **columns)).maps() for x in maps])
    result = reduced(maps, dtype="float16")
    assert bits(result.stats) == bits(reduced(stored).stats)
    for name, expected in slow_to_mean(stored[:, 0].astype(np.float64)).items():
        assert column(result, name)[0] == pytest.approx(expected, rel=1e-4), name


def test_memory_does_not_grow_with_members():
    def peak(members):
        maps = ensemble(4, rows=8, shape=(1, 32, 32))
        columns = dict.fromkeys(("sample", "label", "target", "prediction"), np.arange(8))
        sources = [shards.open_shard(shards.encode(maps=x, metadata={}, **columns)) for x in maps] * (members // 4)
        tracemalloc.start()
        reduce_range(sources, members=range(members), inputs_digest="", block_rows=4)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(64) - peak(24) < 2 * 16 * 1024  # twice the block of one of 40 more members
