"""What methods draw in a run: shared by all members unless the spec says otherwise, from the training part alone."""

import numpy as np
import pytest
import torch

from salcore.attribution import METHODS, check_settings, inner_seed
from salcore.complete import complete
from salcore.data.batches import normalise
from salcore.draws import seeded, training_inputs, with_draws
from salcore.errors import UserError
from salcore.explain import Explainer, Item, maps_fingerprint
from salcore.layout import maps_folder, part_file, ranges
from salcore.member_files import load_member, train_member
from salcore.shards import read
from salcore.storage import Store

RANDOM = "attribution.methods=[{name: gradient_shap, num_samples: 2, baselines: training, num_baselines: 3, seed: 5}]"


def test_shared_draws_are_the_specs_for_every_member_and_own_ones_differ(small):
    for kind, same in (("shared", True), ("member", False)):
        spec, _, members = small(RANDOM, f"attribution.draws={kind}")
        seeds = [seeded(spec, spec.attribution.methods[0], member)["seed"] for member in members]
        assert (len(set(seeds)) == 1) == same
        assert (seeds[0] == 5) == same
        again = [seeded(spec, spec.attribution.methods[0], member)["seed"] for member in members]
        assert seeds == again


INSIDE = "attribution.methods=[{name: smoothgrad, num_samples: 2, seed: 3, of: {name: deepshap, baselines: %s}}]"


@pytest.mark.parametrize("baselines", ["uniform", "training"])
def test_what_is_inside_smoothgrad_draws_as_smoothgrad_does(small, baselines):
    """Also where `complete` wrote out its own seed: shared, or each member's; never the numbers that made the noise."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    inputs, targets = torch.randn(2, 1, 8, 8), torch.zeros(2).long()
    for kind in ("shared", "member"):
        spec, data, members = small(INSIDE % baselines, f"attribution.draws={kind}")
        spec = complete(spec)
        method, found = spec.attribution.methods[0], []
        assert method.settings["of"]["seed"] == 0
        for member in members[:2]:
            settings = with_draws(spec, method, member, data, torch.device("cpu"))
            found.append(METHODS["smoothgrad"](model, inputs, targets, **settings | {"noise_level": 0.0}))
        assert torch.equal(*found) == (kind == "shared")
    assert inner_seed(3, {"seed": 0}) not in (0, 3)
    assert len({inner_seed(3, {}), inner_seed(4, {}), inner_seed(3, {"seed": 1})}) == 3


def test_a_method_without_draws_is_the_same_either_way(small):
    for kind in ("shared", "member"):
        spec, _, members = small("attribution.methods=[gradient]", f"attribution.draws={kind}")
        assert all(seeded(spec, spec.attribution.methods[0], member) == {} for member in members)


def test_own_draws_make_other_maps_and_the_fingerprint_says_so(small):
    marks = []
    for kind in ("shared", "member"):
        spec, _, members = small(RANDOM, f"attribution.draws={kind}")
        marks.append(maps_fingerprint(members[1], spec.attribution.methods[0], spec, "digest", members))
    assert marks[0] != marks[1]


def test_training_inputs_are_different_ones_of_the_training_part_normalised(small):
    _, data, _ = small()
    images = training_inputs(data, 6, 3, torch.device("cpu"))
    known = normalise(torch.from_numpy(np.asarray(data.train.values[data.train.index])), data.mean, data.std)
    rows = [int((known == image).flatten(1).all(1).nonzero()[0]) for image in images]
    assert len(set(rows)) == 6
    assert torch.equal(training_inputs(data, 6, 3, torch.device("cpu")), images)
    assert not torch.equal(training_inputs(data, 6, 4, torch.device("cpu")), images)
    assert len(training_inputs(data, 10**6, 3, torch.device("cpu"))) == len(data.train)


def test_maps_of_a_run_are_those_of_the_images_that_were_drawn(small, tmp_path):
    spec, data, members = small(RANDOM, "training.epochs=1")
    store, member, method = Store(tmp_path), members[1], spec.attribution.methods[0]
    train_member(member, data, store)
    part = next(iter(ranges(len(data.evaluation), spec.attribution.shard_samples)))
    worker = Explainer(spec, data, members, store)
    worker.explain(Item(member=1, range=part, methods=(method.folder,)))
    shard = read(store, f"{maps_folder(method.folder, 1)}/{part_file(part.part)}")
    rows = shard.column("sample")
    inputs = normalise(torch.from_numpy(np.asarray(data.evaluation.values[rows])), data.mean, data.std)
    targets = torch.from_numpy(data.evaluation.labels[rows])
    settings = with_draws(spec, method, member, data, torch.device("cpu"))
    assert settings["baselines"].shape == (3, *data.shape)
    expected = METHODS["gradient_shap"](load_member(store, member, data), inputs, targets, **settings)
    torch.testing.assert_close(torch.from_numpy(np.array(shard.maps())), expected, rtol=1e-4, atol=1e-6)
    assert "residual" in shard.columns


def test_defaults_hold_where_a_spec_gives_no_number(small):
    spec, data, members = small("attribution.methods=[{name: deepshap, baselines: training}]")
    settings = with_draws(spec, spec.attribution.methods[0], members[0], data, torch.device("cpu"))
    assert len(settings["baselines"]) == min(16, len(data.train))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"baselines": "test"}, "'training' or 'uniform'"),
        ({"num_baselines": 0}, "1 or more"),
        ({"baseline": "zero"}, "nearest: baselines"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        check_settings("deepshap", settings)
