"""A file of statistics is done where it comes from the same shards and from the same version of the statistics."""

from dataclasses import replace

import numpy as np
import pytest

from cluster import reduce as reducing
from cluster.reduce import Work
from salcore import reduce, shards
from salcore.layout import maps_folder
from salcore.storage import Store
from salcore.summary import read_stats, write_stats


@pytest.fixture
def scene(tmp_path):
    """The work of one range of three members, whose shards are there."""
    store, rows = Store(tmp_path), np.arange(4)
    columns = {"sample": rows, "label": rows, "target": rows, "prediction": rows}
    for member in range(3):
        maps = np.random.default_rng(member).normal(size=(4, 1, 6, 6)).astype(np.float32)
        name = f"{maps_folder('gradient', member)}/part-00000.arrow"
        shards.write(store, name, shards.encode(maps=maps, metadata={}, **columns))
    metadata = {"method": "gradient"}
    return store, Work(
        method="gradient", path="part-00000.arrow", members=(0, 1, 2), inputs="digest", bytes=0, metadata=metadata
    )


def test_what_is_missing_damaged_or_of_other_shards_is_not_done(scene):
    store, work = scene
    assert not work.done(store)
    work.do(store)
    assert work.done(store)
    assert not replace(work, inputs="another").done(store)
    store.write(work.name, store.read(work.name)[:-40])
    assert not work.done(store)


@pytest.mark.parametrize("older", [None, reduce.VERSION - 1])
def test_statistics_of_an_earlier_version_are_made_again(scene, older):
    store, work = scene
    work.do(store)
    whole = store.read(work.name)
    result = read_stats(store, work.name)
    del result.metadata["version"]
    if older is not None:
        result.metadata["version"] = older
    earlier = reduce.Reduced(
        stats=result.stats.drop_columns(["significant", "tested", "snr_low"]),
        members=result.members.drop_columns(["non_finite"]),
        metadata=result.metadata,
    )
    write_stats(store, work.name, earlier)
    assert not work.done(store)
    work.do(store)
    assert store.read(work.name) == whole


def test_what_is_small_is_reduced_by_the_driver_and_the_rest_by_tasks(scene, ray_cluster, monkeypatch):
    """The same bytes either way; a cluster is joined only where a task is needed, and once."""
    store, work = scene
    joined = []
    assert list(reducing.reduce([work], store, lambda: joined.append("here"))) == [work]
    assert joined == []
    expected = store.read(work.name)
    for large in (replace(work, bytes=reducing.SMALL + 1), replace(work, bytes=reducing.SMALL)):
        store.delete(work.name)
        assert list(reducing.reduce([large], store, lambda: joined.append("large"))) == [large]
        assert store.read(work.name) == expected
    assert joined == ["large"], "as much as SMALL is small"
    store.delete(work.name)
    monkeypatch.setattr(reducing, "START_S", 0.0)
    assert list(reducing.reduce([work], store, lambda: joined.append("late"))) == [work]
    assert store.read(work.name) == expected
    assert joined == ["large", "late"]


def test_a_large_range_is_not_reduced_by_the_driver(scene, ray_cluster, monkeypatch):
    store, work = scene
    monkeypatch.setattr(Work, "do", lambda *_: pytest.fail("by the driver"))
    large = replace(work, bytes=reducing.SMALL + 1)
    assert list(reducing.reduce([large], store, lambda: None)) == [large]
    assert work.done(store)


def test_an_error_of_a_task_is_told_as_the_drivers_own_is(scene, ray_cluster):
    store, work = scene
    store.write(f"{maps_folder('gradient', 1)}/part-00000.arrow", b"no shard")
    for each in (work, replace(work, bytes=reducing.SMALL + 1)):
        with pytest.raises(shards.CorruptShard) as error:
            list(reducing.reduce([each], store, lambda: None))
        assert "\n" not in str(error.value)
