"""Maps with NaN or infinity: kept as they are, in no statistic, counted. Against one sample at a time in float64."""

import math
import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from salcore import reduce, shards, statistics
from salcore.finite import finite_rows, stretches
from salcore.likeness import TO_MEAN
from salcore.reduce import reduce_range
from salcore.storage import Store
from salcore.summary import read_stats, summarise, write_stats
from tests.oracles import likeness_to_others, noise_over_members

MEMBERS, ROWS, SHAPE = 7, 16, (2, 12, 13)


def clean(members=MEMBERS, rows=ROWS, shape=SHAPE, seed=0):
    """Maps `(M, N, ...)`: a signal per sample, a noise per member, a scale per sample."""
    rng = np.random.default_rng(seed)
    signal, noise = rng.normal(size=(rows, *shape)), rng.normal(size=(members, rows, *shape))
    return ((0.5 * signal + noise) * 10.0 ** rng.integers(-3, 3, (rows, *[1] * len(shape)))).astype(np.float32)


def broken(members=MEMBERS, rows=ROWS, shape=SHAPE, seed=0):
    """The same maps; samples 0, 1, 2 and 3 have as many finite ones, others lack some, the last ones none."""
    rng, maps = np.random.default_rng(seed + 1), clean(members, rows, shape, seed)
    bad = np.zeros((members, rows), bool)
    for sample, left in enumerate((0, 1, 2, 3)):
        bad[rng.permutation(members)[left:], sample] = True
    bad[0, 4], bad[-1, 5], bad[:2, 6], bad[-2:, 7] = True, True, True, True
    bad[:, 8:11] = rng.random((members, 3)) < 0.4
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    for member, sample in np.argwhere(bad):
        place = tuple(int(rng.integers(size)) for size in shape)
        maps[member, sample][place] = values[(member + sample) % 3]
    return maps


def shard(maps, first=0, **changes):
    rows = np.arange(len(maps)) + first
    columns = {"sample": rows, "label": rows % 3, "target": rows % 3, "prediction": rows % 2}
    return shards.open_shard(shards.encode(**({**columns, "maps": maps, "metadata": {}} | changes)))


def reduced(maps, members=None, first=0, **settings):
    sources = [shard(member, first) for member in maps]
    numbers = range(len(maps)) if members is None else members
    return reduce_range(sources, members=numbers, inputs_digest="abc", metadata={"method": "gradient"}, **settings)


def bits(table):
    return shards.serialise(table.combine_chunks().replace_schema_metadata(None), 1000).to_pybytes()


def column(result, name):
    values = result.stats[name].combine_chunks()
    if isinstance(values.type, pa.FixedShapeTensorType):
        return values.to_numpy_ndarray()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)


# The oracle: one sample, its finite maps, plain numpy in float64


def there(maps, sample, members=None):
    """Those of some members (all) whose map of a sample is finite."""
    return [i for i in (range(len(maps)) if members is None else members) if np.isfinite(maps[i, sample]).all()]


def finite(maps, sample, members=None):
    """Their maps in float64."""
    return maps[there(maps, sample, members), sample].astype(np.float64)


def sample_oracle(maps, sample):
    """Every statistic of one sample."""
    x = finite(maps, sample)
    found = noise_over_members(x)
    units = np.array([each / np.sqrt((each**2).sum()) for each in x]).reshape(x.shape)
    found |= {"count": len(x), "snr_scale_free": noise_over_members(units)["snr"]}
    found["mean"] = x.mean(0) if len(x) else np.full(maps.shape[2:], np.nan)
    found["variance"] = x.var(0, ddof=1) if len(x) > 1 else np.full(maps.shape[2:], np.nan)
    found["ssim_to_mean"] = np.mean([likeness_to_others(x, i)[1] for i in range(len(x))]) if len(x) > 1 else math.nan
    for name in ("mean_norm", "sigma_norm"):
        grid = statistics.convergence_grid(len(maps))
        found[name] = [noise_over_members(finite(maps, sample, range(m)))[name] for m in grid]
    return found


def member_oracle(maps, member):
    """Sums over samples of the ensemble without a member, and of that member beside the others."""
    rows = {name: [] for name in ("snr", "signal2", "noise2", "cosine", "ssim")}
    for sample in range(maps.shape[1]):
        chosen = there(maps, sample)
        others = noise_over_members(finite(maps, sample, [i for i in chosen if i != member]))
        rows["snr"].append(others["snr"])
        rows["signal2"].append(others["signal2"])
        rows["noise2"].append(others["noise2"])
        if member in chosen and len(chosen) > 1:
            cosine, ssim = likeness_to_others(finite(maps, sample), chosen.index(member))
            rows["cosine"].append(cosine)
            rows["ssim"].append(ssim)
    counts = {"samples": len(rows["cosine"]), "snr_samples": np.isfinite(rows["snr"]).sum()}
    own = [maps[member, n] for n in range(maps.shape[1]) if member in there(maps, n)]
    about = {"non_finite": maps.shape[1] - len(own), "lowest": min((x.min() for x in own), default=math.inf)}
    return {name: np.nansum(values) for name, values in rows.items()} | counts | about


def assert_is_the_oracle(result, maps):
    expected = [sample_oracle(maps, sample) for sample in range(maps.shape[1])]
    for name in expected[0]:
        want = np.array([each[name] for each in expected])
        got = column(result, name)
        flat = np.abs(np.nan_to_num(want)).reshape(len(want), -1).max(1)
        scale = flat.reshape(-1, *[1] * (want.ndim - 1))
        tolerance = {"signal2": 1e-4, "ssim_to_mean": 1e-4}.get(name, 2e-6)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
        assert (np.abs(np.nan_to_num(got) - np.nan_to_num(want)) <= tolerance * scale).all(), name
    for member in range(len(maps)):
        for name, want in member_oracle(maps, member).items():
            got = result.members[name][member].as_py()
            assert got == pytest.approx(want, rel=2e-5 if name != "ssim" else 1e-4), (member, name)


# Reducing


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("members", [MEMBERS, 18])
def test_every_statistic_is_over_the_finite_members(members, seed):
    maps = broken(members, seed=seed)
    result = reduced(maps)
    assert result.stats["count"].to_pylist()[:4] == [0, 1, 2, 3]
    assert_is_the_oracle(result, maps)


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_few_members(members):
    maps = clean(members, rows=6)
    maps[0, 1] = np.nan
    maps[:, 2, 0, 0, 0] = np.inf
    maps[-1, 3:5, 1, 2, 3] = -np.inf
    assert_is_the_oracle(reduced(maps), maps)


def test_finite_ensembles_meet_the_same_oracle():
    assert_is_the_oracle(reduced(clean()), clean())


def test_member_sums_equal_ensembles_that_really_lack_the_member():
    maps = broken()
    result = reduced(maps)
    for member in range(MEMBERS):
        rest = reduced(np.delete(maps, member, axis=0)).stats
        defined = np.isfinite(rest["noise2"].to_numpy())
        assert result.members["snr_samples"][member].as_py() == defined.sum()
        for name in ("snr", "signal2", "noise2"):
            expected = rest[name].to_numpy()[defined].sum()
            assert result.members[name][member].as_py() == pytest.approx(expected, rel=1e-5), name


def test_a_sample_is_as_if_its_finite_members_were_the_whole_ensemble():
    maps = broken()
    whole = reduced(maps)
    for sample in range(ROWS):
        members = there(maps, sample)
        if members:
            alone = reduced(maps[members, sample : sample + 1], first=sample)
            for name in set(whole.stats.column_names) - {"mean_norm", "sigma_norm"}:
                assert column(whole, name)[sample].tobytes() == column(alone, name)[0].tobytes(), name
    assert not column(whole, "significant")[0].any()
    assert whole.stats["tested"][0].as_py() == 0


def test_samples_whose_maps_are_all_finite_keep_their_bits():
    whole, part = reduced(clean()), reduced(broken())
    untouched = np.flatnonzero(finite_rows(broken().swapaxes(0, 1)))
    assert len(untouched) >= 5
    for name in whole.stats.column_names:
        np.testing.assert_array_equal(column(whole, name)[untouched], column(part, name)[untouched], strict=True)


def test_an_ensemble_without_such_maps_is_not_searched_for_them(monkeypatch):
    monkeypatch.setattr(reduce, "finite_rows", lambda maps: pytest.fail("finite maps were searched"))
    result = reduced(clean())
    assert result.members["non_finite"].to_pylist() == [0] * MEMBERS
    assert result.members["non_finite"].type == pa.int64()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("member", [0, 1, 2, 15, 16, 17, 18])
def test_no_place_hides_a_value_that_is_not_finite(member, value):
    # Members are summed in groups of 16 as deviations from the first of a group: each place takes another way.
    maps = clean(19, rows=3, shape=(1, 4, 5))
    maps[member, 1, 0, 3, 4] = value
    result = reduced(maps)
    assert result.stats["count"].to_pylist() == [19, 18, 19]
    expected = np.delete(maps[:, 1], member, axis=0).astype(np.float64)
    np.testing.assert_allclose(column(result, "mean")[1], expected.mean(0), rtol=1e-5, atol=1e-6)


def test_infinities_of_both_signs_do_not_cancel():
    maps = clean()
    maps[1, 3, 0, 0, 0], maps[2, 3, 0, 0, 0] = np.inf, -np.inf
    assert_is_the_oracle(reduced(maps), maps)


def test_result_is_the_same_bits_for_any_block_size_and_range():
    maps = broken(18)
    whole = reduced(maps)
    for block_rows in (1, 2, 3, 5, 100):
        other = reduced(maps, block_rows=block_rows)
        assert bits(other.stats) == bits(whole.stats)
        assert bits(other.members) == bits(whole.members)
    for cut in (1, 2, 7):
        parts = [reduced(maps[:, :cut]), reduced(maps[:, cut:], first=cut)]
        assert bits(pa.concat_tables([part.stats for part in parts])) == bits(whole.stats)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (1, 1, 1)])
def test_any_shape_of_map(shape):
    maps = broken(shape=shape)
    result = reduced(maps)
    for sample in range(ROWS):
        expected = noise_over_members(finite(maps, sample))
        for name in ("snr", "noise2"):
            assert result.stats[name][sample].as_py() == pytest.approx(expected[name], rel=1e-4, nan_ok=True)


def test_memory_does_not_grow_with_members():
    block = 16 * 1024  # bytes of one member's block

    def peak(members):
        maps = np.ones((8, 1, 32, 32), np.float32)
        maps[::3, 0, 5, 5] = np.nan
        sources = [shard(maps), *[shard(np.ones_like(maps))] * 3] * (members // 4)
        tracemalloc.start()
        reduce_range(sources, members=range(members), inputs_digest="", block_rows=4)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(64) - peak(24) < 2 * block  # of 40 more members; what is left are their open shards


def test_stretches_cover_every_sample_once():
    known = np.random.default_rng(0).random((3, 40)) < 0.7
    cuts = list(stretches(known))
    assert [cuts[0][0], cuts[-1][1]] == [0, 40]
    for start, stop in cuts:
        assert (known[:, start:stop] == known[:, start : start + 1]).all()
    for (_, stop), (start, _) in pairwise(cuts):
        assert stop == start
        assert (known[:, stop - 1] != known[:, start]).any()


def test_residuals_of_maps_that_are_not_finite_do_not_count():
    maps, residual = broken(3, rows=12), np.full(12, 0.01)
    sources = [shard(x, residual=np.where(finite_rows(x), residual, x.reshape(12, -1).sum(1))) for x in maps]
    result = reduce_range(sources, members=range(3), inputs_digest="", metadata={"method": "x"})
    np.testing.assert_allclose(result.members["residual_max"], 0.01, rtol=1e-6)
    nothing = shard(np.full_like(maps[0], np.nan), residual=np.full(12, np.nan))
    result = reduce_range([nothing] * 3, members=range(3), inputs_digest="", metadata={"method": "x"})
    assert math.isnan(summarise([result])["residual_max"][0].as_py())


# Summary and files


def test_summary_equals_slow_recomputation():
    maps = broken(8, rows=20)
    row = summarise([reduced(maps[:, :7]), reduced(maps[:, 7:], first=7)]).to_pylist()[0]

    def summaries(maps):
        each = [noise_over_members(finite(maps, n)) for n in range(20)]
        snr, signal2, noise2 = (np.array([one[name] for one in each]) for name in ("snr", "signal2", "noise2"))
        return np.nanmean(snr), np.nansum(signal2) / np.nansum(noise2)

    snr, ratio = summaries(maps)
    without = np.array([summaries(np.delete(maps, i, axis=0)) for i in range(8)])
    reach = 2.3646242515927844 * np.sqrt(7 / 8 * ((without - without.mean(0)) ** 2).sum(0))  # t of 7 degrees
    assert row["snr"] == pytest.approx(snr, rel=1e-6)
    assert (row["snr_low"], row["snr_high"]) == pytest.approx((snr - reach[0], snr + reach[0]), rel=1e-5)
    ends = np.sqrt(np.maximum([ratio - reach[1], ratio, ratio + reach[1]], 0))
    got = (row["snr_debiased_low"], row["snr_debiased"], row["snr_debiased_high"])
    assert got == pytest.approx(tuple(ends), rel=1e-4)
    counts = np.array([len(there(maps, n)) for n in range(20)])
    assert row["non_finite"] == 8 * 20 - counts.sum()
    assert row["undefined"] == (counts < 2).sum()
    assert row["null"] == pytest.approx(np.mean(counts[counts > 1] ** -0.5))
    assert row["null"] > 8**-0.5
    assert (row["members"], row["samples"]) == (8, 20)
    cosines = [
        np.mean([likeness_to_others(finite(maps, n), i)[0] for i in range(counts[n])])
        for n in range(20)
        if counts[n] > 1
    ]
    assert row["cosine_to_mean"] == pytest.approx(np.mean(cosines), rel=1e-5)
    for name in ("snr_scale_free", "ssim_to_mean"):
        expected = np.nanmean([sample_oracle(maps, n)[name] for n in range(20)])
        assert row[name] == pytest.approx(expected, rel=1e-4)


def test_a_member_that_never_counts_leaves_the_numbers_of_the_others():
    maps = np.concatenate([clean(5), np.full((1, ROWS, *SHAPE), np.nan, np.float32)])
    row, alone = (summarise([reduced(each)]).to_pylist()[0] for each in (maps, clean(5)))
    assert row.pop("non_finite") == ROWS
    assert row.pop("members") == 6
    assert (alone.pop("non_finite"), alone.pop("members")) == (0, 5)
    assert row.pop("method") == alone.pop("method")
    for name, value in alone.items():
        assert row[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


def test_pure_noise_of_fewer_maps_has_the_null_of_fewer_maps():
    maps = np.random.default_rng(0).normal(size=(12, 300, 1, 8, 8)).astype(np.float32)
    maps[4:, ::2, 0, 0, 0] = np.nan
    row = summarise([reduced(maps)]).to_pylist()[0]
    assert row["null"] == pytest.approx((4**-0.5 + 12**-0.5) / 2)
    assert row["snr"] == pytest.approx(row["null"], rel=0.02)
    assert row["snr_debiased"] < 0.1


def test_nothing_finite_gives_nothing_and_says_so():
    row = summarise([reduced(np.full((4, 3, 1, 2, 2), np.nan, np.float32))]).to_pylist()[0]
    assert (row["non_finite"], row["undefined"], row["negatives"], row["non_negative"]) == (12, 3, 0, False)
    for name in ("snr", "snr_low", "snr_debiased", "snr_scale_free", "null", *TO_MEAN, "ssim_pairwise"):
        assert math.isnan(row[name]), name
    assert math.isnan(row["significant_share"])


def test_file_comes_back_and_is_a_function_of_its_content(tmp_path):
    store, name, result = Store(tmp_path), "stats/gradient/part-00000.arrow", reduced(broken())
    write_stats(store, name, result)
    data, back = store.read(name), read_stats(store, name)
    assert bits(back.stats) == bits(result.stats)
    assert bits(back.members) == bits(result.members)
    assert bits(summarise([back])) == bits(summarise([result]))
    write_stats(store, name, back)
    assert store.read(name) == data
