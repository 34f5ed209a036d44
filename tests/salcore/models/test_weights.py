"""Weights from files: every wrapping that occurs, every misfit in one line, nothing unpickled."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from salcore.errors import UserError
from salcore.models import build, load_weights
from salcore.seeds import forked
from salcore.spec import ModelSpec


def network(seed, classes=10, **settings):
    with forked(seed):
        return build(
            ModelSpec(name="small_cnn", width=3, norm="batch", **settings), input_shape=(1, 8, 8), classes=classes
        )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


WRAPPINGS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state},
    "parallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "both": lambda state: {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    "both, turned": lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_same_weights(tmp_path, wrapping):
    source, target = network(1), network(2)
    assert not same(source, target)
    torch.save(WRAPPINGS[wrapping](source.state_dict()), tmp_path / "weights.pt")
    assert load_weights(target, tmp_path / "weights.pt") == ()
    assert same(source, target)


def test_safetensors(tmp_path):
    source, target = network(1), network(2)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, str(tmp_path / "weights.safetensors"))
    assert same(source, target)


def test_a_prefix_that_is_the_models_own_is_kept(tmp_path):
    source, target = nn.Sequential(), nn.Sequential()
    source.add_module("module", network(1))
    target.add_module("module", network(2))
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    load_weights(target, tmp_path / "weights.pt")
    assert same(source, target)


def test_nothing_is_unpickled(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    path = tmp_path / "weights.pt"
    torch.save({"weight": Attack()}, path)
    with pytest.raises(UserError, match="holds tensors alone"):
        load_weights(network(0), path)
    path.write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(UserError, match="holds tensors alone"):
        load_weights(network(0), path)
    assert not (tmp_path / "attacked").exists()


def test_a_head_of_another_shape_keeps_its_initial_values_when_fine_tuning(tmp_path):
    torch.save(network(1, classes=10).state_dict(), tmp_path / "weights.pt")
    target, untouched = network(2, classes=4), network(2, classes=4)
    left = load_weights(target, tmp_path / "weights.pt", strict=False)
    assert left == ("classifier.linear.weight", "classifier.linear.bias")
    assert torch.equal(target.classifier.linear.weight, untouched.classifier.linear.weight)
    assert torch.equal(target.features.conv1.weight, network(1).features.conv1.weight)
    spec = ModelSpec(name="small_cnn", width=3, norm="batch", weights=str(tmp_path / "weights.pt"))
    assert torch.equal(
        build(spec, input_shape=(1, 8, 8), classes=4).features.conv1.weight, network(1).features.conv1.weight
    )


def test_the_start_can_be_left_out(tmp_path):
    spec = ModelSpec(name="small_cnn", weights=str(tmp_path / "absent.pt"))
    build(spec, input_shape=(1, 8, 8), classes=4, start=False)
    with pytest.raises(UserError, match="a file of weights"):
        build(spec, input_shape=(1, 8, 8), classes=4)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"features.extra": torch.zeros(1)}, "1 unexpected, first features.extra"),
        (lambda s: {k: v for k, v in s.items() if "conv" not in k}, "4 missing, first features.conv1.weight"),
        (
            lambda s: s | {"features.conv1.weight": torch.zeros(3, 2, 3, 3)},
            r"1 of another shape, first features.conv1.weight: \(3, 2, 3, 3\) for \(3, 1, 3, 3\)",
        ),
    ],
)
def test_a_misfit_names_file_first_key_and_count_and_leaves_the_model(tmp_path, strict, change, words):
    path = tmp_path / "other.pt"
    torch.save(change(dict(network(1).state_dict())), path)
    target, untouched = network(2), network(2)
    with pytest.raises(UserError, match=words) as error:
        load_weights(target, path, key="ensemble.weights", strict=strict)
    assert error.value.key == "ensemble.weights"
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert same(target, untouched)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04nonsense"])
def test_a_file_that_is_none_is_told_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_weights(network(0), tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": None}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="a state dict"):
        load_weights(network(0), tmp_path / "weights.pt")
