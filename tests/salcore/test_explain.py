"""Explaining: a sample's map does not depend on how the samples were cut, and is that of the class asked for."""

import numpy as np
import pytest
import torch

from salcore import explain, shards
from salcore.attribution import METHODS
from salcore.data.batches import normalise
from salcore.explain import Explainer, Item, majority, padded_size, read_predictions
from salcore.layout import LOGITS, Range, maps_folder, member_folder, part_file, ranges
from salcore.member_files import load_member
from salcore.models.quick import QuickConv2d
from salcore.storage import Store

METHODS_ASKED = (
    "attribution.methods=[gradient, input_x_gradient, {name: integrated_gradients, num_steps: 4}, "
    "{name: smoothgrad, num_samples: 2}, {name: gradcam, samples: 11}]"
)


def explained(spec, data, members, store):
    """Explain everything; the shards by (method, member), in order of their ranges."""
    worker = Explainer(spec, data, members, store)
    found = {}
    for member in members:
        for part in ranges(len(data.evaluation), spec.attribution.shard_samples):
            wanted = [m for m in spec.attribution.methods if m.samples is None or part.start < m.samples]
            item = Item(member=member.index, range=part, methods=tuple(m.folder for m in wanted))
            for made in (made for made in worker.explain(item) if made.method is not None):
                folder = maps_folder(made.method, member.index)
                shard = shards.read(store, f"{folder}/{made.entry.path}")
                found.setdefault((made.method, member.index), []).append(shard)
    return found


def joined(found, read):
    return {key: np.concatenate([read(shard) for shard in parts]) for key, parts in found.items()}


def maps(found):
    return joined(found, lambda shard: np.array(shard.maps()))


def copy_members(source, target):
    for name in source.files("members"):
        if f"/{LOGITS}/" not in name:
            target.write(name, source.read(name))
    return target


def inputs_of(data):
    rows = data.evaluation.index
    return normalise(torch.from_numpy(data.evaluation.values[rows]), data.mean, data.std), torch.from_numpy(
        data.evaluation.labels[rows]
    )


def test_maps_are_those_of_the_methods_on_all_samples_at_once(trained, store):
    spec, data, members = trained(METHODS_ASKED)
    found = maps(explained(spec, data, members, store))
    inputs, labels = inputs_of(data)
    for member in members:
        model = load_member(store, member, data)
        for method in spec.attribution.methods:
            count = method.samples or len(inputs)
            expected = METHODS[method.name](model, inputs[:count], labels[:count], **method.settings).numpy()
            np.testing.assert_allclose(found[method.folder, member.index], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "cut",
    [
        ("attribution.batch_size=4",),
        ("attribution.batch_size=3", "attribution.shard_samples=21"),
        ("attribution.batch_size=16", "attribution.shard_samples=5"),
        ("attribution.batch_size=64", "attribution.shard_samples=512"),
        ("attribution.batch_size=1", "attribution.shard_samples=20"),
    ],
    ids=" ".join,
)
def test_maps_are_the_same_bits_however_samples_are_cut(trained, store, tmp_path, cut):
    one, another = (copy_members(store, Store(tmp_path / name)) for name in ("one", "another"))
    whole = ("attribution.batch_size=8", "attribution.shard_samples=21")
    spec, data, members = trained(METHODS_ASKED, *whole)
    copy_members(store, one)
    copy_members(store, another)
    expected = maps(explained(spec, data, members, one))
    spec, data, members = trained(METHODS_ASKED, *cut)
    found = maps(explained(spec, data, members, another))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].tobytes() == values.tobytes(), key


def test_every_pass_has_the_same_padded_size_and_padding_is_cut_off(trained, store):
    spec, data, members = trained("attribution.batch_size=5", "attribution.shard_samples=7")
    worker = Explainer(spec, data, members, store)
    sizes = []
    network = worker._network(members[0])
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for part in ranges(len(data.evaluation), 7):
        made = worker.explain(Item(member=0, range=part, methods=("gradient",)))
        assert [(each.method, each.entry.rows) for each in made] == [(None, len(part)), ("gradient", len(part))]
    assert set(sizes) == {8} == {padded_size(5)}


@pytest.mark.parametrize(("size", "padded"), [(1, 8), (8, 8), (9, 16), (64, 64), (513, 520)])
def test_passes_have_a_multiple_of_eight_rows(size, padded):
    assert padded_size(size) == padded


def test_columns_say_which_sample_label_and_prediction(trained, store):
    spec, data, members = trained()
    found = explained(spec, data, members, store)
    columns = {name: joined(found, lambda s, name=name: s.column(name)) for name in ("sample", "label", "prediction")}
    inputs, labels = inputs_of(data)
    for member in members:
        key = "gradient", member.index
        np.testing.assert_array_equal(columns["sample"][key], data.evaluation.index)
        np.testing.assert_array_equal(columns["label"][key], labels)
        predicted = load_member(store, member, data)(inputs).argmax(1)
        np.testing.assert_array_equal(columns["prediction"][key], predicted)


@pytest.mark.parametrize("target", ["label", "prediction", "ensemble", "3"])
def test_the_class_that_is_explained(trained, store, target):
    spec, data, members = trained(f"attribution.target={target}", "ensemble.members=3")
    found = explained(spec, data, members, store)
    inputs, labels = inputs_of(data)
    votes = np.stack([load_member(store, m, data)(inputs).argmax(1).numpy() for m in members])
    for member in members:
        expected = {
            "label": labels.numpy(),
            "prediction": votes[member.index],
            "ensemble": [max(range(10), key=lambda k, row=row: ((row == k).sum(), -k)) for row in votes.T],
            "3": np.full(len(labels), 3),
        }[target]
        targets = joined(found, lambda shard: shard.column("target"))["gradient", member.index]
        np.testing.assert_array_equal(targets, expected)
        model = load_member(store, member, data)
        reference = METHODS["gradient"](model, inputs, torch.tensor(np.asarray(expected))).numpy()
        np.testing.assert_allclose(maps(found)["gradient", member.index], reference, rtol=1e-4, atol=1e-6)


def test_of_equally_many_votes_the_smallest_class_wins():
    votes = np.array([[2, 1, 0, 3], [0, 1, 2, 3], [2, 0, 1, 3], [0, 0, 3, 2]])
    assert majority(votes, 4).tolist() == [0, 0, 0, 3]


def test_the_residual_stands_beside_methods_that_promise_completeness(trained, store):
    spec, data, members = trained(
        "attribution.methods=[gradient, {name: integrated_gradients, num_steps: 64}, "
        "{name: integrated_gradients, as: coarse, num_steps: 1}, {name: smoothgrad, of: integrated_gradients, "
        "num_samples: 1, num_steps: 2}]"
    )
    found = explained(spec, data, members, store)
    has = {method: "residual" in parts[0].columns for (method, _), parts in found.items()}
    assert has == {"gradient": False, "integrated_gradients": True, "coarse": True, "smoothgrad": False}
    largest = {key: np.abs(value).max() for key, value in joined(
        {key: parts for key, parts in found.items() if has[key[0]]}, lambda shard: shard.column("residual")).items()
    }  # fmt: skip
    inputs, labels = inputs_of(data)
    for member in members:
        assert largest["integrated_gradients", member.index] < 0.1 * largest["coarse", member.index]
        with torch.no_grad():
            model = load_member(store, member, data)
            change = (model(inputs) - model(torch.zeros_like(inputs)))[range(len(labels)), labels].numpy()
        coarse = maps(found)["coarse", member.index].reshape(len(labels), -1).sum(1)
        residuals = joined({0: found["coarse", member.index]}, lambda shard: shard.column("residual"))[0]
        np.testing.assert_allclose(residuals, coarse - change, rtol=1e-3, atol=1e-4)


def test_float16_maps_are_close_and_half_the_bytes(trained, store):
    spec, data, members = trained()
    exact = maps(explained(spec, data, members, store))["gradient", 0]
    spec, data, members = trained("attribution.dtype=float16")
    found = explained(spec, data, members, store)
    close = maps(found)["gradient", 0]
    scale = np.abs(exact).max(axis=(1, 2, 3), keepdims=True)
    assert (np.abs(close - exact) <= scale * 2.0**-11).all()
    assert (close != exact).any()


def test_logits_are_made_once_and_read_after(trained, store, monkeypatch):
    spec, data, members = trained()
    part = Range(part=0, start=0, stop=8)
    first = Explainer(spec, data, members, store).predictions(members[0], part)
    name = f"{member_folder(0)}/{LOGITS}/{part_file(0)}"
    before = store.info(name)
    monkeypatch.setattr(Explainer, "_network", lambda *_: pytest.fail("the network was asked again"))
    second = Explainer(spec, data, members, store).predictions(members[0], part)
    assert store.info(name) == before
    for column in ("label", "prediction", "logits"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))


def test_logits_are_those_of_the_network(trained, store):
    spec, data, members = trained()
    inputs, labels = inputs_of(data)
    worker = Explainer(spec, data, members, store)
    found = [worker.predictions(members[1], part) for part in ranges(21, 8)]
    logits = np.concatenate([part.logits for part in found])
    with torch.no_grad():
        expected = load_member(store, members[1], data)(inputs).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([part.label for part in found]), labels)


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_damaged_logits_are_made_again(trained, store, spoil):
    spec, data, members = trained()
    part, name = Range(part=0, start=0, stop=8), f"{member_folder(0)}/{LOGITS}/{part_file(0)}"
    Explainer(spec, data, members, store).predictions(members[0], part)
    content = store.read(name)
    store.write(name, spoil(content))
    assert read_predictions(store, name) is None
    Explainer(spec, data, members, store).predictions(members[0], part)
    assert store.read(name) == content


def test_logits_of_another_network_or_of_other_samples_are_made_again(trained, store):
    spec, data, members = trained()
    name = f"{member_folder(0)}/{LOGITS}/{part_file(0)}"
    worker = Explainer(spec, data, members, store)
    assert len(worker.predictions(members[0], Range(part=0, start=0, stop=5)).label) == 5
    assert len(worker.predictions(members[0], Range(part=0, start=0, stop=8)).label) == 8
    before = store.read(name)
    spec, data, members = trained("training.learning_rate=0.5")
    Explainer(spec, data, members, store).predictions(members[0], Range(part=0, start=0, stop=8))
    assert store.read(name) != before


def test_an_item_without_methods_makes_logits_only(trained, store):
    spec, data, members = trained()
    made = Explainer(spec, data, members, store).explain(
        Item(member=0, range=Range(part=0, start=0, stop=8), methods=())
    )
    assert [(each.method, each.entry.path) for each in made] == [(None, part_file(0))]
    assert not store.files("maps")
    assert list(store.files(f"{member_folder(0)}/{LOGITS}")) == [f"{member_folder(0)}/{LOGITS}/{part_file(0)}"]


def test_making_a_shard_again_gives_the_same_bytes(trained, store):
    spec, data, members = trained()
    explained(spec, data, members, store)
    before = {name: store.read(name) for name in store.files("maps")}
    explained(spec, data, members, store)
    assert before == {name: store.read(name) for name in store.files("maps")}


def test_shards_say_what_they_are(trained, store):
    spec, data, members = trained("attribution.methods=[{name: smoothgrad, as: smooth, num_samples: 2}]")
    (shard, *_) = explained(spec, data, members, store)["smooth", 1]
    about = shard.metadata
    assert (about["member"], about["method"], about["settings"]) == (1, "smoothgrad", {"num_samples": 2})
    assert about["seeds"] == members[1].seeds
    assert about["member_fingerprint"] == members[1].fingerprint
    assert about["code_version"] == explain.code_version()
    assert len(about["fingerprint"]) == 64


def test_the_residual_that_is_kept_is_that_of_the_methods_own_baseline(trained, store):
    """These methods are complete to rounding, whatever they compare with; with another baseline nothing adds up."""
    methods = [
        "{name: deeplift, as: one, baseline: uniform, seed: 3}",
        "{name: deepshap, as: noise, num_baselines: 3, seed: 2}",
        "{name: deepshap, as: images, baselines: training, num_baselines: 3}",
        "{name: kernel_shap, as: cells, superpixels: slic, num_superpixels: 5, num_samples: 30, baseline: blurred}",
    ]
    spec, data, members = trained(f"attribution.methods=[{', '.join(methods)}]")
    found = joined(explained(spec, data, members, store), lambda shard: shard.column("residual"))
    assert len(found) == len(methods) * len(members)
    for residual in found.values():
        assert np.abs(residual).max() < 1e-4
        assert len(residual) == len(data.evaluation)


def dtypes(network, layer):
    """What a layer puts out, pass by pass."""
    found = []
    getattr(network.features, layer).register_forward_hook(lambda module, inputs, output: found.append(output.dtype))
    return found


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("gradient", {torch.bfloat16}),
        ("{name: integrated_gradients, num_steps: 2}", {torch.bfloat16, torch.float32}),  # residuals in float32
        ("deeplift", {torch.float32}),
        ("{name: smoothgrad, of: deeplift, num_samples: 1}", {torch.float32}),
        ("{name: smoothgrad, num_samples: 1}", {torch.bfloat16}),
    ],
)
def test_maps_of_bfloat16_members_come_from_bfloat16_passes(trained, store, method, passes):
    spec, data, members = trained("training.precision=bfloat16", f"attribution.methods=[{method}]")
    worker = Explainer(spec, data, members, store)
    found = dtypes(worker._network(members[0]), "conv1")
    part = next(iter(ranges(len(data.evaluation), spec.attribution.shard_samples)))
    worker.predictions(members[0], part)
    assert set(found) == {torch.float32}
    found.clear()
    maps, _ = worker.maps(members[0], spec.attribution.methods[0], np.arange(8), worker.labels(part)[:8])
    assert set(found) == passes
    assert maps.dtype == np.float32
    plain = spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "float32"})})
    exact = Explainer(plain, data, members, store)
    expected, _ = exact.maps(members[0], spec.attribution.methods[0], np.arange(8), worker.labels(part)[:8])
    assert np.linalg.norm(maps - expected) < 0.05 * np.linalg.norm(expected)
    assert (maps.tobytes() == expected.tobytes()) == (torch.bfloat16 not in passes)


def test_maps_of_another_precision_are_others(trained, store):
    spec, _, members = trained()
    half = spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "bfloat16"})})
    marks = {
        explain.maps_fingerprint(members[0], spec.attribution.methods[0], each, "", members) for each in (spec, half)
    }
    assert len(marks) == 2


def test_a_pass_that_fails_leaves_no_precision_behind(trained, store):
    spec, data, members = trained("training.precision=bfloat16")
    network = Explainer(spec, data, members, store)._network(members[0])
    with explain.in_precision(network, spec, spec.attribution.methods[0], torch.device("cpu")):
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 5, 8, 8))
        assert not torch.is_autocast_enabled("cpu")
        assert network(torch.zeros(1, 1, 8, 8)).dtype == torch.float32
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


@pytest.mark.parametrize(("followed", "kind"), [(False, QuickConv2d), (True, torch.nn.Conv2d)])
def test_networks_are_quick_but_where_filters_are_followed(trained, store, monkeypatch, followed, kind):
    spec, data, members = trained()
    worker, kinds = Explainer(spec, data, members, store), []

    def spy(model, inputs, targets, **settings):
        kinds.append(type(model.features.conv1))
        return torch.zeros_like(inputs)

    monkeypatch.setitem(METHODS, "gradient", spy)
    monkeypatch.setattr(explain, "takes_statistics", lambda name, settings: followed)
    monkeypatch.setattr(explain, "with_statistics", lambda name, settings, statistics: settings)
    monkeypatch.setattr(worker, "_statistics", lambda member: None)
    worker.maps(members[0], spec.attribution.methods[0], np.arange(8), np.zeros(8, np.int32))
    assert set(kinds) == {kind}
    assert type(worker._network(members[0]).features.conv1) is QuickConv2d
