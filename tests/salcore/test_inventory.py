"""What a run lacks, found on storage: growth makes only what is new, damage is found and nothing else is touched."""

from dataclasses import replace

import numpy as np
import pytest

from salcore import index as index_module
from salcore import inventory, manifests, shards
from salcore.explain import Explainer
from salcore.index import Index
from salcore.layout import LOGITS, LOGITS_INDEX, logits_folder, maps_folder, maps_index, member_folder, part_file
from salcore.storage import FileInfo, Store

THREE = "attribution.methods=[gradient, {name: smoothgrad, as: smooth, num_samples: 2}, {name: gradcam, samples: 11}]"


@pytest.fixture
def finish(trained, store):
    """A function that makes what is missing, as the explaining stage does; what was missing and the problems."""

    def make(*overrides):
        spec, data, members = trained("training.epochs=0", *overrides)
        found = inventory.take(store, spec, data, members)
        worker = Explainer(spec, data, members, store)
        for item in found.missing:
            found.enter(worker.explain(item))
        found.write()
        return listed(found), found.problems

    return make


def listed(found):
    return {(method, item.member, item.range.part) for item in found.missing for method in item.methods}


def names(store):
    return {name: info for name, info in store.files("maps").items() if name.endswith(".arrow")}


def shard(method, member, part):
    return f"{maps_folder(method, member)}/{part_file(part)}"


def test_of_a_new_run_everything_is_missing_and_of_a_finished_one_nothing(finish, store):
    missing, problems = finish(THREE)
    both = {(method, member, part) for method in ("gradient", "smooth") for member in (0, 1) for part in (0, 1, 2)}
    assert missing == both | {("gradcam", member, part) for member in (0, 1) for part in (0, 1)}
    assert not problems
    before = names(store)
    assert set(before) == {shard(*each) for each in missing}
    assert finish(THREE) == (set(), [])
    assert names(store) == before


def test_methods_may_explain_fewer_samples_than_the_run(finish, store):
    finish(THREE)
    assert shards.read(store, shard("gradcam", 0, 0)).rows == 8
    assert shards.read(store, shard("gradcam", 0, 1)).rows == 3
    assert not store.exists(shard("gradcam", 0, 2))


def test_more_samples_remake_the_partial_last_shard_and_add_what_follows(finish, store):
    finish(THREE, "data.eval_samples=21")
    before = {name: (info, store.read(name)) for name, info in names(store).items()}
    missing, problems = finish(THREE, "data.eval_samples=30")
    assert missing == {
        (method, member, part) for method in ("gradient", "smooth") for member in (0, 1) for part in (2, 3)
    }
    assert not problems
    for name, (info, _) in before.items():
        grown = "part-00002" in name
        assert (store.info(name) == info) is not grown
    assert shards.read(store, shard("gradient", 0, 2)).rows == 8
    old = shards.open_shard(before[shard("gradient", 0, 2)][1])
    new = shards.read(store, shard("gradient", 0, 2))
    np.testing.assert_array_equal(new.maps(0, 5), old.maps())
    np.testing.assert_array_equal(new.column("sample")[:5], old.column("sample"))


def test_a_grown_run_is_byte_for_byte_one_made_at_once(finish, store, small, tmp_path):
    finish("ensemble.members=2", "data.eval_samples=21", "attribution.methods=[gradient]")
    finish("ensemble.members=3", "data.eval_samples=30", THREE)
    grown = {name: store.read(name) for name in names(store)}
    for name in store.files():
        store.delete(name)
    finish("ensemble.members=3", "data.eval_samples=30", THREE)
    assert {name: store.read(name) for name in names(store)} == grown


def test_new_members_and_methods_are_all_that_is_missing(finish):
    finish("attribution.methods=[gradient]")
    missing, _ = finish("attribution.methods=[gradient]", "ensemble.members=3")
    assert missing == {("gradient", 2, part) for part in (0, 1, 2)}
    missing, _ = finish("attribution.methods=[gradient, {name: gradient, as: again}]", "ensemble.members=3")
    assert missing == {("again", member, part) for member in (0, 1, 2) for part in (0, 1, 2)}


@pytest.mark.parametrize(
    "change",
    [
        "attribution.target=prediction",
        "attribution.target=2",
        "attribution.dtype=float16",
        "attribution.methods=[{name: smoothgrad, as: gradient, num_samples: 3}]",
        "attribution.methods=[{name: gradcam, as: gradient}]",
        "data.split_seed=1",
    ],
)
def test_other_settings_make_every_shard_missing(finish, change):
    first = ("attribution.methods=[{name: smoothgrad, as: gradient, num_samples: 2}]", "data.validation_fraction=0")
    finish(*first)
    missing, problems = finish(*first, change)
    assert missing == {("gradient", member, part) for member in (0, 1) for part in (0, 1, 2)}
    assert not problems


def test_a_changed_setting_touches_its_own_method_only(finish, store):
    finish(THREE)
    before = names(store)
    missing, _ = finish(THREE.replace("num_samples: 2", "num_samples: 3"))
    assert {method for method, _, _ in missing} == {"smooth"}
    assert all((store.info(name) == info) is ("maps/smooth" not in name) for name, info in before.items())


def test_the_majority_changes_with_the_members_and_the_label_does_not(finish):
    finish("attribution.target=ensemble")
    missing, _ = finish("attribution.target=ensemble", "ensemble.members=3")
    assert {member for _, member, _ in missing} == {0, 1, 2}


def test_a_batch_size_that_is_padded_to_the_same_makes_nothing_new(finish):
    finish("attribution.batch_size=8")
    assert finish("attribution.batch_size=5")[0] == set()


def flip(content):
    return content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]


@pytest.mark.parametrize(
    "spoil",
    [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: content + b"more", flip],
    ids=["truncated", "empty", "longer", "altered"],
)
def test_a_damaged_shard_is_found_named_and_made_again_to_the_same_bytes(finish, store, spoil):
    finish(THREE)
    name = shard("smooth", 1, 1)
    content, before = store.read(name), names(store)
    store.write(name, spoil(content))
    missing, problems = finish(THREE)
    assert missing == {("smooth", 1, 1)}
    assert len(problems) == 1
    assert name in problems[0]
    assert store.read(name) == content
    assert {each for each, info in names(store).items() if info != before[each]} == {name}


def test_a_deleted_shard_is_found(finish, store):
    finish(THREE)
    name = shard("gradcam", 0, 1)
    content = store.read(name)
    store.delete(name)
    missing, problems = finish(THREE)
    assert missing == {("gradcam", 0, 1)}
    assert len(problems) == 1
    assert store.read(name) == content


@pytest.mark.parametrize("manifest", [None, b"{", b"{}"])
def test_shards_without_a_manifest_are_adopted(finish, store, manifest):
    finish(THREE)
    before, name = names(store), f"{maps_folder('gradient', 0)}/{manifests.MANIFEST}"
    kept = store.read(name)
    store.write(name, manifest) if manifest else store.delete(name)
    missing, problems = finish(THREE)
    assert not missing
    assert len(problems) == (manifest is not None)
    assert names(store) == before
    assert store.read(name) == kept


def test_a_manifest_alone_is_not_believed(finish, store):
    finish(THREE)
    for name in names(store):
        store.delete(name)
    missing, problems = finish(THREE)
    assert len(missing) == len(problems) == 16


def test_shards_of_an_ensemble_that_was_made_otherwise_are_missing(finish, store):
    finish("attribution.methods=[gradient]")
    missing, _ = finish("attribution.methods=[gradient]", "ensemble.root_seed=1")
    assert len(missing) == 6


def test_items_name_a_range_once_with_all_its_methods(small, store):
    spec, data, members = small(THREE)
    found = inventory.take(store, spec, data, members)
    assert len(found.missing) == 6
    assert found.shards_missing == 16
    assert [item.methods for item in found.missing[:3]] == [("gradient", "smooth", "gradcam")] * 2 + [
        ("gradient", "smooth")
    ]
    assert all(item.methods == () for item in inventory.without_methods(found.missing))


def test_items_can_be_cut_into_one_method_each(small, store):
    spec, data, members = small(THREE)
    found = inventory.take(store, spec, data, members)
    nothing = replace(found.missing[0], methods=())
    cut = inventory.by_method([*found.missing, nothing])
    assert all(len(item.methods) == 1 for item in cut[:-1])
    assert cut[-1] == nothing
    assert {(item.member, item.range, item.methods[0]) for item in cut[:-1]} == {
        (item.member, item.range, method) for item in found.missing for method in item.methods
    }
    assert len(cut) == found.shards_missing + 1


def flip_the_middle(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


@pytest.mark.parametrize("spoil", [lambda content: content[:100], lambda content: b"", flip_the_middle])
def test_damaged_logits_are_found_and_made_again_to_the_same_bytes(finish, store, spoil):
    """Nothing else would: every map is there, and the run would be called finished."""
    finish(THREE)
    name = f"{member_folder(1)}/{LOGITS}/{part_file(1)}"
    content, before = store.read(name), names(store)
    store.write(name, spoil(content))
    finish(THREE)
    assert store.read(name) == content
    assert names(store) == before


def test_samples_that_no_method_explains_have_logits_all_the_same(finish, store):
    """Accuracies are over every evaluation sample, however few of them have maps."""
    finish("attribution.methods=[{name: gradient, samples: 3}]")
    folder = f"{member_folder(1)}/{LOGITS}"
    assert set(store.files(folder)) == {f"{folder}/{part_file(part)}" for part in (0, 1, 2)}
    store.delete(f"{folder}/{part_file(2)}")
    finish("attribution.methods=[{name: gradient, samples: 3}]")
    assert store.exists(f"{folder}/{part_file(2)}")


INDEXES = maps_index("gradient"), LOGITS_INDEX


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("content", [None, b"", b"ARROW1", flip_the_middle], ids=["gone", "empty", "cut", "altered"])
def test_an_index_that_is_not_whole_costs_a_look_and_no_work(finish, store, index, content):
    finish(THREE)
    before, kept = names(store), store.read(index)
    if content is None:
        store.delete(index)
    else:
        store.write(index, content(kept) if callable(content) else content)
    assert finish(THREE) == (set(), [])
    assert names(store) == before
    assert store.read(index) == kept


def test_an_index_that_is_behind_believes_the_manifests(finish, store):
    finish(THREE)
    behind = {index: store.read(index) for index in INDEXES}
    finish(THREE, "ensemble.members=3", "data.eval_samples=30")
    for index, content in behind.items():
        store.write(index, content)
    before = names(store)
    assert finish(THREE, "ensemble.members=3", "data.eval_samples=30") == (set(), [])
    assert names(store) == before


@pytest.mark.parametrize("at_once", [1, 64])
def test_with_an_index_no_manifest_no_shard_and_no_logits_are_opened(finish, store, monkeypatch, at_once):
    """Ten thousand members have hundreds of thousands of them."""
    monkeypatch.setattr(inventory, "_MEMBERS_AT_ONCE", at_once)
    finish(THREE)
    opened = []
    for name in ("open", "read"):
        monkeypatch.setattr(Store, name, recorded(opened, getattr(Store, name)))
    assert finish(THREE) == (set(), [])
    assert {name for name in opened if name.startswith("maps/")} == {
        maps_index(m) for m in ("gradient", "smooth", "gradcam")
    }
    assert {name for name in opened if LOGITS in name} == {LOGITS_INDEX}


def recorded(names, method):
    def call(store, name):
        names.append(name)
        return method(store, name)

    return call


def test_logits_that_two_slots_wrote_at_once_are_known_as_they_lie_there(trained, store):
    """Whoever reports last did not therefore write last."""
    spec, data, members = trained("training.epochs=0", THREE)
    found = inventory.take(store, spec, data, members)
    made = []
    for item in inventory.by_method(found.missing):
        store.delete(f"{logits_folder(item.member)}/{part_file(item.range.part)}")
        made += Explainer(spec, data, members, store).explain(item)
    found.enter(reversed(made))
    found.write()
    written = store.info(LOGITS_INDEX)
    again = inventory.take(store, spec, data, members)
    again.write()
    assert not again.missing
    assert store.info(LOGITS_INDEX) == written


@pytest.mark.parametrize("as_entries", [1, 2, 512])
def test_an_index_gives_back_what_was_entered_and_writes_only_what_changed(store, as_entries, monkeypatch):
    monkeypatch.setattr(index_module, "_MEMBERS_AS_ENTRIES", as_entries)
    monkeypatch.setattr(index_module, "_ROWS", 4)  # of a record batch, of which a large index has several
    entries = {
        member: {
            part_file(part): shards.Entry(
                path=part_file(part), rows=5, bytes=1 << 40, sha256=f"{part:064x}", mtime_ns=10**18 + member,
                fingerprint=f"{member:064x}",
            )
            for part in range(member)
        }
        for member in (3, 0, 12)
    }  # fmt: skip
    index = Index(store, "index.feather")
    for member, of in entries.items():
        index.enter(member, of)
        assert index.of(member) == of
    assert {member: index.of(member) for member in entries} == entries
    assert index.column(3, "bytes") == {part_file(part): 1 << 40 for part in range(3)}
    index.write()
    written = store.info("index.feather")
    again = Index(store, "index.feather")
    assert {member: again.of(member) for member in entries} == entries
    assert again.of(1) == {}
    again.write()
    assert store.info("index.feather") == written
    again.enter(3, {})
    again.write()
    assert Index(store, "index.feather").of(3) == {}
    nothing = Index(store, "nothing.feather")
    nothing.enter(3, {})
    nothing.write()
    assert not store.exists("nothing.feather")


@pytest.mark.parametrize(("mtime_ns", "stands"), [(7, True), (8, False), (0, False)])
def test_an_index_vouches_for_a_file_of_the_time_it_knows(store, mtime_ns, stands):
    """A store that tells no times has nobody to vouch for its files."""
    path, index = part_file(0), Index(store, "index.feather")
    known = 0 if mtime_ns == 0 else 7
    entry = shards.Entry(path=path, rows=1, bytes=5, sha256=f"{1:064x}", mtime_ns=known, fingerprint=f"{2:064x}")
    index.enter(3, {path: entry})
    files = {f"maps/{path}": FileInfo(size=5, mtime_ns=mtime_ns)}
    wanted = {path: entry.fingerprint, part_file(1): entry.fingerprint}
    assert index.standing(3, "maps", files, wanted) == [path] * stands
    assert index.standing(3, "maps", files, {path: f"{9:064x}"}) == []
    assert index.standing(4, "maps", files, wanted) == []
    assert index.standing(3, "maps", {}, wanted) == []


def test_an_index_vouches_for_no_manifest_that_is_behind_it(finish, store):
    """A driver that died between the two has left a manifest without the newest shards."""
    finish(THREE)
    folder = maps_folder("gradient", 0)
    entries = manifests.read(store, folder)
    manifests.write(store, folder, {path: entry for path, entry in entries.items() if path != part_file(1)})
    assert finish(THREE) == (set(), [])
    assert manifests.read(store, folder) == entries


def test_a_run_that_explains_fewer_samples_is_looked_through_as_quickly(finish, store, monkeypatch):
    finish(THREE, "data.eval_samples=30")
    for _ in range(2):
        opened = []
        with monkeypatch.context() as patch:
            patch.setattr(Store, "open", recorded(opened, Store.open))
            assert finish(THREE, "data.eval_samples=21")[1] == []
    assert {name for name in opened if name.startswith("maps/") and name.endswith(".arrow")} == set()


def test_a_run_without_members_lacks_nothing(small, store):
    spec, data, _ = small(THREE)
    found = inventory.take(store, spec, data, [])
    assert (found.missing, found.paths("gradient"), found.inputs("gradient", [])) == ([], [], {})
