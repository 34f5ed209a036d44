"""Profiles of a run's members on storage: what is in them, what standardises them, and what is made again."""

import numpy as np
import pytest
import torch

from salcore import shards
from salcore.blame.splits import check, part_of, require_apart
from salcore.blame.stored import Profiles, read_statistics, statistics_of
from salcore.data.batches import inputs_of
from salcore.errors import UserError
from salcore.layout import profile_statistics_file, profiles_folder
from salcore.member_files import load_member
from salcore.parameter_space import filter_profiles
from salcore.storage import Store


def whole(made, split, member):
    """Profiles and predictions of a split, all samples at once."""
    part = part_of(made.data, split)
    inputs, _ = inputs_of(part, part.index, made.data)
    labels = torch.from_numpy(part.labels[part.index])
    model = load_member(made.store, member, made.data)
    with torch.no_grad():
        predictions = model.eval()(inputs).argmax(1).numpy()
    return filter_profiles(model, inputs, labels).numpy(), part, predictions


@pytest.mark.parametrize("split", ["validation", "evaluation"])
def test_shards_hold_the_profiles_of_every_sample_in_order(made, split):
    for member in made.members:
        expected, part, predictions = whole(made, split, member)
        found = Profiles(made.store, split, member.index)
        np.testing.assert_array_equal(found.sample, part.index)
        np.testing.assert_array_equal(found.label, part.labels[part.index])
        np.testing.assert_array_equal(found.prediction, predictions)
        rows = np.concatenate([block for _, block in found.blocks()])
        np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-8)
        places = np.array([len(found) - 1, 0, 41, 40])
        np.testing.assert_array_equal(found.rows(places), rows[places])
        places = np.concatenate([np.arange(where.start, where.stop) for where, _ in found.blocks()])
        np.testing.assert_array_equal(places, np.arange(len(found)))


def test_the_held_out_split_standardises(made):
    for member in made.members:
        expected, _, _ = whole(made, "validation", member)
        found = read_statistics(made.store, member.index)
        assert found.count == len(made.data.validation)
        np.testing.assert_allclose(found.mean, expected.mean(0, dtype=np.float64), rtol=1e-4)
        np.testing.assert_allclose(found.deviation, expected.std(0, ddof=1, dtype=np.float64), rtol=1e-3)


def test_a_finished_run_lacks_nothing_and_a_damaged_shard_alone_is_made_again(make, tmp_path):
    made = make(Store(tmp_path / "run"))
    assert len(made.profile()) == 2 * (3 + 2)
    made.blame()
    assert made.profile() == made.blame() == []
    folder = tmp_path / "run" / profiles_folder("validation", 1)
    before = {path.name: path.read_bytes() for path in folder.glob("*.arrow")}
    (folder / "part-00001.arrow").write_bytes(before["part-00001.arrow"][:100])
    (item,) = made.profile()
    assert (item.what, item.member, item.range.part) == ("validation", 1, 1)
    assert {path.name: path.read_bytes() for path in folder.glob("*.arrow")} == before
    assert made.blame() == []


def test_a_table_that_is_damaged_or_of_another_setting_is_made_again(make, tmp_path):
    made = make(Store(tmp_path / "run"))
    made.profile()
    made.blame()
    broken = next((tmp_path / "run" / "blame" / "pruning" / "member=0000").iterdir())
    content = broken.read_bytes()
    broken.write_bytes(content[:50])
    (item,) = made.blame()
    assert (item.what, item.member) == ("pruning", 0)
    assert broken.read_bytes() == content
    other = make(Store(tmp_path / "run"), "parameters.pruned=[1, 3]")
    assert other.profile() == []
    assert {item.what for item in other.blame()} == {"pruning"}
    more = make(Store(tmp_path / "run"), "parameters.pruned=[1, 3]", "parameters.mistakes=5")
    assert {item.what for item in more.blame()} == {"neighbours", "pruning", "finetuning"}


def test_statistics_of_other_profiles_are_not_taken(make, tmp_path):
    made = make(Store(tmp_path / "run"))
    made.profile()
    member = made.members[0]
    right = statistics_of(made.store, made.marks, member)
    strange = made.store.read(profile_statistics_file(1)) if made.store.exists(profile_statistics_file(1)) else b"x"
    made.store.write(profile_statistics_file(0), strange)
    assert read_statistics(made.store, 0, made.marks.statistics(member.index)) is None
    np.testing.assert_array_equal(statistics_of(made.store, made.marks, member).mean, right.mean)


def test_profiles_of_another_spec_are_not_taken_for_these(make, tmp_path):
    made = make(Store(tmp_path / "run"))
    made.profile()
    other = make(Store(tmp_path / "run"), "attribution.batch_size=24")
    with pytest.raises(ValueError, match=r"of another spec: python -m jobs\.parameters"):
        statistics_of(other.store, other.marks, other.members[0])
    assert len(other.profile()) == 10


def test_a_lost_manifest_is_made_again_from_the_shards(make, tmp_path):
    made = make(Store(tmp_path / "run"))
    made.profile()
    made.blame()
    (tmp_path / "run" / profiles_folder("validation", 0) / "manifest.json").unlink()
    assert made.blame() == []
    assert made.profile() == []
    assert len(Profiles(made.store, "validation", 0)) == len(made.data.validation)


def test_more_independent_samples_remake_what_searches_among_them_alone(make, tmp_path):
    made = make(Store(tmp_path / "run"))
    made.profile()
    made.blame()
    grown = make(Store(tmp_path / "run"), "data.eval_samples=80")
    assert {item.what for item in grown.profile()} == {"evaluation"}
    assert {item.what for item in grown.blame()} == {"neighbours", "finetuning"}


def test_a_network_of_one_layer_is_blamed_too(make, tmp_path):
    from salcore.blame import numbers
    from salcore.blame.page import build

    made = make(Store(tmp_path / "run"), "model.depth=1", "ensemble.members=1")
    made.profile()
    made.blame()
    blame = made.open()
    assert np.isnan(numbers.depth(blame).value)
    assert set(numbers.neighbours_share_pair(blame)) == {"all"}
    assert "Whether they are deeper is open" in build(blame)


def test_a_shard_tells_its_filters_and_where_it_comes_from(made):
    shard = shards.read(made.store, f"{profiles_folder('validation', 0)}/part-00000.arrow")
    metadata = shard.metadata
    assert metadata["method"] == "filter_profiles"
    assert metadata["member_fingerprint"] == made.members[0].fingerprint
    assert sum(layer["filters"] for layer in metadata["settings"]["layers"]) == shard.shape[0]


def test_samples_of_both_splits_are_refused(made):
    from dataclasses import replace

    require_apart(made.data, "validation", "evaluation")
    same = replace(made.data, evaluation=made.data.validation)
    with pytest.raises(UserError, match=r"parameters\.independent.*100 of 100") as refused:
        require_apart(same, "validation", "evaluation")
    assert "\n" not in str(refused.value)


def test_a_split_without_samples_or_labels_is_refused(made):
    from dataclasses import replace

    with pytest.raises(UserError, match=r"data\.validation_fraction above 0"):
        check(made.spec, replace(made.data, validation=replace(made.data.validation, index=np.array([], np.int64))))
    unlabelled = replace(made.data.evaluation, labels=np.full_like(made.data.evaluation.labels, -1))
    with pytest.raises(UserError, match=r"parameters\.independent.*labels are known"):
        check(made.spec, replace(made.data, evaluation=unlabelled))
