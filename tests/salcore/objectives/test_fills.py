"""Fills against slow loops over samples, features and words, with the same random numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salcore.errors import UserError
from salcore.objectives import fill_for
from salcore.objectives.fills import FILLS
from salcore.seeds import generator
from salcore.spec import GuidanceSpec, parse

SHAPES = {"images": (4, 2, 5, 3), "series": (4, 3, 6), "text": (4, 6, 2)}
LENGTHS = (6, 1, 3, 0)
PAIRS = [(kind, name) for kind, fills in FILLS.items() for name in fills]


def lengths_to_valid(lengths, steps):
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


def filled(kind, name, inputs, mask=None, valid=None, seed=0):
    if mask is None:
        shape = inputs.shape if kind == "series" else inputs.shape[:2] if kind == "text" else inputs[:, 0].shape
        mask = torch.ones(shape, dtype=torch.bool)
    return FILLS[kind][name](inputs, mask=mask, valid=valid, generator=generator(seed))


def batch(kind):
    return torch.randn(SHAPES[kind], generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize(("kind", "padded"), [("images", False), ("series", False), ("series", True)])
def test_uniform_is_the_draw_between_the_extremes_of_a_samples_feature(kind, padded):
    inputs = batch(kind)
    if padded:
        inputs.masked_fill_(~lengths_to_valid(LENGTHS, 6)[:, None], 100)  # would show as an extreme
    result = filled(kind, "uniform", inputs, valid=lengths_to_valid(LENGTHS, 6) if padded else None)
    draws = torch.rand(inputs.shape, generator=generator(0), dtype=torch.float64)
    for sample in range(4):
        for feature in range(inputs.shape[1]):
            counted = inputs[sample, feature, : LENGTHS[sample]] if padded else inputs[sample, feature]
            if not counted.numel():
                continue
            low, high = counted.min().item(), counted.max().item()
            expected = [low + (high - low) * draw for draw in draws[sample, feature].flatten().tolist()]
            assert result[sample, feature].flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["images", "series"])
def test_uniform_stays_within_the_range_in_spite_of_round_off(kind):
    inputs = torch.randn(50, *SHAPES[kind][1:]) * torch.logspace(-3, 3, 50).view(50, *[1] * (len(SHAPES[kind]) - 1))
    axes = tuple(range(2, inputs.ndim))
    result = filled(kind, "uniform", inputs)
    assert (result >= inputs.amin(axes, keepdim=True)).all()
    assert (result <= inputs.amax(axes, keepdim=True)).all()


def test_uniform_is_uniform():
    inputs = torch.zeros(1, 2, 10_000)
    inputs[0, :, 0] = torch.tensor([-1.0, 10.0])
    result = filled("series", "uniform", inputs, seed=3)
    for feature, (low, high) in enumerate([(-1.0, 0.0), (0.0, 10.0)]):
        share = (result[0, feature] - low) / (high - low)
        assert share.mean().item() == pytest.approx(1 / 2, abs=0.02)
        assert share.var().item() == pytest.approx(1 / 12, abs=0.005)
    assert abs(torch.corrcoef(result[0])[0, 1]) < 0.05, "features share their draws"


def test_the_background_is_the_samples_own_corner():
    inputs = batch("images")
    expected = inputs[:, :, 0, 0][:, :, None, None].expand_as(inputs)
    assert torch.equal(filled("images", "background", inputs), expected)


def words_by_hand(words, mask, length):
    """Word by word: the nearest kept word before, else the first kept one after, else the word itself."""
    kept = [place for place in range(length) if not mask[place]]
    result = list(words)
    for place in range(length):
        before = [other for other in kept if other <= place]
        if mask[place] and kept:
            result[place] = words[before[-1] if before else kept[0]]
    return result


@st.composite
def texts(draw):
    words = draw(st.integers(1, 7))
    flags = st.lists(st.booleans(), min_size=words, max_size=words)
    samples = draw(st.lists(st.tuples(flags, st.integers(0, words)), min_size=1, max_size=4))
    return [mask for mask, _ in samples], [length for _, length in samples]


@settings(deadline=None)  # a busy machine is no failure
@given(texts())
def test_a_masked_word_is_the_nearest_kept_one_before_it(text):
    masks, lengths = text
    words = len(masks[0])
    inputs = torch.arange(len(masks) * words * 2.0).view(len(masks), words, 2)
    valid = lengths_to_valid(lengths, words)
    mask = torch.tensor(masks)
    mask &= valid
    result = torch.where(mask[..., None], filled("text", "previous_word", inputs, mask, valid), inputs)
    for sample, length in enumerate(lengths):
        assert result[sample].tolist() == words_by_hand(inputs[sample].tolist(), mask[sample].tolist(), length)


def test_the_previous_word_in_four_cases():
    """In the middle, at the beginning, of padding never, and where no word is kept."""
    inputs = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 0], [1, 2, 0, 0]])[..., None]
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    valid = lengths_to_valid((4, 4, 3, 2), 4)
    assert filled("text", "previous_word", inputs, mask, valid)[mask].flatten().tolist() == [1, 1, 3, 3, 3, 2, 2, 1, 2]


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_samples_fill_neither_depends_on_its_padding_nor_changes_the_inputs(kind, name):
    """One seed for both: draws are the sample's by its place in the batch."""
    inputs, valid = batch(kind), None if kind == "images" else lengths_to_valid(LENGTHS, 6)
    copy = inputs.clone()
    result = filled(kind, name, inputs, valid=valid)
    assert result.shape == inputs.shape
    assert torch.equal(inputs, copy)
    if valid is not None:
        allowed = valid[..., None] if kind == "text" else valid[:, None]
        other = filled(kind, name, torch.where(allowed, inputs, -7), valid=valid)
        assert torch.equal(other.where(allowed, 0), result.where(allowed, 0))


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_as_many_numbers_are_drawn_whatever_is_masked(kind, name):
    inputs, states = batch(kind), []
    shape = inputs.shape if kind == "series" else inputs.shape[:2] if kind == "text" else inputs[:, 0].shape
    for flag in (False, True):
        draws = generator(0)
        FILLS[kind][name](inputs, mask=torch.full(shape, flag), valid=None, generator=draws)
        states.append(draws.get_state())
    assert torch.equal(*states)


def test_each_kind_has_its_default():
    assert {kind: fill_for(kind) for kind in FILLS} == {
        "images": "uniform",
        "series": "uniform",
        "text": "previous_word",
    }
    assert GuidanceSpec().fill is None


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("name", ["uniform", "background", "previous_word"])
def test_a_fill_that_the_kind_has_not_is_refused_in_a_line_that_names_the_key(kind, name):
    if name in FILLS[kind]:
        assert fill_for(kind, name) == name
        return
    with pytest.raises(UserError, match=f"training.guidance.fill: expected .* for {kind}, got '{name}'"):
        fill_for(kind, name)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("weight: -1", "training.guidance.weight: expected .*0.*, got -1"),
        ("fill: black", "training.guidance.fill: expected .*previous_word.*, got 'black'"),
    ],
)
def test_guidance_that_cannot_be_is_refused_in_one_line(line, told):
    with pytest.raises(UserError, match=told) as refused:
        parse(f"training: {{guidance: {{{line}}}}}")
    assert "\n" not in str(refused.value)
