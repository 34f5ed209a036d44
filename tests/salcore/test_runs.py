"""A run opened for reading agrees with the shards, recomputed with pyarrow and numpy alone."""

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import ipc

import salcore
from salcore import inventory, layout, shards
from salcore.errors import UserError
from salcore.explain import Explainer
from salcore.member_files import fail, load_member, train_member
from salcore.reduce import reduce_range
from salcore.storage import Store
from salcore.summary import read_stats, summarise, write_stats

METHODS = ("gradient", "integrated", "cam")
ASKED = (
    "attribution.methods=[gradient, {name: integrated_gradients, as: integrated, num_steps: 4}, "
    "{name: gradcam, as: cam, samples: 11}]"
)


def make(small, folder, *overrides, failing=()):
    """A whole run by the functions of salcore alone, as the jobs would leave it."""
    spec, data, members = small("training.epochs=1", "ensemble.members=4", ASKED, *overrides)
    store = Store(folder)
    store.write(layout.SPEC, yaml.safe_dump(spec.to_dict() | {"fingerprints": {"member": "abc"}}).encode())
    kept = [member for member in members if member.index not in failing]
    for member in members:
        if member in kept:
            train_member(member, data, store)
        else:
            fail(store, member, "the training loss is nan in epoch 1", epoch=1, attempts=1)
    worker = Explainer(spec, data, kept, store)
    for item in inventory.take(store, spec, data, kept).missing:
        worker.explain(item)
    parts = []
    for method in spec.attribution.methods:
        for path in sorted({name.rpartition("/")[2] for name in store.files(f"maps/{method.folder}")}):
            names = [f"{layout.maps_folder(method.folder, member.index)}/{path}" for member in kept]
            reduced = reduce_range(
                [shards.read(store, name) for name in names],
                members=[member.index for member in kept],
                inputs_digest="digest",
                metadata={"method": method.folder},
            )
            parts.append(f"{layout.stats_folder(method.folder)}/{path}")
            write_stats(store, parts[-1], reduced)
    store.write_parquet(layout.SUMMARY, summarise(read_stats(store, name) for name in parts))
    return salcore.open(folder), spec, data, kept


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    from salcore.data import load
    from salcore.members import plan
    from salcore.spec import parse

    def small(*overrides):
        text = "data: {train_samples: 100, eval_samples: 21}\nmodel: {width: 4, norm: batch, dropout: 0.3}"
        spec = parse(text, ["attribution.batch_size=8", "attribution.shard_samples=8", *overrides])
        data = load(spec.data)
        return spec, data, plan(spec, data.digest)

    return make(small, tmp_path_factory.mktemp("runs") / "run", failing={2})


def raw(run, method):
    """Maps of all members in float64 `(M, N, ...)`, and the samples' numbers, read with pyarrow alone."""
    root, maps = run.store.local / "maps" / method, []
    for folder in sorted(root.iterdir()):
        tables = [ipc.open_file(pa.memory_map(str(path))).read_all() for path in sorted(folder.glob("*.arrow"))]
        table = pa.concat_tables(tables)
        values = table["map"].combine_chunks().to_numpy_ndarray().astype(np.float64)
        exponent = table["exponent"].to_numpy().astype(np.float64)
        maps.append(values * 2.0 ** exponent.reshape(-1, *[1] * (values.ndim - 1)))
        samples = table["sample"].to_numpy()
    return np.stack(maps), samples


@pytest.mark.parametrize("method", METHODS)
def test_mean_variance_and_snr_are_numpys(scene, method):
    run, *_ = scene
    maps, samples = raw(run, method)
    mean, variance = maps.mean(0), maps.var(0, ddof=1)
    assert np.abs(run.mean(method) - mean).max() <= 1e-6 * np.abs(mean).max()
    assert np.abs(run.variance(method) - variance).max() <= 1e-5 * variance.max()
    norms = [np.sqrt((values.reshape(len(values), -1) ** 2).sum(1)) for values in (mean, np.sqrt(variance))]
    np.testing.assert_allclose(run.snr(method), norms[0] / norms[1], rtol=1e-6)
    np.testing.assert_array_equal(run.column(method, "sample"), samples)
    np.testing.assert_allclose(run.column(method, "noise2"), norms[1] ** 2, rtol=1e-6)
    assert (run.column(method, "count") == 3).all()


def test_members_failures_and_methods(scene):
    run, _, _, members = scene
    assert run.members == (0, 1, 3)
    assert run.failures == {2: "the training loss is nan in epoch 1"}
    assert run.methods == METHODS
    assert run.metadata("gradient")["members"] == [0, 1, 3]
    assert run.record(3)["fingerprint"] == members[2].fingerprint
    assert run.history(0)["epoch"].to_pylist() == [1]
    assert run.fingerprints == {"member": "abc"}
    assert "3 members" in repr(run)
    with pytest.raises(ValueError, match=r"`member`: expected one of \[0, 1, 3\], got 2"):
        run.record(2)


def test_the_spec_and_the_data_are_the_runs(scene):
    run, spec, data, _ = scene
    assert run.spec == spec
    loaded = run.data()
    assert loaded.digest == data.digest
    np.testing.assert_array_equal(loaded.evaluation.index, run.column("gradient", "sample"))


def test_maps_of_some_samples_are_every_members(scene):
    run, *_ = scene
    everything, _ = raw(run, "gradient")
    positions = [20, 0, 8, 7, 8]
    np.testing.assert_array_equal(run.maps("gradient", positions), everything[:, positions])


def test_logits_are_the_members_own_in_order(scene):
    run, _, data, members = scene
    labels, logits = run.logits()
    assert logits.shape == (3, 21, 10)
    np.testing.assert_array_equal(labels, data.evaluation.labels[data.evaluation.index])
    from salcore.data.batches import epoch_batches

    (inputs, *_), *_ = epoch_batches(data.evaluation, data, batch_size=21, order=None)
    for found, member in zip(logits, members, strict=True):
        expected = load_member(run.store, member, data)(inputs).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_logits_left_over_by_a_killed_writer_are_not_counted(scene):
    run, *_ = scene
    folder = f"{layout.member_folder(0)}/{layout.LOGITS}"
    leftover = f"{folder}/.tmp-00ff-part-00000.arrow"
    run.store.write(leftover, run.store.read(f"{folder}/part-00000.arrow"))
    try:
        assert run.logits()[1].shape == (3, 21, 10)
    finally:
        run.store.delete(leftover)


def test_one_sample_by_its_number_in_the_evaluation_split(scene):
    run, _, data, _ = scene
    position = 13
    number = int(data.evaluation.index[position])
    sample = run.sample(number)
    assert (sample.sample, sample.label) == (number, data.evaluation.labels[number])
    assert set(sample.mean) == {"gradient", "integrated"}  # the third explains the first eleven samples only
    for method in sample.mean:
        np.testing.assert_array_equal(sample.mean[method], run.mean(method)[position])
        np.testing.assert_array_equal(sample.variance[method], run.variance(method)[position])
        assert sample.snr[method] == run.snr(method)[position]
        assert sample.target[method] == sample.label
    assert set(run.sample(int(data.evaluation.index[3])).mean) == set(METHODS)
    missing = next(n for n in range(1800) if n not in set(data.evaluation.index))
    with pytest.raises(ValueError, match=r"`number`: expected .*21 .*samples, got"):
        run.sample(missing)


def test_convergence_ends_at_the_norms_of_all_members(scene):
    run, *_ = scene
    assert run.convergence_members("gradient") == (1, 2, 3)
    mean, variance = run.mean("gradient"), run.variance("gradient")
    last = run.column("gradient", "mean_norm")[:, -1], run.column("gradient", "sigma_norm")[:, -1]
    np.testing.assert_allclose(last[0], np.sqrt((mean**2).sum((1, 2, 3))), rtol=1e-5)
    np.testing.assert_allclose(last[1], np.sqrt(variance.sum((1, 2, 3))), rtol=1e-5)


def test_the_summary_has_one_row_per_method(scene):
    run, *_ = scene
    rows = run.summary.to_pylist()
    assert [row["method"] for row in rows] == list(METHODS)
    assert [row["samples"] for row in rows] == [21, 21, 11]
    for row in rows:
        assert row["snr"] == pytest.approx(np.nanmean(run.snr(row["method"])), rel=1e-12)


def test_float16_shards_give_the_same_statistics(small, tmp_path):
    run, *_ = make(small, tmp_path / "run", "attribution.dtype=float16")
    for method in METHODS:
        maps, _ = raw(run, method)
        assert np.abs(run.mean(method) - maps.mean(0)).max() <= 1e-6 * np.abs(maps.mean(0)).max()
        variance = maps.var(0, ddof=1)
        assert np.abs(run.variance(method) - variance).max() <= 1e-5 * variance.max()


def test_what_is_no_run_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"RUN: expected a run directory \(with a spec\.yaml\)"):
        salcore.open(tmp_path)


def test_a_run_that_has_only_begun_can_be_opened(small, tmp_path):
    spec, *_ = small()
    Store(tmp_path).write(layout.SPEC, yaml.safe_dump(spec.to_dict()).encode())
    run = salcore.open(str(tmp_path))
    assert (run.members, run.failures, run.methods) == ((), {}, ())
    with pytest.raises(ValueError, match="no member"):
        run.logits()
    with pytest.raises(ValueError, match="`method`"):
        run.mean("gradient")


def test_an_unknown_method_is_named(scene):
    with pytest.raises(ValueError, match="`method`: expected one of gradient, integrated, cam, got 'gradcam'"):
        scene[0].mean("gradcam")
