"""The plan of an ensemble: seeds, growth, and what a fingerprint covers."""

from typing import get_args

import pytest

from salcore.errors import UserError
from salcore.members import plan, recipe
from salcore.seeds import PURPOSES
from salcore.spec import Purpose, parse

MAKE_MEMBERS = [
    *("model.name=mnist_cnn", "model.width=8", "ensemble.root_seed=1", "ensemble.vary=[init]", "training.epochs=4"),
    *("training.batch_size=64", "training.optimizer=sgd", "training.schedule=cosine", "training.learning_rate=0.1"),
    *("training.weight_decay=0.1", "training.momentum=0.5", "training.milestones=[1]", "training.decay=0.1"),
    *("training.patience=2", "training.precision=bfloat16", "training.threads=2", "training.objective=guided"),
    *("training.guidance.mask_fraction=0.1", "training.guidance.weight=0.1", "training.guidance.detach_target=true"),
    *("training.guidance.ranking=magnitude", "training.guidance.of=log_probability", "training.guidance.mode=eval"),
    *("training.guidance.fill=background", "training.augment.crop=1", "training.augment.flip=true"),
]
DO_NOT = [
    *("ensemble.members=7", "data.eval_samples=9", "attribution.methods=[gradcam]", "attribution.target=3"),
    *("attribution.dtype=float16", "attribution.batch_size=9", "cluster.slots=2", "cluster.gpus_per_slot=0.5"),
    *("cluster.attempts=9", "tracking.uri=http://a", "tracking.experiment=b", "name=other", "data.mirror=/x"),
    "ensemble.vary=[masking, model, augment, order, init]",
    "ensemble.until={width: 2.0, first: 3, step: 1}",
]


def marks(*overrides, digest="data"):
    spec = parse("ensemble: {members: 3}", overrides)
    return recipe(spec, digest), [member.fingerprint for member in plan(spec, digest)][:3]


def test_every_member_and_purpose_has_a_seed_of_its_own():
    members = plan(parse("ensemble: {members: 30}"), "data")
    assert [member.index for member in members] == list(range(30))
    assert all(tuple(member.seeds) == PURPOSES for member in members)
    assert len({seed for member in members for seed in member.seeds.values()}) == 30 * len(PURPOSES) - 29
    assert len({member.fingerprint for member in members}) == 30


@pytest.mark.parametrize("kept", get_args(Purpose))
def test_a_purpose_that_does_not_vary_is_member_0s_for_all(kept):
    vary = [purpose for purpose in get_args(Purpose) if purpose != kept]
    everything = plan(parse("ensemble: {members: 4}"), "data")
    members = plan(parse("", ["ensemble.members=4", f"ensemble.vary=[{', '.join(vary)}]"]), "data")
    for member, reference in zip(members, everything, strict=True):
        assert member.seeds[kept] == everything[0].seeds[kept]
        assert {p: member.seeds[p] for p in vary} == {p: reference.seeds[p] for p in vary}
    assert all(len({member.seeds[purpose] for member in members}) == 4 for purpose in vary)


def test_nothing_varies_where_nothing_is_named():
    first, second = plan(parse("ensemble: {members: 2, vary: []}"), "data")
    assert first.seeds == second.seeds


def test_root_seeds_give_other_ensembles():
    first, second = (plan(parse("", [f"ensemble.root_seed={root}"]), "data") for root in (0, 1))
    assert not {s for m in first for s in m.seeds.values()} & {s for m in second for s in m.seeds.values()}


def test_a_grown_ensemble_begins_with_the_smaller_one():
    eight, twelve = (plan(parse("", [f"ensemble.members={count}"]), "data") for count in (8, 12))
    assert twelve[:8] == eight


def test_planning_twice_is_the_same():
    spec = parse("ensemble: {members: 3}")
    assert plan(spec, "data") == plan(spec, "data")


@pytest.mark.parametrize("override", MAKE_MEMBERS)
def test_what_makes_other_members_changes_every_fingerprint(override):
    before, after = marks(), marks(override)
    assert before[0] != after[0]
    assert not set(before[1]) & set(after[1])


@pytest.mark.parametrize("override", DO_NOT)
def test_what_does_not_change_no_fingerprint(override):
    assert marks(override) == marks()


def test_other_data_makes_other_members():
    assert not set(marks()[1]) & set(marks(digest="other")[1])


def test_every_key_of_the_sections_that_make_members_was_tried():
    tried = {override.partition("=")[0] for override in [*MAKE_MEMBERS, *DO_NOT]}
    spec = parse("").to_dict()

    def leaves(values, prefix):
        for key, value in values.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]

    known = {key for part in ("model", "ensemble", "training") for key in leaves(spec[part], f"{part}.")}
    attention = {f"training.attention.{key.partition('=')[0]}" for key in ATTENTION} | {EXPLANATIONS}
    assert known - tried == {"model.weights", "ensemble.weights", "ensemble.start"} | attention  # tried below


ATTENTION = [
    *("method=lime", "teachers=mean", "weight=0.5", "sign=positive", "binary=threshold", "top=0.3", "threshold=0.4"),
    *("words=true", "shuffled=true", "divergence=mse", "layers=all", "heads=each", "query=mean"),
]
EXPLANATIONS = "training.attention.explanations"


@pytest.mark.parametrize("key", ATTENTION)
def test_what_attention_is_taught_makes_members_where_it_is_taught_and_nowhere_else(key):
    taught = ("training.objective=attention", "training.epochs=0")
    assert not {*marks(*taught)[1]} & {*marks(*taught, f"training.attention.{key}")[1]}
    assert marks(f"training.attention.{key}") == marks()


def test_where_explanations_lie_is_nothing_to_a_member():
    taught = ("training.objective=attention", "training.epochs=0")
    assert marks(*taught, f"{EXPLANATIONS}=/x") == marks(*taught)


@pytest.fixture
def files(tmp_path):
    def write(*contents):
        paths = [tmp_path / f"{number}.pt" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return paths

    return write


def test_the_content_of_weight_files_counts_and_their_names_do_not(files, tmp_path):
    def of(paths):
        return marks(f"ensemble.weights=[{', '.join(map(str, paths))}]")[1]

    first = of(files(b"one", b"two", b"three"))
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in files(b"one", b"two", b"three")]
    assert of(moved) == first
    changed = of(files(b"one", b"TWO", b"three"))
    assert [a == b for a, b in zip(first, changed, strict=True)] == [True, False, True]
    assert not set(first) & set(marks()[1])


def test_the_content_of_starting_weights_counts(files):
    paths = files(b"one", b"two")
    same = [files(b"one", b"one")[1]]
    first = marks(f"model.weights={paths[0]}")
    assert first == marks(f"model.weights={same[0]}")
    assert not {*first[1]} & {*marks()[1]}
    assert not {*first[1]} & {*marks(f"model.weights={files(b'one', b'two')[1]}")[1]}


@pytest.mark.parametrize(
    ("override", "key"), [("model.weights=/no/such", "model.weights"), ("ensemble.weights=[/no]", "ensemble.weights.0")]
)
def test_a_missing_weight_file_is_named(override, key):
    with pytest.raises(UserError) as refused:
        plan(parse("", [override]), "data")
    assert refused.value.key == key


def test_the_content_of_files_that_members_go_on_from_counts(files):
    def of(paths):
        return marks(f"ensemble.start=[{', '.join(map(str, paths))}]")

    first, same = of(files(b"one", b"two", b"three")), of(files(b"one", b"two", b"three"))
    changed = of(files(b"one", b"TWO", b"three"))
    assert first == same
    assert [a == b for a, b in zip(first[1], changed[1], strict=True)] == [True, False, True]
    assert first[0] != marks()[0]
    assert not {*first[1]} & {*marks()[1]}
