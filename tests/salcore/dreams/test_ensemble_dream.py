"""The study of dreams on a run of three small networks: what dreams, what looks, what is kept and what is told."""

import io
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats

import salcore
from salcore import layout
from salcore.dreams import dream
from salcore.errors import UserError
from salcore.member_files import load_member, train_member
from salcore.storage import Store
from salcore.studies import ensemble_dream as study
from salcore.studies import networks, noise_table
from salcore.studies.row import Picture

STEPS = 4


@pytest.fixture
def run(small, tmp_path, monkeypatch):
    """A run with four trained members of five."""
    monkeypatch.setattr(study, "STEPS", STEPS)
    spec, data, members = small("ensemble.members=5", "training.epochs=1")
    store = Store(tmp_path / "run")
    store.write(layout.SPEC, yaml.safe_dump(spec.to_dict() | {"fingerprints": {}}).encode())
    for member in members[:2] + members[3:]:
        train_member(member, data, store)
    return salcore.open(tmp_path / "run")


def loaded(run, small):
    _, data, members = small("ensemble.members=5", "training.epochs=1")
    return data, {member.index: load_member(run.store, member, data) for member in members if member.index != 2}


def test_two_dream_alone_all_but_the_last_together_and_the_last_looks(run, small):
    data, made = loaded(run, small)
    assert study.roles(run) == ((0,), (1,), (0, 1, 3), 4)
    dreams = study.dreams_of(run)
    assert dreams.targets.tolist() == [0, 3, 6, 9]
    assert dreams.images.shape == (3, 4, 1, 8, 8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (data.mean, data.std))
    for place, dreamers in enumerate(([0], [1], [0, 1, 3])):
        asleep = [made[index] for index in dreamers]
        images = dream(asleep, [0, 3, 6, 9], shape=data.shape, mean=data.mean, std=data.std, steps=STEPS)
        np.testing.assert_allclose(dreams.images[place], images, rtol=0, atol=1e-6)
        with torch.no_grad():
            seen = [network((images - mean) / std).numpy() for network in (made[4], *asleep)]
        np.testing.assert_allclose(dreams.logits[place], seen[0], rtol=1e-4, atol=1e-5)
        own = np.mean(seen[1:], axis=0)[np.arange(4), [0, 3, 6, 9]]
        np.testing.assert_allclose(dreams.own[place], own, rtol=1e-4, atol=1e-5)


def test_no_more_than_so_many_dream_and_the_next_looks(run, monkeypatch):
    monkeypatch.setattr(study, "DREAMERS", 2)
    assert study.roles(run) == ((0,), (1,), (0, 1), 3)


def test_rows_are_means_over_classes_and_the_gain_is_paired(run):
    dreams = study.dreams_of(run)
    chosen = np.stack([dreams.logits[:, place, target] for place, target in enumerate(dreams.targets)], axis=1)
    gain = chosen[2] - (chosen[0] + chosen[1]) / 2
    found = {re.sub(r"^tiny: ", "", row.what): row for row in study.rows({"tiny": run})}
    one = found["logit that member 4 gives to dreams of one network"]
    many = found["logit that member 4 gives to dreams of 3 networks"]
    added = found["logit that dreaming together adds"]
    assert (one.ours, many.ours) == pytest.approx((chosen[:2].mean(), chosen[2].mean()))
    assert added.ours == pytest.approx(gain.mean())
    low, high = stats.t.interval(0.95, 3, gain.mean(), stats.sem(gain))
    assert (added.low, added.high) == pytest.approx((low, high))
    assert added.holds is (True if low > 0 else False if high < 0 else None)
    assert "over 4 classes" in added.note
    assert all(row.paper is None for row in found.values())
    probability = found["probability that member 4 gives to dreams of 3 networks"]
    powers = np.exp(dreams.logits[2])
    expected = (powers / powers.sum(axis=1, keepdims=True))[np.arange(4), dreams.targets]
    assert probability.ours == pytest.approx(expected.mean())
    assert 0 <= probability.low <= probability.ours <= probability.high <= 1


def test_dreams_are_dreamt_once_and_again_for_other_members(run, monkeypatch):
    study.dreams_of(run)
    kept = {name: info for name, info in run.store.files().items() if name.startswith("dreams/")}
    assert len(kept) == 1
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise InterruptedError

    monkeypatch.setattr(study, "load_member", refuse)
    assert len(list(study.rows({"tiny": run}))) == 7
    assert len(list(study.figures({"tiny": run}))) == 1
    assert {name: info for name, info in run.store.files().items() if name.startswith("dreams/")} == kept
    record = run.record(3)
    run.store.write_json(layout.member_file(3, "member.json"), record | {"fingerprint": "another"})
    with pytest.raises(InterruptedError):
        study.dreams_of(run)
    assert len(asked) == 1


def test_what_is_kept_is_the_same_bytes_again(run):
    study.dreams_of(run)
    (name,) = run.store.files("dreams")
    first = run.store.read(name)
    run.store.delete(name)
    study.dreams_of(run)
    assert run.store.read(name) == first


def test_the_figure_has_a_column_for_each_class_and_a_row_for_each_dreamer(run):
    (picture,) = study.figures({"tiny": run})
    assert isinstance(picture, Picture)
    assert picture.caption == "tiny: 4 steps"
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 500
    dreams = study.dreams_of(run)
    figure = study.grid(dreams.images, ["a", "b", "c"], ["0", "3", "6", "9"])
    for axes, image in zip(figure.axes, dreams.images.reshape(12, 8, 8), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), np.rint(255 * image))
    assert [axes.get_title() for axes in figure.axes[:4]] == ["0", "3", "6", "9"]
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["a", "b", "c"]


def test_colour_images_are_drawn_in_their_colours():
    image = np.zeros((1, 1, 3, 4, 4), np.float32)
    image[0, 0, 0] = 0.5
    (axes,) = study.grid(image, ["a"], ["b"]).axes
    np.testing.assert_array_equal(axes.images[0].get_array()[0, 0], [128, 0, 0])


def test_fewer_than_three_members_are_refused_before_and_after_training(run):
    with pytest.raises(UserError, match=r"study\.members: expected 3 or more: .*, got 2"):
        study.ensembles(**study.PRESETS["small"] | {"members": 2})
    run.members = run.members[:2]
    with pytest.raises(UserError, match=r"ensemble\.members: expected 3 or more that are trained: .*, got 2"):
        next(study.rows({"tiny": run}))


def test_log_odds_of_two_classes_are_the_difference_of_logits():
    logits = np.random.default_rng(0).normal(size=(5, 2)) * 30
    np.testing.assert_allclose(study.log_odds(logits)[:, 0], logits[:, 0] - logits[:, 1])
    three = np.log([0.7, 0.2, 0.1]) + 5
    np.testing.assert_allclose(study.log_odds(three), np.log([0.7 / 0.3, 0.2 / 0.8, 0.1 / 0.9]))


def test_one_class_has_no_interval():
    found = study.over_classes(np.array([2.0]))
    assert found.value == 2
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("preset", ["small", "full"])
def test_the_ensemble_is_trained_as_that_of_the_table_of_noise(preset):
    ((name, mine),) = study.ensembles(**study.PRESETS[preset]).items()
    table = noise_table.ensembles(**noise_table.PRESETS[preset])[name]
    for section in ("model", "training"):
        assert mine[section] == table[section]
    unless = {"eval_samples"}
    assert {k: v for k, v in mine["data"].items() if k not in unless} == {
        k: v for k, v in table["data"].items() if k not in unless
    }
    assert mine["attribution"]["methods"] == ["gradient"]
    assert networks.FULL["members"] > study.DREAMERS
