"""What is measured from a run directory is what its files say, member by member."""

import numpy as np
import pytest
import torch

import salcore
from salcore import layout, member_files, shards
from salcore.data import load
from salcore.data.batches import inputs_of
from salcore.faithfulness import (
    MEASURES,
    accuracy_drop,
    areas_above_random,
    comprehensiveness,
    gradient_spread,
    measure,
    measures,
    precision_recall_areas,
)
from salcore.member_files import load_member
from salcore.members import plan
from salcore.reduce import reduce_range
from salcore.spec import parse
from salcore.summary import write_stats
from tests.salcore.test_runs import make, raw

DIGITS = "data: {train_samples: 100, eval_samples: 21}\nmodel: {width: 4, norm: batch, dropout: 0.3}"
SERIES = "data: {name: 'synthetic:moving_small_middle', train_samples: 60, eval_samples: 12}\nmodel: {name: lstm}"
GRADIENT = "attribution.methods=[gradient]"


def made(folder, text, *more):
    def small(*overrides):
        spec = parse(text, ["attribution.batch_size=8", "attribution.shard_samples=8", *overrides, *more])
        data = load(spec.data)
        return spec, data, plan(spec, data.digest)

    return make(small, folder, failing={1})


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return made(tmp_path_factory.mktemp("measured") / "run", DIGITS)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    more = (GRADIENT, "ensemble.members=3", "training.batch_size=20")
    return made(tmp_path_factory.mktemp("measured") / "series", SERIES, *more)


def taken(data, count):
    rows = data.evaluation.index[:count]
    inputs, valid = inputs_of(data.evaluation, rows, data)
    return inputs, torch.from_numpy(data.evaluation.labels[rows]), valid, rows


def test_each_member_is_measured_by_its_own_maps_and_by_the_mean_map(scene):
    run, _, data, members = scene
    found = measure(run, "gradient", "accuracy_drop", fractions=(0.2, 0.6))
    inputs, labels, _, _ = taken(data, 21)
    maps, mean = torch.from_numpy(raw(run, "gradient")[0]).float(), torch.tensor(run.mean("gradient"))
    assert found.members == (0, 2, 3)
    assert (found.samples, found.better, found.method) == (21, "lower", "gradient")
    for place, member in enumerate(members):
        model = load_member(run.store, member, data)
        own = accuracy_drop(model, inputs, labels, maps[place], fractions=(0.2, 0.6))
        assert found.results[place] == own
        assert found.own[place] == own.area
        assert found.of_mean_results[place] == accuracy_drop(model, inputs, labels, mean, fractions=(0.2, 0.6))


def test_a_method_that_explains_fewer_is_measured_on_those_and_asked_for_fewer_on_fewer(scene):
    run, _, data, members = scene
    assert measure(run, "cam", "spread").samples == 11
    found = measure(run, "cam", "accuracy_drop", samples=9, data=data)
    assert found.samples == 9
    inputs, labels, _, _ = taken(data, 9)
    maps = torch.from_numpy(raw(run, "cam")[0][0, :9]).float()
    assert found.own[0] == accuracy_drop(load_member(run.store, members[0], data), inputs, labels, maps).area


def test_all_at_once_is_each_by_itself_with_one_loading_of_each_member(scene, monkeypatch):
    run, _, data, _ = scene
    loaded = []

    def counted(store, member, data):
        loaded.append(member.index)
        return load_member(store, member, data)

    monkeypatch.setattr(member_files, "load_member", counted)
    names = ("accuracy_drop", "deletion", "spread")
    settings = {"deletion": {"steps": 4}}
    found = measures(run, ["gradient", "cam"], names, data=data, settings=settings)
    assert loaded == [0, 2, 3]
    for (method, name), each in found.items():
        alone = measure(run, method, name, data=data, **settings.get(name, {}))
        assert (each.own, each.of_mean) == (alone.own, alone.of_mean)
    assert len(found) == 6


def test_what_asks_no_network_has_one_value_for_the_mean_map(scene):
    run, *_ = scene
    found = measure(run, "gradient", "spread", top=0.25)
    mean = gradient_spread(torch.tensor(run.mean("gradient")), 0.25).top_share.mean()
    assert len(found.own) == 3
    assert found.of_mean == (mean.item(),)


def test_random_rankings_need_no_method(scene):
    run, _, data, members = scene
    found = measure(run, None, "accuracy_drop", seed=3, samples=8, draws=2)
    inputs, labels, _, _ = taken(data, 8)
    model = load_member(run.store, members[1], data)
    assert found.own[1] == accuracy_drop(model, inputs, labels, None, seed=3, draws=2).area
    assert found.of_mean == ()


def test_series_with_known_cells_have_aup_and_aur(series):
    run, _, data, _ = series
    names = ("aup", "aur", "aup_above_random", "accuracy_drop")
    found = measures(run, ["gradient"], names, data=data, seed=5)
    _, _, valid, rows = taken(data, 12)
    truth = torch.from_numpy(data.evaluation.informative[rows])
    maps = torch.from_numpy(raw(run, "gradient")[0]).float()
    areas = [precision_recall_areas(each, truth, valid=valid) for each in maps]
    assert found["gradient", "aup"].own == tuple(each.aup for each in areas)
    assert found["gradient", "aur"].own == tuple(each.aur for each in areas)
    beyond = tuple(areas_above_random(each, truth, seed=5).aup for each in maps)
    assert found["gradient", "aup_above_random"].own == beyond
    assert 0 <= found["gradient", "accuracy_drop"].own[0] <= 1


def test_texts_have_comprehensiveness_on_their_words_alone(test_data, tmp_path):
    (vectors,) = (test_data / "glove_twitter_25d").glob("*.txt*")
    text = (
        f"data: {{name: 'sst:{test_data / 'sst5'}', vectors: '{vectors}', train_samples: 60, eval_samples: 12}}\n"
        "model: {name: bilstm, hidden: 4}"
    )
    run, _, data, members = made(tmp_path / "run", text, GRADIENT, "ensemble.members=2", "training.batch_size=20")
    found = measures(run, ["gradient"], ["comprehensiveness", "sufficiency", "deletion"], data=data)
    inputs, _, valid, _ = taken(data, 12)
    maps = torch.from_numpy(raw(run, "gradient")[0]).float()
    assert maps.shape == (1, *inputs.shape[:2])
    model = load_member(run.store, members[0], data)
    expected = comprehensiveness(model, inputs, maps[0], valid=valid).aopc
    assert found["gradient", "comprehensiveness"].own == (expected,)
    with pytest.raises(ValueError, match=r"^`name`: expected .*got 'aup'"):
        measure(run, "gradient", "aup", data=data)


def test_a_sample_of_which_a_map_is_not_finite_is_left_out_for_all(tmp_path):
    run, _, data, members = made(tmp_path / "run", DIGITS, GRADIENT, "ensemble.members=3")
    names = [f"{layout.maps_folder('gradient', member)}/{layout.part_file(1)}" for member in (0, 2)]
    shard = shards.read(run.store, names[1])
    maps = shard.maps().copy()
    maps[2, 0, 3, 3] = np.nan  # the eleventh sample of all
    columns = {name: shard.column(name) for name in ("sample", "label", "target", "prediction")}
    shards.write(run.store, names[1], shards.encode(**columns, maps=maps, metadata=shard.metadata))
    parts = [shards.read(run.store, name) for name in names]
    reduced = reduce_range(parts, members=[0, 2], inputs_digest="", metadata={"method": "gradient"})
    write_stats(run.store, f"{layout.stats_folder('gradient')}/{layout.part_file(1)}", reduced)
    run = salcore.open(run.store.local)
    found = measure(run, "gradient", "accuracy_drop", data=data)
    assert found.samples == 20
    left = np.delete(np.arange(21), 10)
    inputs, labels, _, _ = taken(data, 21)
    own = torch.from_numpy(raw(run, "gradient")[0][0, left]).float()
    expected = accuracy_drop(load_member(run.store, members[0], data), inputs[left], labels[left], own)
    assert found.results[0] == expected


def test_what_a_run_does_not_have_is_named(scene, series):
    run, _, data, _ = scene
    for name in ("comprehensiveness", "aup", "beauty"):
        with pytest.raises(ValueError, match=rf"^`name`: expected .*got '{name}'"):
            measure(run, "gradient", name, data=data)
    with pytest.raises(ValueError, match=r"^`method`: expected one of gradient"):
        measure(run, "lime", "spread", data=data)
    with pytest.raises(ValueError, match=r"^`method`"):
        measure(run, None, "spread", data=data)
    with pytest.raises(ValueError, match=r"^`samples`"):
        measure(run, "gradient", "spread", samples=0, data=data)
    run.fingerprints["data"] = data.digest
    with pytest.raises(ValueError, match=r"^`data`: expected the data of"):
        measure(run, "gradient", "spread", data=series[2])


def test_every_name_says_which_way_is_better():
    assert {name for name, each in MEASURES.items() if each.better == "lower"} == {
        "accuracy_drop",
        "deletion",
        "sufficiency",
    }
