"""The reducer against slow float64 recomputation, and its promises: order, cuts, memory, nulls."""

import math
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from skimage.metrics import structural_similarity

from salcore import reduce, shards, statistics
from salcore.moments import Moments
from salcore.nulls import Shuffled
from salcore.passes import prefix_moments
from salcore.reduce import reduce_range
from salcore.significance import significant
from salcore.storage import Store
from salcore.summary import read_stats, summarise, write_stats

SHAPE = (2, 12, 13)


def ensemble(members, rows=9, shape=SHAPE, strength=0.5, seed=0):
    """Maps `(M, N, ...)`: one signal per sample, noise per member, a scale per sample."""
    rng = np.random.default_rng(seed)
    signal, noise = rng.normal(size=(rows, *shape)), rng.normal(size=(members, rows, *shape))
    scale = 10.0 ** rng.integers(-3, 3, (rows, *[1] * len(shape)))
    return ((strength * signal + noise) * scale).astype(np.float32)


def shard(maps, **changes):
    rows = np.arange(len(maps))
    given = {
        "sample": rows,
        "label": rows % 3,
        "target": rows % 3,
        "prediction": rows % 2,
        "maps": maps,
        "metadata": {},
    }
    return shards.open_shard(shards.encode(**(given | changes)))


def reduced(maps, **settings):
    sources = [shard(member) for member in maps]
    metadata = {"method": settings.pop("method", "gradient")}
    members = settings.pop("members", range(len(maps)))
    return reduce_range(sources, members=members, inputs_digest="abc", metadata=metadata, **settings)


def tensor(result, name):
    return result.stats[name].combine_chunks().to_numpy_ndarray()


def curve(result, name):
    return result.stats[name].combine_chunks().flatten().to_numpy().reshape(result.stats.num_rows, -1)


def norms(maps):
    """||mean||^2 and ||sigma||^2 `(N,)` in float64."""
    maps = maps.astype(np.float64).reshape(*maps.shape[:2], -1)
    variance = maps.var(0, ddof=1) if len(maps) > 1 else np.full(maps.shape[1:], np.nan)
    return (maps.mean(0) ** 2).sum(-1), variance.sum(-1)


def bits(table):
    """The values of a table as bytes: NaN equals NaN, and 0 is not -0."""
    return shards.serialise(table.combine_chunks().replace_schema_metadata(None), 1000).to_pybytes()


@pytest.mark.parametrize("members", [2, 3, 10, 16, 17, 37])
def test_mean_variance_and_snr_equal_numpy_in_float64(members):
    maps = ensemble(members)
    result, exact = reduced(maps), maps.astype(np.float64)
    # Tighter than promised: per sample, so that samples of small scale are checked too.
    scale = np.abs(exact).max((0, 2, 3, 4))[:, None, None, None]
    assert (np.abs(tensor(result, "mean") - exact.mean(0)) <= 1e-6 * scale).all()
    assert (np.abs(tensor(result, "variance") - exact.var(0, ddof=1)) <= 1e-6 * scale**2).all()
    mean2, noise2 = norms(maps)
    np.testing.assert_allclose(result.stats["snr"], np.sqrt(mean2 / noise2), rtol=1e-6)
    np.testing.assert_allclose(result.stats["noise2"], noise2, rtol=1e-6)
    np.testing.assert_allclose(result.stats["signal2"], mean2 - noise2 / members, rtol=1e-4)
    assert result.stats["count"].to_pylist() == [members] * 9


def test_float16_shards_are_read_by_their_exponent():
    maps = ensemble(5)
    sources = [shard(member, dtype="float16") for member in maps]
    result = reduce_range(sources, members=range(5), inputs_digest="")
    stored = np.stack([source.maps() for source in sources]).astype(np.float64)
    np.testing.assert_allclose(tensor(result, "mean"), stored.mean(0), rtol=1e-6, atol=1e-7 * np.abs(stored).max())
    mean2, noise2 = norms(stored)
    np.testing.assert_allclose(result.stats["snr"], np.sqrt(mean2 / noise2), rtol=1e-6)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_a_large_common_offset_does_not_cancel(offset):
    maps = (np.random.default_rng(0).normal(size=(20, 3, *SHAPE)) + offset).astype(np.float32)
    exact = maps.astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(tensor(reduced(maps), "variance"), exact, rtol=1e-5)


def test_a_first_member_far_from_the_others_does_not_cancel():
    # Deviations are taken from the first map of a group: the worst there can be.
    maps = np.random.default_rng(0).normal(size=(40, 3, *SHAPE)).astype(np.float32)
    maps[0] += 100
    exact = maps.astype(np.float64)
    np.testing.assert_allclose(tensor(reduced(maps), "mean"), exact.mean(0), rtol=0, atol=1e-6 * 100)
    np.testing.assert_allclose(tensor(reduced(maps), "variance"), exact.var(0, ddof=1), rtol=1e-5)


def test_prefix_moments_equal_moments_of_each_prefix():
    maps = ensemble(20, shape=(5,))
    at = (1, 2, 15, 16, 17, 20)
    for m, (moments, held) in zip(at, prefix_moments(iter(maps), at), strict=True):
        assert np.all(held)
        exact = Moments.from_batch(maps[:m])
        assert moments.count == m
        scale = np.abs(maps).max((0, 2))[:, None]
        assert (np.abs(moments.mean - exact.mean) <= 1e-6 * scale).all()
        assert (np.abs(moments.m2 - exact.m2) <= 1e-5 * scale**2).all()


def test_curves_are_the_norms_after_the_first_members():
    maps = ensemble(30)
    result = reduced(maps)
    grid = result.metadata["grid"]
    assert grid == list(statistics.convergence_grid(30))
    for position, m in enumerate(grid):
        mean2, noise2 = norms(maps[:m])
        np.testing.assert_allclose(curve(result, "mean_norm")[:, position], np.sqrt(mean2), rtol=1e-6)
        np.testing.assert_allclose(curve(result, "sigma_norm")[:, position], np.sqrt(noise2), rtol=1e-6)


def test_scale_free_snr_is_that_of_maps_of_unit_norm():
    maps = ensemble(7)
    flat = maps.astype(np.float64).reshape(7, 9, -1)
    mean2, noise2 = norms(flat / np.linalg.norm(flat, axis=-1, keepdims=True))
    result = reduced(maps)
    np.testing.assert_allclose(result.stats["snr_scale_free"], np.sqrt(mean2 / noise2), rtol=1e-9)
    scaled = reduced((maps * np.arange(1, 8)[:, None, None, None, None]).astype(np.float32))
    np.testing.assert_allclose(scaled.stats["snr_scale_free"], result.stats["snr_scale_free"], rtol=1e-6)
    assert np.abs(scaled.stats["snr"].to_numpy() / result.stats["snr"].to_numpy() - 1).max() > 0.05


def slow_ssim(a, b):
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2, "full": True}
    return np.mean([structural_similarity(x, y, **settings)[1][5:-5, 5:-5].mean() for x, y in zip(a, b, strict=True)])


def test_ssim_and_cosine_leave_the_member_out():
    maps = ensemble(4, rows=3).astype(np.float64)
    result = reduced(maps)
    ssims, cosines = np.empty((4, 3)), np.empty((4, 3))
    for i in range(4):
        others = np.delete(maps, i, axis=0).mean(0)
        for n in range(3):
            a, b = maps[i, n], others[n]
            ssims[i, n] = slow_ssim(a, b)
            cosines[i, n] = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    np.testing.assert_allclose(result.stats["ssim_to_mean"], ssims.mean(0), atol=1e-5)
    np.testing.assert_allclose(result.members["ssim"], ssims.sum(1), atol=1e-5)
    np.testing.assert_allclose(result.members["cosine"], cosines.sum(1), rtol=1e-6)


@pytest.mark.parametrize("members", [3, 6, 18])
def test_member_sums_equal_ensembles_that_really_lack_the_member(members):
    maps = ensemble(members)
    result = reduced(maps)
    for i in range(members):
        mean2, noise2 = norms(np.delete(maps, i, axis=0))
        row = {name: result.members[name][i].as_py() for name in result.members.column_names}
        assert row["snr"] == pytest.approx(np.sqrt(mean2 / noise2).sum(), rel=1e-6)
        assert row["noise2"] == pytest.approx(noise2.sum(), rel=1e-6)
        assert row["signal2"] == pytest.approx((mean2 - noise2 / (members - 1)).sum(), rel=1e-5)
        assert row["samples"] == row["snr_samples"] == 9
        assert row["lowest"] == maps[i].min()
        assert math.isnan(row["residual_max"])


def test_result_is_the_same_bits_for_any_block_size():
    maps = ensemble(18, rows=11, shape=(1, 13, 15))
    whole = reduced(maps)
    for block_rows in (1, 2, 3, 10, 100):
        other = reduced(maps, block_rows=block_rows)
        assert bits(other.stats) == bits(whole.stats)
        assert bits(other.members) == bits(whole.members)


def test_samples_are_the_same_bits_for_any_cut_into_ranges():
    maps = ensemble(18, rows=11, shape=(1, 13, 15))
    whole = reduced(maps)
    for cut in (1, 4, 10):
        parts = [reduced(maps[:, :cut]), reduced(maps[:, cut:])]
        joined = pa.concat_tables([part.stats for part in parts])
        for name in set(whole.stats.column_names) - {"sample", "label", "target"}:
            assert bits(joined.select([name])) == bits(whole.stats.select([name])), name


def test_record_batches_of_a_shard_do_not_matter():
    maps = ensemble(3)
    sources = [shard(member, batch_rows=rows) for member, rows in zip(maps, (2, 5, 100), strict=True)]
    assert bits(reduce_range(sources, members=range(3), inputs_digest="").stats) == bits(reduced(maps).stats)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (1, 1, 1), (1, 2, 9)])
def test_any_shape_of_map(shape):
    maps = ensemble(5, shape=shape)
    result = reduced(maps)
    mean2, noise2 = norms(maps)
    np.testing.assert_allclose(result.stats["snr"], np.sqrt(mean2 / noise2), rtol=1e-5)
    assert np.isnan(result.stats["ssim_to_mean"].to_numpy()).all() == (len(shape) == 1)


def test_one_member_has_a_mean_and_no_noise():
    maps = ensemble(1)
    result = reduced(maps)
    np.testing.assert_array_equal(tensor(result, "mean"), maps[0])
    for name in ("snr", "signal2", "noise2", "ssim_to_mean", "snr_scale_free"):
        assert np.isnan(result.stats[name].to_numpy()).all(), name
    assert np.isnan(tensor(result, "variance")).all()
    row = summarise([result]).to_pylist()[0]
    assert math.isnan(row["snr"])
    assert math.isnan(row["snr_debiased"])


def test_equal_members_and_maps_of_zeros():
    maps = np.repeat(ensemble(1), 4, axis=0)
    maps[:, 2] = 0
    result = reduced(maps)
    snr = result.stats["snr"].to_numpy()
    assert np.isnan(snr[2])
    assert np.isinf(np.delete(snr, 2)).all()
    np.testing.assert_allclose(result.stats["ssim_to_mean"], 1, atol=1e-6)
    assert summarise([result])["undefined"].to_pylist() == [1]


def test_targets_that_differ_are_told_and_residuals_kept():
    maps = ensemble(3)
    sources = [
        shard(member, target=np.where(np.arange(9) == 4, i, 1), residual=np.full(9, (-0.1) ** (i + 1)))
        for i, member in enumerate(maps)
    ]
    result = reduce_range(sources, members=[5, 7, 8], inputs_digest="abc", metadata={"method": "x"})
    assert result.stats["target"].to_pylist() == [1, 1, 1, 1, -1, 1, 1, 1, 1]
    np.testing.assert_allclose(result.members["residual_max"], [0.1, 0.01, 0.001], rtol=1e-6)
    assert summarise([result])["residual_max"][0].as_py() == pytest.approx(0.1)
    assert result.members["member"].to_pylist() == result.metadata["members"] == [5, 7, 8]


def test_shards_of_other_samples_are_refused():
    maps = ensemble(2)
    for changes in ({"sample": np.arange(9) + 1}, {"label": np.zeros(9)}):
        with pytest.raises(ValueError, match="`sources`"):
            reduce_range([shard(maps[0]), shard(maps[1], **changes)], members=[0, 1], inputs_digest="")
    with pytest.raises(ValueError, match="`sources`"):
        reduce_range([shard(maps[0]), shard(maps[1][:, :1])], members=[0, 1], inputs_digest="")
    with pytest.raises(ValueError, match="`members`"):
        reduce_range([shard(maps[0])], members=[0, 1], inputs_digest="")


def test_openers_are_the_shards_they_open(monkeypatch):
    monkeypatch.setattr(reduce, "OPEN_SHARDS", 2)
    maps = ensemble(5)
    sources = [lambda member=member: shard(member) for member in maps]
    assert bits(reduce_range(sources, members=range(5), inputs_digest="").stats) == bits(reduced(maps).stats)


def test_memory_does_not_grow_with_members():
    block = 16 * 1024  # bytes of one member's block

    def peak(members):
        shape = (1, 32, 32)
        sources = [shard(np.ones((8, *shape), np.float32)) for _ in range(4)] * (members // 4)
        tracemalloc.start()
        reduce_range(sources, members=range(members), inputs_digest="", block_rows=4)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(64) - peak(24) < 2 * block  # of 40 more members; what is left are their open shards


@pytest.mark.parametrize("samples", [2, 8, 9, 40])
def test_file_of_large_maps_comes_back(tmp_path, samples):
    """Those of large maps are written in several record batches, whose checksum is that of the whole."""
    shape = 3, 96, 96
    assert shards.default_batch_rows(shape) < 20
    rng, store = np.random.default_rng(0), Store(tmp_path)
    columns = {"mean": rng.normal(size=(samples, *shape)).astype(np.float32), "count": np.arange(samples)}
    stats = pa.table({"mean": pa.FixedShapeTensorArray.from_numpy_ndarray(columns["mean"]), "count": columns["count"]})
    empty = pa.table({"member": np.arange(2), "samples": np.arange(2)})
    write_stats(store, "part.arrow", reduce.Reduced(stats=stats, members=empty, metadata={"method": "gradient"}))
    back = read_stats(store, "part.arrow")
    assert back.stats["mean"].num_chunks == -(-samples // shards.default_batch_rows(shape))
    mean = back.stats["mean"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(mean, columns["mean"])
    np.testing.assert_array_equal(back.stats["count"].to_numpy(), columns["count"])
    content = bytearray(store.read("part.arrow"))
    content[content.rindex(columns["mean"][-1].tobytes())] ^= 1
    store.write("part.arrow", bytes(content))
    with pytest.raises(shards.CorruptShard, match="checksum"):
        read_stats(store, "part.arrow")


def test_file_comes_back_and_is_a_function_of_its_content(tmp_path):
    store, name = Store(tmp_path), "stats/gradient/part-00000.arrow"
    for members in (1, 5):
        result = reduced(ensemble(members))
        write_stats(store, name, result)
        data, back = store.read(name), read_stats(store, name)
        assert back.metadata == result.metadata
        assert bits(back.stats) == bits(result.stats)
        assert bits(back.members) == bits(result.members)
        assert bits(summarise([back])) == bits(summarise([result]))
        write_stats(store, name, back)
        assert store.read(name) == data
    names = ["sample", "label", "target", "count", "mean", "variance", "snr", "signal2", "noise2", "ssim_to_mean"]
    assert back.stats.column_names[:10] == names
    assert back.stats.schema.field("mean").type == pa.fixed_shape_tensor(pa.float32(), SHAPE)


@pytest.mark.parametrize("keep", [0, 50, -30])
def test_a_damaged_statistics_file_is_named(tmp_path, keep):
    store = Store(tmp_path)
    write_stats(store, "part-00000.arrow", reduced(ensemble(3)))
    store.write("part-00000.arrow", store.read("part-00000.arrow")[:keep])
    with pytest.raises(shards.CorruptShard, match=r"part-00000\.arrow"):
        read_stats(store, "part-00000.arrow")


def test_summary_equals_slow_recomputation_over_all_ranges():
    maps = ensemble(6, rows=20)
    row = summarise([reduced(maps[:, :7]), reduced(maps[:, 7:])]).to_pylist()[0]

    def summaries(maps):
        mean2, noise2 = norms(maps)
        return np.sqrt(mean2 / noise2).mean(), (mean2 - noise2 / len(maps)).sum() / noise2.sum()

    without = np.array([summaries(np.delete(maps, i, axis=0)) for i in range(6)])
    t = 2.5705818366147395  # 0.975 quantile of Student's t with 5 degrees of freedom
    reach = t * np.sqrt(5 / 6 * ((without - without.mean(0)) ** 2).sum(0))
    snr, ratio = summaries(maps)
    assert (row["method"], row["members"], row["samples"]) == ("gradient", 6, 20)
    assert row["snr"] == pytest.approx(snr, rel=1e-6)
    assert (row["snr_low"], row["snr_high"]) == pytest.approx((snr - reach[0], snr + reach[0]), rel=1e-5)
    ends = np.sqrt(np.maximum([ratio - reach[1], ratio, ratio + reach[1]], 0))
    got = (row["snr_debiased_low"], row["snr_debiased"], row["snr_debiased_high"])
    assert got == pytest.approx(tuple(ends), rel=1e-4)
    assert row["snr_at_30"] == pytest.approx(np.sqrt(ratio + 1 / 30), rel=1e-5)
    assert row["null"] == 6**-0.5
    mean2, noise2 = norms(maps)
    assert row["negatives"] == (mean2 - noise2 / 6 < 0).sum()
    assert row["non_negative"] is False


def test_summary_has_a_row_per_method_and_flags_maps_without_a_sign():
    maps = ensemble(3)
    table = summarise([reduced(maps, method="b"), reduced(np.abs(maps), method="a"), reduced(maps, method="b")])
    assert table["method"].to_pylist() == ["b", "a"]
    assert table["samples"].to_pylist() == [18, 9]
    assert table["non_negative"].to_pylist() == [False, True]
    with pytest.raises(ValueError, match="`parts`"):
        summarise([reduced(maps), reduced(maps[:2])])


def test_maps_of_shuffled_members_are_near_the_null():
    rng = np.random.default_rng(0)
    maps = (3 * rng.normal(size=(1, 60, 1, 8, 8)) + rng.normal(size=(10, 60, 1, 8, 8))).astype(np.float32)
    true = summarise([reduced(maps)]).to_pylist()[0]
    sources = [Shuffled(shard=shard(member), order=rng.permutation(60)) for member in maps]
    null = reduce_range(sources, members=range(10), inputs_digest="", metadata={"method": "gradient"})
    shuffled = summarise([null]).to_pylist()[0]
    assert true["snr_debiased"] == pytest.approx(3, rel=0.1)
    assert shuffled["snr"] == pytest.approx(shuffled["null"], rel=0.1)
    assert shuffled["snr_debiased"] < 0.15
    with pytest.raises(ValueError, match="`order`"):
        Shuffled(shard=shard(maps[0]), order=np.zeros(60, int))


def apart(maps):
    """Statistics of samples whose neighbours, members or pixels are of another magnitude, and what they should be."""
    result, exact = reduced(maps), maps.astype(np.float64)
    assert bits(result.stats) == bits(reduced(maps, block_rows=1).stats)
    mean2, noise2 = norms(maps)
    np.testing.assert_allclose(result.stats["noise2"], noise2, rtol=1e-5)
    np.testing.assert_allclose(result.stats["snr"], np.sqrt(mean2 / noise2), rtol=1e-5)
    for position, m in enumerate(result.metadata["grid"][1:], 1):
        np.testing.assert_allclose(curve(result, "sigma_norm")[:, position], np.sqrt(norms(maps[:m])[1]), rtol=1e-5)
    mask, tested = significant(exact.mean(0), exact.var(0, ddof=1), len(maps))
    np.testing.assert_array_equal(result.stats["tested"], tested)
    np.testing.assert_array_equal(tensor(result, "significant"), mask)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e25, 1e30])
@pytest.mark.parametrize("members", [2, 6, 17, 33])
def test_a_sample_of_another_magnitude_changes_no_neighbour(members, scale):
    maps = ensemble(members)
    maps[:, 4] *= np.float32(scale)
    apart(maps)


@pytest.mark.parametrize("first", [0, 1e-20, 1e-30])
def test_members_of_other_magnitudes_count(first):
    maps = ensemble(6)
    maps[0] *= np.float32(first)
    apart(maps)
    apart((maps * 1e-25).astype(np.float32))


def test_pixels_of_another_magnitude_are_as_noisy_as_they_are():
    maps = ensemble(8)
    maps[..., 2:] *= np.float32(1e-25)
    apart(maps)
    alone = ensemble(3)
    alone[0] = 0
    alone[2] = -(alone[1] * np.float32(1e-25))  # whose deviations from the first cancel
    alone[1] *= np.float32(1e-25)
    apart(alone)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-12, 1e12, 1e18])
def test_the_unit_of_the_maps_does_not_matter(scale):
    """Squares of maps below 1e-19 or above 1e19 are beyond float32."""
    random = np.random.default_rng(0)
    values = random.standard_normal((4, 3, 1, 8, 8), dtype=np.float32) + 0.5
    plain, scaled = (reduced(list(values * np.float32(unit))) for unit in (1.0, scale))
    for name in ("snr", "snr_debiased", "snr_scale_free", "ssim_to_mean", "spearman_to_mean", "significant_share"):
        expected = plain.stats.column(name).to_numpy()
        np.testing.assert_allclose(scaled.stats.column(name).to_numpy(), expected, rtol=1e-4, err_msg=name)


def test_a_map_that_is_not_finite_changes_no_sample_of_another_magnitude():
    maps = ensemble(6)
    maps[:, 2] *= np.float32(1e25)
    maps[:, 3] *= np.float32(1e-25)
    result = reduced(maps)
    maps[1, 4, 0, 0, 0] = np.nan
    maps[2, 2, 0, 0, 0] = np.inf
    rows = [0, 1, 3, 5, 6, 7, 8]
    assert bits(result.stats.take(rows)) == bits(reduced(maps).stats.take(rows))
    mean2, noise2 = norms(np.delete(maps[:, 2:3], 2, axis=0))
    assert reduced(maps).stats["snr"][2].as_py() == pytest.approx(float(np.sqrt(mean2 / noise2)[0]), rel=1e-5)
