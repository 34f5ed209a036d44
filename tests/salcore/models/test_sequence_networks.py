"""Networks for series and texts: logits for every shape, padding that is nothing to them, and what they refuse."""

import sys

import pytest
import torch

from salcore.errors import UserError
from salcore.models import BY_KIND, MODELS, build, check
from salcore.models.series_lstm import causal_softmax
from salcore.seeds import forked
from salcore.spec import ModelSpec

SEQUENCES = [(kind, name) for kind in ("series", "text") for name in BY_KIND[kind]]
POOLINGS = ["max", "mean", "last", "attention"]
CASES = [(name, {}) for _, name in SEQUENCES if name != "bilstm"]
CASES += [("input_cell_lstm", {"flatten": True}), *(("bilstm", {"pooling": pooling}) for pooling in POOLINGS)]
LENGTHS = (11, 1, 5, 11, 2, 10, 7)
"""Of seven sequences of eleven steps, whole ones and a single step among them."""
STEPS, FEATURES, CLASSES = 11, 10, 3

every_case = pytest.mark.parametrize(("name", "settings"), CASES)


def kind_of(name):
    return "text" if name in BY_KIND["text"] else "series"


def shape_of(name, steps=STEPS):
    return (steps, FEATURES) if kind_of(name) == "text" else (FEATURES, steps)


def make(name, shape=None, dtype=torch.float64, **settings):
    with forked(0):
        spec = ModelSpec(name=name, **settings)
        return build(spec, input_shape=shape or shape_of(name), classes=CLASSES).to(dtype).eval()


def batch(name, dtype=torch.float64):
    """Sequences that are 0 behind their end, and which steps count."""
    valid = torch.arange(STEPS) < torch.tensor(LENGTHS)[:, None]
    inputs = torch.randn(len(LENGTHS), STEPS, FEATURES, generator=torch.Generator().manual_seed(1), dtype=dtype)
    inputs *= valid[..., None]
    return (inputs if kind_of(name) == "text" else inputs.mT.contiguous()), valid


def steps_first(name, inputs):
    return inputs if kind_of(name) == "text" else inputs.mT


@pytest.mark.parametrize(("kind", "name"), SEQUENCES)
@pytest.mark.parametrize(("steps", "features"), [(50, 5), (1, 10), (7, 15), (3, 5)])
def test_every_network_gives_logits_for_every_shape(kind, name, steps, features):
    shape = (features, steps) if kind == "series" else (steps, features)
    check(ModelSpec(name=name), shape, CLASSES, kind)
    network = make(name, shape, torch.float32)
    for mode in (True, False):
        output = network.train(mode)(torch.randn(4, *shape)).detach()
        assert output.shape == (4, CLASSES)
        assert not torch.allclose(output.sum(1), torch.ones(4)), "probabilities"
        assert not torch.allclose(output.exp().sum(1), torch.ones(4)), "log-probabilities"


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("recording", [True, False])
def test_padding_is_nothing_to_a_sequence_bit_for_bit(name, settings, dtype, recording):
    """Neither what stands behind its end, nor how long its neighbours are, nor what they hold."""
    network = make(name, dtype=dtype, **settings)
    inputs, valid = batch(name, dtype=dtype)
    with torch.set_grad_enabled(recording):
        expected = network(inputs, valid)
        padding = ~valid[..., None] if kind_of(name) == "text" else ~valid[:, None]
        assert torch.equal(network(inputs.masked_fill(padding, 1e3), valid), expected)
        for row in range(len(inputs)):
            others = torch.arange(len(inputs)) != row
            crowded, longer = inputs.clone(), valid.clone()
            crowded[others] *= -40
            longer[others] = True
            assert torch.equal(network(crowded, longer)[row], expected[row])


@every_case
def test_a_sequence_alone_and_without_its_padding_has_the_same_logits(name, settings):
    network, (inputs, valid) = make(name, **settings), batch(name)
    together = network(inputs, valid)
    for row, length in enumerate(LENGTHS):
        alone = steps_first(name, inputs[row : row + 1])[:, :length]
        alone = alone if kind_of(name) == "text" else alone.mT
        torch.testing.assert_close(network(alone)[0], together[row], rtol=1e-12, atol=1e-14)


@every_case
def test_all_steps_count_where_nothing_else_is_said(name, settings):
    network, (inputs, valid) = make(name, **settings), batch(name)
    torch.testing.assert_close(network(inputs), network(inputs, torch.ones_like(valid)), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(network(inputs), network(inputs, valid), rtol=1e-3), "`valid` is not listened to"


@every_case
def test_steps_that_count_have_a_gradient_and_padding_has_none(name, settings):
    network, (inputs, valid) = make(name, **settings), batch(name)
    network(inputs.requires_grad_(), valid)[:, 0].sum().backward()
    size = steps_first(name, inputs.grad).abs().sum(2)
    assert not size[~valid].any()
    if settings.get("pooling") != "max" and name not in ("tcn", "transformer"):  # a maximum passes some steps by
        assert size[valid].all()
    assert (size.sum(1) > 0).all()


@every_case
def test_an_empty_sequence_is_finite(name, settings):
    network, (inputs, valid) = make(name, **settings), batch(name)
    assert network(inputs, valid & False).isfinite().all()


def hidden_states(network, name, inputs):
    """What stands at each step before steps become one vector: (N, T, ...)."""
    if name == "tcn":
        return network.levels(inputs).mT
    if name == "transformer":
        kept = []
        handle = network.norm.register_forward_hook(lambda module, given, output: kept.append(output))
        network(inputs)
        handle.remove()
        return kept[0]
    return network.recurrent(network.reading(inputs.mT))[0]


@pytest.mark.parametrize("name", BY_KIND["series"])
def test_no_step_sees_a_later_one(name):
    network, inputs = make(name), torch.randn(2, FEATURES, STEPS, dtype=torch.float64)
    before = hidden_states(network, name, inputs)
    for step in range(STEPS):
        changed = inputs.clone()
        changed[:, 0, step] += 1  # of one feature: all of them together are nothing to a norm
        after = hidden_states(network, name, changed)
        torch.testing.assert_close(after[:, :step], before[:, :step], rtol=1e-12, atol=1e-14)
        assert not torch.allclose(after[:, step], before[:, step]), "a step does not see itself"


def test_causal_softmax_is_safe_where_one_score_is_far_above_those_before_it():
    scores = torch.tensor([0.0, 1.0, -2000.0, 3000.0, 0.5], dtype=torch.float64)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for step in range(5):
        expected[step, : step + 1] = scores[: step + 1].softmax(0)
    torch.testing.assert_close(causal_softmax(scores), expected, rtol=1e-14, atol=0)


@every_case
def test_bfloat16_autocast_trains_everywhere(name, settings):
    network, (inputs, valid) = make(name, dtype=torch.float32, **settings).train(), batch(name, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        network(inputs, valid).float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", [name for _, name in SEQUENCES])
def test_dropout_acts_in_training_alone(name):
    network, (inputs, valid) = make(name), batch(name)
    assert torch.equal(network(inputs, valid), network(inputs, valid))
    network.train()
    assert not torch.equal(network(inputs, valid), network(inputs, valid))
    still = make(name, dropout=0.0)
    assert torch.equal(still(inputs, valid), still.train()(inputs, valid))


def test_heads_that_do_not_divide_the_features_are_refused_with_those_that_do():
    with pytest.raises(UserError, match=r"model.heads: .*data's 28 features: 1, 2, 4, 7, 14, 28, got 5"):
        check(ModelSpec(name="transformer"), (28, 28), 10, "series")
    check(ModelSpec(name="transformer", heads=4), (28, 28), 10, "series")


@pytest.mark.parametrize(
    ("name", "shape", "kind", "words"),
    [
        (
            "bilstm",
            (1, 8, 8),
            "images",
            "network for images: small_cnn, mnist_cnn, small_vit, a torchvision classifier or",
        ),
        ("tcn", (8, 20), "text", "network for text: bilstm or python:"),
        ("small_cnn", (8, 20), "series", "network for series: lstm, input_cell_lstm, tcn, transformer or python:"),
        ("resnet18", (8, 20), "series", "network for series"),
        ("bilstm", (8, 20), "series", "network for series"),
    ],
)
def test_a_network_for_other_data_is_refused_with_those_for_these(name, shape, kind, words):
    with pytest.raises(UserError, match=words) as error:
        check(ModelSpec(name=name), shape, 3, kind)
    assert error.value.key == "model.name"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("tcn", {"levels": 0}, "a whole number from 1 to 16"),
        ("bilstm", {"pooling": "first"}, "'max' or 'mean' or 'last' or 'attention'"),
        ("input_cell_lstm", {"flatten": 1}, "true or false"),
        ("lstm", {"dropout": 1.0}, "below 1"),
    ],
)
def test_settings_of_networks_for_sequences_are_checked(name, settings, words):
    with pytest.raises(UserError, match=words):
        make(name, **settings)


USER_CODE = """
import torch
from torch import nn

class Convolutions(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.layer, self.last = nn.Conv1d(input_shape[0], 4, 5), nn.Linear(4, classes)
    def forward(self, x):
        return self.last(self.layer(x).amax(2))

class Masked(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.last = nn.Linear(input_shape[1], classes)
    def forward(self, x, valid):
        assert valid.dtype == torch.bool and valid[0].all() and not valid.all()
        return self.last((x * valid[:, :, None]).sum(1))

class Wrong(Masked):
    def forward(self, x, valid=None):
        return self.last((x * valid).sum(1))
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "someones_series.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "python:someones_series"
    sys.modules.pop("someones_series", None)


def test_a_users_network_is_tried_on_two_sequences_with_padding_where_it_asks(user_module):
    check(ModelSpec(name=f"{user_module}:Convolutions"), (6, 9), 3, "series")
    check(ModelSpec(name=f"{user_module}:Masked"), (9, 6), 3, "text")
    with pytest.raises(UserError, match=r"batch \(2, 9, 6\) and return logits \(2, 3\), got 'RuntimeError") as error:
        check(ModelSpec(name=f"{user_module}:Wrong"), (9, 6), 3, "text")
    assert error.value.key == "model.name"


def test_a_series_too_short_for_a_users_network_is_told_without_talk_of_images(user_module):
    with pytest.raises(UserError, match=r"\(2, 6, 4\).*[Kk]ernel size") as error:
        check(ModelSpec(name=f"{user_module}:Convolutions"), (6, 4), 3, "series")
    assert "image" not in str(error.value)


def test_every_network_belongs_to_one_kind():
    assert sorted(MODELS) == sorted(name for networks in BY_KIND.values() for name in networks)
