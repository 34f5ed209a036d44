"""Shards: the file format, float16, damage, manifests."""

import hashlib
import os

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import ipc

from salcore import manifests, shards
from salcore.storage import TEMPORARY, Store

FOLDER = "maps/gradient/member=0003"
PART = f"{FOLDER}/part-00000.arrow"


def some_maps(rows=20, shape=(2, 3, 4), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, *shape)) * 10.0 ** rng.integers(-9, 9, (rows, *[1] * len(shape)))).astype(np.float32)


def encoded(maps, **changes):
    rows = np.arange(len(maps))
    given = {
        "sample": rows + 100,
        "label": rows % 10,
        "target": rows % 7,
        "prediction": rows % 3,
        "maps": maps,
        "metadata": {"member": 3, "method": "gradient"},
    }
    return shards.encode(**(given | changes))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_file_is_the_contract_read_with_pyarrow_alone(store, dtype):
    maps = some_maps()
    shards.write(store, PART, encoded(maps, dtype=dtype))
    with pa.memory_map(str(store.local / PART)) as file:
        table = ipc.open_file(file).read_all()
        assert table.schema.names == ["sample", "label", "target", "prediction", "exponent", "map"]
        kinds = [pa.int64(), pa.int32(), pa.int32(), pa.int32(), pa.int16()]
        assert [field.type for field in table.schema][:5] == kinds
        value = pa.float32() if dtype == "float32" else pa.float16()
        assert table.schema.field("map").type == pa.fixed_shape_tensor(value, (2, 3, 4))
        stored = table["map"].combine_chunks().to_numpy_ndarray().astype(np.float64)
        exponent = table["exponent"].to_numpy().astype(float)
        np.testing.assert_array_equal(table["sample"], np.arange(20) + 100)
        assert list(table.schema.metadata) == [b"salcore"]
    got = stored * 2.0 ** exponent[:, None, None, None]
    largest = np.abs(maps).max((1, 2, 3), keepdims=True)
    assert (np.abs(got - maps) <= (0 if dtype == "float32" else 2.0**-11) * largest).all()
    assert (exponent == 0).all() == (dtype == "float32")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (6, 5), (11,)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_ranges_equal_slices_across_batches(shape, dtype):
    maps = some_maps(30, shape)
    shard = shards.open_shard(encoded(maps, dtype=dtype, batch_rows=7))
    whole = shard.maps()
    assert shard.shape == shape
    assert shard.rows == 30
    assert whole.dtype == np.float32
    for start, stop in [(0, 30), (0, 7), (3, 5), (6, 8), (13, 29), (30, 30), (29, 30)]:
        np.testing.assert_array_equal(shard.maps(start, stop), whole[start:stop])
    if dtype == "float32":
        np.testing.assert_array_equal(whole, maps)


def test_columns_and_metadata_come_back(store):
    maps = some_maps()
    residual = np.linspace(-1, 1, 20, dtype=np.float32)
    shards.write(store, PART, encoded(maps, residual=residual, batch_rows=6))
    shard = shards.read(store, PART)
    assert shard.columns == ("sample", "label", "target", "prediction", "exponent", "residual")
    np.testing.assert_array_equal(shard.column("prediction"), np.arange(20) % 3)
    np.testing.assert_array_equal(shard.column("residual"), residual)
    assert shard.metadata == {"member": 3, "method": "gradient"}
    with pytest.raises(ValueError, match="`name`"):
        shard.column("map")
    with pytest.raises(ValueError, match="`start`, `stop`"):
        shard.maps(3, 21)


def test_local_float32_maps_are_views_of_the_file(store):
    maps = np.zeros((64, 64, 64), np.float32)
    shards.write(store, PART, encoded(maps))
    before = pa.total_allocated_bytes()
    view = shards.read(store, PART).maps(0, 8)
    assert pa.total_allocated_bytes() - before < view.nbytes
    assert not view.flags.owndata
    assert not view.flags.writeable


def test_batches_hold_whole_blocks_of_a_few_megabytes():
    for shape in [(1, 28, 28), (3, 32, 32), (3, 224, 224), (1, 1, 1)]:
        rows = shards.default_batch_rows(shape)
        assert rows % shards.block_rows(shape) == 0
        assert rows == 8 or 1e6 < rows * 4 * np.prod(shape) < 4e6


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**120), 2.0**120, width=32)))
@settings(deadline=None)
def test_float16_keeps_eleven_bits_of_the_largest_magnitude(maps):
    shard = shards.open_shard(encoded(maps, dtype="float16"))
    got, largest = shard.maps().astype(np.float64), np.abs(maps.astype(np.float64)).max(1, keepdims=True)
    # float32 itself has no finer step than 2^-149.
    assert (np.abs(got - maps) <= np.maximum(largest * 2.0**-11, 2.0**-149)).all()
    exponent = shard.column("exponent")
    assert (exponent[largest[:, 0] == 0] == 0).all()


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, 65519, 65520, 65535.9, 2.0**15, np.nextafter(1, 0)])
def test_float16_largest_value_uses_the_upper_range_without_overflow(largest):
    buffer = encoded(np.array([[largest, -largest / 3]], np.float32), dtype="float16")
    stored = ipc.open_file(buffer).read_all()["map"].combine_chunks().to_numpy_ndarray().astype(np.float64)
    assert 2.0**14 <= np.abs(stored).max() <= 2.0**15


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_map_that_is_not_finite_is_kept_as_it_is_and_the_others_untouched(dtype):
    whole, maps = some_maps(), some_maps()
    maps[3, 0, 1, 2], maps[7, 1, 2, 3], maps[8, 1], maps[12], maps[19] = np.nan, np.inf, -np.inf, np.nan, -np.inf
    bad, rest = [3, 7, 8, 12, 19], np.isfinite(maps)
    found, alone = (shards.open_shard(encoded(x, dtype=dtype, batch_rows=7)) for x in (maps, whole))
    assert found.non_finite() == (103, 107, 108, 112, 119)
    assert alone.non_finite() == ()
    np.testing.assert_array_equal(np.delete(found.maps(), bad, axis=0), np.delete(alone.maps(), bad, axis=0))
    exponents = found.column("exponent")
    np.testing.assert_array_equal(np.delete(exponents, bad), np.delete(alone.column("exponent"), bad))
    assert exponents[12] == exponents[19] == 0
    np.testing.assert_array_equal(found.maps()[~rest], maps[~rest])
    error = np.abs(np.where(rest, found.maps(), 0) - np.where(rest, maps, 0))
    assert (error <= 2.0**-11 * np.abs(whole).max((1, 2, 3), keepdims=True)).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`dtype`"):
        encoded(some_maps(), dtype="float64")
    with pytest.raises(ValueError, match="`label`: expected 20"):
        encoded(some_maps(), label=np.zeros(3))


def test_bytes_are_a_function_of_the_content(store):
    a, b = encoded(some_maps()), encoded(some_maps().copy(order="F"))
    assert a.to_pybytes() == b.to_pybytes()
    assert encoded(some_maps(seed=1)).to_pybytes() != a.to_pybytes()
    entry = shards.write(store, PART, a)
    assert entry == shards.Entry(
        path="part-00000.arrow",
        rows=20,
        bytes=a.size,
        sha256=hashlib.sha256(a.to_pybytes()).hexdigest(),
        mtime_ns=(store.local / PART).stat().st_mtime_ns,
        fingerprint="",
    )


@pytest.mark.parametrize("keep", [0, 1, 7, 100, -1, -9])
def test_truncated_file_is_named(store, keep):
    data = encoded(some_maps()).to_pybytes()
    store.write(PART, data[:keep])
    with pytest.raises(shards.CorruptShard, match=r"member=0003/part-00000\.arrow"):
        shards.read(store, PART)


def test_other_arrow_file_is_named(store):
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, pa.schema([("sample", pa.int64())])) as writer:
        writer.write_table(pa.table({"sample": [1]}))
    store.write(PART, sink.getvalue())
    with pytest.raises(shards.CorruptShard, match=r"part-00000\.arrow.*label, target, prediction, exponent, map"):
        shards.read(store, PART)


def finished(store, parts=3):
    entries = {}
    for number in range(parts):
        entry = shards.write(store, f"{FOLDER}/part-{number:05d}.arrow", encoded(some_maps(seed=number)))
        entries[entry.path] = entry
    manifests.write(store, FOLDER, entries)
    return entries


def test_manifest_comes_back_and_is_sorted(store):
    assert manifests.read(store, FOLDER) == {}
    entries = finished(store)
    first = store.read(f"{FOLDER}/manifest.json")
    manifests.write(store, FOLDER, dict(reversed(entries.items())))
    assert store.read(f"{FOLDER}/manifest.json") == first
    assert manifests.read(store, FOLDER) == entries
    assert manifests.scan(store, FOLDER) == (entries, [])


def test_a_shard_that_its_manifest_does_not_know_is_adopted(store):
    entries = finished(store)
    store.delete(f"{FOLDER}/manifest.json")
    assert manifests.scan(store, FOLDER) == (entries, [])


def test_an_unreadable_manifest_is_made_again_from_the_shards(store):
    entries = finished(store)
    for broken in (b"{", b"{}", b'{"shards": [{"path": "x"}]}'):
        store.write(f"{FOLDER}/manifest.json", broken)
        found, problems = manifests.scan(store, FOLDER)
        assert found == entries
        assert len(problems) == 1
        assert "manifest.json" in problems[0]


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "altered":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-20] if how == "truncated" else data)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("how", ["altered", "truncated"])
def test_a_damaged_shard_is_found_and_named(store, how):
    entries = finished(store)
    damage(store.local / FOLDER / "part-00001.arrow", how)
    found, problems = manifests.scan(store, FOLDER)
    assert found == {path: entries[path] for path in ("part-00000.arrow", "part-00002.arrow")}
    assert len(problems) == 1
    assert "part-00001.arrow" in problems[0]
    assert "made again" in problems[0]


def test_a_truncated_shard_outside_the_manifest_is_not_adopted(store):
    finished(store)
    store.delete(f"{FOLDER}/manifest.json")
    damage(store.local / FOLDER / "part-00001.arrow", "truncated")
    found, problems = manifests.scan(store, FOLDER)
    assert sorted(found) == ["part-00000.arrow", "part-00002.arrow"]
    assert len(problems) == 1


def test_a_touched_shard_is_hashed_again_and_kept(store):
    entries = finished(store)
    os.utime(store.local / PART, ns=(5, 5))
    found, problems = manifests.scan(store, FOLDER)
    assert not problems
    assert found["part-00000.arrow"].mtime_ns == 5
    assert found["part-00000.arrow"].sha256 == entries["part-00000.arrow"].sha256


def test_an_untouched_shard_is_not_read_again(store, monkeypatch):
    finished(store)
    monkeypatch.setattr(Store, "open", lambda *_: pytest.fail("a trusted shard was opened"))
    assert len(manifests.scan(store, FOLDER)[0]) == 3


def test_a_missing_shard_is_told_and_temporary_files_go(store):
    finished(store)
    store.delete(PART)
    leftover = store.local / FOLDER / f"{TEMPORARY}abc-part-00000.arrow"
    leftover.write_bytes(b"half")
    (store.local / FOLDER / "notes.txt").write_text("not ours")
    found, problems = manifests.scan(store, FOLDER)
    assert sorted(found) == ["part-00001.arrow", "part-00002.arrow"]
    assert len(problems) == 1
    assert "part-00000.arrow" in problems[0]
    assert not leftover.exists()
    assert (store.local / FOLDER / "notes.txt").exists()


def test_a_folder_that_is_not_there_is_empty(store):
    assert manifests.scan(store, FOLDER) == ({}, [])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_shard_of_no_samples_comes_back(dtype):
    none = np.zeros(0, np.int64)
    data = shards.encode(
        sample=none, label=none, target=none, prediction=none, maps=np.zeros((0, 3, 4, 5)), metadata={}, dtype=dtype
    )
    assert shards.open_shard(data).maps().shape == (0, 3, 4, 5)
