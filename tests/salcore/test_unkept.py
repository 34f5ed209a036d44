"""Maps that are kept nowhere: the statistics are those of stored ones, bit for bit, in memory of one range."""

import tracemalloc

import numpy as np
import pytest
import yaml

import salcore
from salcore import inventory, shards
from salcore.explain import Explainer, within
from salcore.layout import SPEC, Range, maps_folder, part_file, ranges, stats_folder
from salcore.reduce import reduce_range
from salcore.summary import write_stats
from salcore.unkept import reduce_unkept

METHODS = (
    "attribution.methods=[gradient, {name: smoothgrad, num_samples: 2}, {name: integrated_gradients, num_steps: 4},"
    " {name: gradcam, samples: 11}]"
)


@pytest.fixture
def scene(trained, store):
    """A function that trains and explains; what there is then."""

    def make(*overrides):
        spec, data, members = trained("training.epochs=0", "ensemble.members=3", METHODS, *overrides)
        found = inventory.take(store, spec, data, members)
        explainer = Explainer(spec, data, members, store)
        for item in found.missing:
            found.enter(explainer.explain(item))
        found.write()
        return spec, data, members, explainer, found

    return make


def whole_ranges(spec, data, method):
    cut = ranges(len(data.evaluation), spec.attribution.shard_samples)
    return [within(part, method) for part in cut if method.samples is None or part.start < method.samples]


@pytest.mark.parametrize("target", ["label", "prediction", "ensemble", 3])
def test_statistics_are_those_of_stored_maps_bit_for_bit(scene, store, target):
    spec, data, members, explainer, _ = scene(f"attribution.target={target}")
    about = {"inputs_digest": "0", "metadata": {"method": "any"}}
    for method in spec.attribution.methods:
        for part in whole_ranges(spec, data, method):
            names = [f"{maps_folder(method.folder, member.index)}/{part_file(part.part)}" for member in members]
            sources = [shards.read(store, name) for name in names]
            kept = reduce_range(sources, members=[member.index for member in members], **about)
            made = reduce_unkept(explainer, members, method, part, **about)
            write_stats(store, "kept.arrow", kept)
            write_stats(store, "made.arrow", made)
            assert store.read("made.arrow") == store.read("kept.arrow")


def test_nothing_is_missing_but_logits_and_no_map_is_written(scene, store):
    spec, data, members, _, found = scene("attribution.keep_maps=false")
    assert {item.methods for item in found.missing} == {()}
    assert not store.files("maps")
    assert not inventory.take(store, spec, data, members).missing


def test_what_statistics_come_from_changes_with_the_members_and_the_settings_of_their_method(scene):
    def inputs(*overrides):
        *_, members, _, found = scene("attribution.keep_maps=false", *overrides)
        return found.inputs("smoothgrad", [member.index for member in members[:2]])

    before = inputs()
    assert inputs() == before
    assert len({*before.values()}) == 3
    found = scene("attribution.keep_maps=false")[-1]
    assert found.inputs("smoothgrad", [0, 1, 2]) != before
    other = METHODS.replace("num_samples: 2", "num_samples: 3")
    assert not {*inputs(other).values()} & {*before.values()}
    unlike = METHODS.replace("num_steps: 4", "num_steps: 5")
    assert inputs(unlike) == before


def test_an_opened_run_makes_the_maps_that_are_asked_for_again(scene, store):
    """What figures and notebooks show of members is the same, kept or not."""
    spec, data, members, explainer, _ = scene("attribution.target=prediction")
    opened = {}
    for kept in (True, False):
        asked = spec.model_copy(update={"attribution": spec.attribution.model_copy(update={"keep_maps": kept})})
        store.write(SPEC, yaml.safe_dump(asked.to_dict()).encode())
        for method in spec.attribution.methods:
            for part in whole_ranges(spec, data, method):
                made = reduce_unkept(explainer, members, method, part, inputs_digest="0", metadata={})
                write_stats(store, f"{stats_folder(method.folder)}/{part_file(part.part)}", made)
        run = salcore.open(store.uri)
        opened[kept] = {method: run.maps(method, [9, 0, 8]) for method in run.methods}
    assert opened[True].keys() == opened[False].keys() == {method.folder for method in spec.attribution.methods}
    for method, maps in opened[True].items():
        np.testing.assert_array_equal(maps, opened[False][method])


class Noise:
    """Makes maps of pure noise, as an explainer makes its own: nothing of them is held."""

    def samples(self, part):
        return np.arange(part.start, part.stop)

    def labels(self, part):
        return np.zeros(len(part), np.int32)

    def targets(self, member, part):
        return np.zeros(len(part), np.int32)

    def maps(self, member, method, positions, targets):
        drawn = np.random.default_rng(member.index)
        return drawn.standard_normal((len(positions), 1, 28, 28), np.float32), None


def test_memory_does_not_grow_with_the_members(small):
    spec, _, members = small("ensemble.members=200")
    method, part = spec.attribution.methods[0], Range(part=0, start=0, stop=100)

    def peak(count):
        tracemalloc.start()
        reduce_unkept(Noise(), members[:count], method, part, inputs_digest="0", metadata={})
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(3)
    few, many = peak(10), peak(200)
    assert many - few < 4 * 100 * 28 * 28, "less than one more member's maps"
