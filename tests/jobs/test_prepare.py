"""What is refused before any work, what a plan says, and which directories may be gone on with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from jobs.command import read
from jobs.outlook import _passes, describe, estimate, map_shapes
from jobs.prepare import _check_kept, begin, prepare, resolved
from salcore import layout
from salcore.errors import UserError
from salcore.member_files import fail, train_member
from salcore.models import build
from salcore.spec import parse

SMALL = """
data: {name: digits, train_samples: 100, eval_samples: 21}
model: {width: 4}
ensemble: {members: 2}
training: {epochs: 1, batch_size: 32}
attribution: {shard_samples: 8, batch_size: 8, methods: [gradient, {name: gradcam, samples: 11}]}
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A function that reads a command on the small spec and prepares it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)

    def make(*overrides):
        return prepare(read("ensemble", "", ["small.yaml", *overrides, "--run-dir", "run"]))

    return make


def archive(path, labels, channels=1):
    images = np.random.default_rng(0).integers(0, 256, (len(labels), channels, 8, 8), np.uint8)
    np.savez(path, images=images, labels=np.asarray(labels))


def test_a_plan_has_the_data_and_the_members(planned):
    plan = planned()
    assert [member.index for member in plan.members] == [0, 1]
    assert len(plan.data.evaluation) == 21
    assert plan.untrained() == list(plan.members)
    assert plan.trained() == []
    assert plan.failures() == {}
    assert not plan.store.files()  # planning leaves nothing behind


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["attribution.target=10"], "attribution.target", "a class below 10"),
        (["attribution.methods=[gradeint]"], "attribution.methods", "gradient"),
        (["attribution.methods=[{name: gradcam, layr: x}]"], "attribution.methods", "layer"),
        (["attribution.methods=[{name: integrated_gradients, num_steps: 0}]"], "attribution.methods", "num_steps"),
        (["attribution.methods=[{name: smoothgrad, of: nothing}]"], "attribution.methods", "nothing"),
        (["data.name=digitz"], "data.name", "did you mean digits?"),
        (["data.eval_samples=5000"], "data.eval_samples", "got 5000"),
        (["data.train_samples=5000"], "data.train_samples", "got 5000"),
        (["data.name=folder:nowhere"], "data.name", "nowhere"),
        (["model.name=smal_cnn"], "model.name", "small_cnn"),
        (["model.widht=3"], "model.widht", "width"),
        (["model.depth=9"], "model.depth", "got 9"),
        (["model.name=alexnet"], "data.image_size", "63 or more, the smallest square that alexnet takes"),
        (["model.name=python:nowhere:net"], "model.name", "nowhere"),
        (["training.patience=1", "data.validation_fraction=0"], "training.patience", "data.validation_fraction"),
        (["model.weights=none.pt"], "model.weights", "none.pt"),
        (["ensemble.weights=[none.pt]"], "ensemble.weights.0", "none.pt"),
    ],
)
def test_a_mistake_is_refused_before_any_work_and_names_its_key(planned, overrides, key, words):
    with pytest.raises(UserError) as refused:
        planned(*overrides)
    assert refused.value.key == key
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("labels", "classes"), [([0, 1, 5] * 20, ["a", "b", "c"]), ([-1, 0, 1] * 20, ["a", "b"])])
def test_labels_out_of_range_are_refused(planned, tmp_path, labels, classes):
    archive(tmp_path / "set.npz", labels)
    content = dict(np.load(tmp_path / "set.npz"))
    np.savez(tmp_path / "set.npz", **content, classes=np.array(classes))
    with pytest.raises(UserError, match="labels from 0 to") as refused:
        planned("data.name=npz:set.npz", "data.train_samples=null", "data.eval_samples=5")
    assert refused.value.key == "data.name"


def test_a_planned_run_that_begins_may_be_gone_on_with_and_grow(planned):
    plan = planned()
    plan.store.write(layout.SPEC, resolved(plan).encode())
    for override in (
        *("ensemble.members=5", "data.eval_samples=30", "attribution.methods=[gradient]", "attribution.target=3"),
        *("attribution.dtype=float16", "cluster.slots=1", "tracking.experiment=other", "name=other"),
    ):
        assert planned(override).fingerprint == plan.fingerprint


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs=2", "training.epochs"),
        ("training.guidance.weight=0.5", "training.guidance.weight"),
        ("model.width=8", "model.width"),
        ("ensemble.root_seed=1", "ensemble.root_seed"),
        ("ensemble.vary=[init]", "ensemble.vary"),
        ("data.split_seed=1", "data.split_seed"),
        ("data.train_samples=101", "data.train_samples"),
    ],
)
def test_a_directory_of_other_members_is_refused_and_told_what_differs(planned, override, words):
    plan = planned()
    plan.store.write(layout.SPEC, resolved(plan).encode())
    with pytest.raises(UserError, match="a new folder") as refused:
        planned(override, "attribution.target=3", "ensemble.members=3", "data.eval_samples=22")
    assert refused.value.key == "--run-dir"
    assert str(refused.value).endswith(f"differ from this spec's in {words}")


def test_data_that_changed_under_the_same_name_is_noticed(planned, tmp_path):
    own = ("data.name=npz:set.npz", "data.train_samples=null", "data.eval_samples=5")
    archive(tmp_path / "set.npz", [0, 1] * 30)
    plan = planned(*own)
    plan.store.write(layout.SPEC, resolved(plan).encode())
    assert planned(*own).fingerprint == plan.fingerprint
    archive(tmp_path / "set.npz", [0, 1, 1] * 20)
    with pytest.raises(UserError, match="the data's content, or a file of weights"):
        planned(*own)


def test_a_resolved_spec_holds_every_default_and_nested_fingerprints(planned):
    plan = planned()
    values = yaml.safe_load(resolved(plan))
    marks = values.pop("fingerprints")
    assert values == plan.spec.to_dict()
    assert parse(resolved(plan)) == plan.spec
    assert (marks["data"], marks["member"]) == (plan.data.digest, plan.fingerprint)

    def changed(*overrides):
        other = yaml.safe_load(resolved(planned(*overrides)))["fingerprints"]
        return {key for key in marks if marks[key] != other[key]}

    assert changed() == changed("cluster.slots=1") == set()
    assert changed("ensemble.members=3") == changed("data.eval_samples=22") == {"stats"}
    assert changed("attribution.target=1") == {"maps", "stats"}
    assert changed("training.epochs=2") == {"member", "maps", "stats"}
    assert changed("data.train_samples=99") == {"data", "member", "maps", "stats"}


def test_a_spec_that_could_not_be_read_from_its_directory_is_refused(planned):
    """A text that is written without quotes, and then read as a number."""
    with pytest.raises(UserError, match="expected string, got 100000"):
        planned("name='1e5'")


def test_members_are_trained_failed_or_still_to_do(planned):
    plan = planned("ensemble.members=3")
    train_member(plan.members[0], plan.data, plan.store)
    fail(plan.store, plan.members[1], "nan", epoch=1, attempts=1)
    assert [member.index for member in plan.trained()] == [0]
    assert [member.index for member in plan.untrained()] == [2]
    assert [member.index for member in plan.untrained(retry_failed=True)] == [1, 2]
    assert plan.failures() == {1: "nan"}
    train_member(plan.members[1], plan.data, plan.store)
    assert plan.failures() == {}


def test_the_plan_counts_members_shards_and_bytes(planned):
    plan = planned()
    shapes = map_shapes(plan)
    assert shapes == {"gradient": (1, 8, 8), "gradcam": (1, 8, 8)}
    text = describe(plan, shapes)
    parameters = sum(p.numel() for p in build(plan.spec.model, input_shape=(1, 8, 8), classes=10).parameters())
    assert f"({parameters:,} parameters)" in text
    assert "80 training, 20 validation, 21 evaluation samples of 1x8x8, 10 classes" in text
    assert "2 to train" in text
    assert f"{2 * (3 + 2)} shards" in text
    assert f"maps     10 shards, {2 * (21 + 11) * 64 * 4 / 1000:.3g} kB" in text
    half = planned("attribution.dtype=float16")
    assert f"{2 * (21 + 11) * 64 * 2 / 1000:.3g} kB" in describe(half, shapes)


def test_a_method_that_cannot_explain_the_network_is_refused(planned):
    with pytest.raises(UserError, match="nosuchlayer") as refused:
        map_shapes(planned("attribution.methods=[{name: gradcam, layer: nosuchlayer}]"))
    assert refused.value.key == "attribution.methods"


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("{name: kernel_shap, num_superpixels: 16, num_samples: 20}", "expected 32 or more for 16 superpixels"),
        ("{name: lime, num_superpixels: 16, num_samples: 10}", "expected 17 or more masks"),
        (
            "{name: smoothgrad, of: {name: kernel_shap, num_superpixels: 16, num_samples: 20}, num_samples: 2}",
            "expected 32 or more for 16 superpixels",
        ),
        ("{name: lime, alpha: 2.0}", "with `penalty` ridge or lasso"),
        ("attention_rollout", "gradient, integrated_gradients and gradcam work without attention"),
    ],
)
def test_methods_whose_numbers_or_network_do_not_fit_are_refused_before_any_training(planned, methods, words):
    with pytest.raises(UserError, match=words):
        map_shapes(planned(f"attribution.methods=[{methods}]"))


def test_all_methods_for_a_cnn_are_tried_in_a_moment_and_their_time_is_told(planned):
    inside = "{name: smoothgrad, of: {name: deepshap, baselines: training, num_baselines: 4}}"
    names = f"gradient, deeplift, gradient_shap, kernel_shap, lime, {{name: deepshap, baselines: training}}, {inside}"
    plan = planned(f"attribution.methods=[{names}]")
    expected = {"gradient", "deeplift", "gradient_shap", "kernel_shap", "lime", "deepshap", "smoothgrad"}
    assert set(map_shapes(plan)) == expected
    assert "of explaining a member" in estimate(plan)


@pytest.mark.parametrize(
    ("name", "settings", "passes"),
    [
        ("gradient", {}, 1),
        ("integrated_gradients", {"num_steps": 7}, 7),
        ("kernel_shap", {"num_samples": 100}, 102),
        ("deepshap", {}, 16),
        ("smoothgrad", {"num_samples": 4, "of": "deepshap", "num_baselines": 5}, 20),
        ("smoothgrad", {"num_samples": 4, "of": {"name": "gradient_shap", "num_samples": 6}}, 24),
    ],
)
def test_the_passes_of_a_method_are_counted_through_what_it_contains(name, settings, passes):
    assert _passes(name, settings) == passes


def test_estimating_time_leaves_generators_and_threads_alone(planned):
    plan = planned("model.dropout=0.5", "training.objective=guided")
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    try:
        text = estimate(plan)
    finally:
        torch.set_num_threads(threads)
    assert text.startswith("time     about ")
    assert torch.equal(torch.rand(3), expected)


def test_maps_of_sequences_of_different_lengths_have_to_be_kept(planned):
    plan = planned("attribution.keep_maps=false")
    lengths = np.full(len(plan.data.evaluation.labels), 3)
    data = replace(plan.data, evaluation=replace(plan.data.evaluation, lengths=lengths))
    with pytest.raises(UserError, match=r"attribution\.keep_maps: expected true"):
        _check_kept(plan.spec, data)
    _check_kept(planned().spec, data)


@pytest.fixture
def measuring(monkeypatch):
    """Stands for the planner; what it was asked, and the threads that it finds."""
    asked = []

    def best(spec, member, data):
        asked.append((spec.ensemble.members, member.index, len(data.train)))
        return 3

    monkeypatch.setattr("jobs.prepare.threads.best", best)
    return asked


def test_threads_are_measured_once_and_written_down(planned, measuring):
    plan = planned("training.threads=auto")
    assert measuring == [(2, 0, 80)]
    assert plan.spec.training.threads == 3
    assert [member.training.threads for member in plan.members] == [3, 3]
    assert plan.fingerprint == planned("training.threads=3").fingerprint != planned().fingerprint
    begin(plan)
    assert yaml.safe_load(plan.store.read(layout.SPEC))["training"]["threads"] == 3
    assert planned("training.threads=auto", "ensemble.members=5").fingerprint == plan.fingerprint
    assert len(measuring) == 1


def test_what_cannot_be_prepared_is_refused_before_anything_is_measured(planned, measuring):
    with pytest.raises(UserError):
        planned("training.threads=auto", "attribution.target=10")
    assert not measuring
