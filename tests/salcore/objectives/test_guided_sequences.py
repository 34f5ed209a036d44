"""Saliency guided training of texts and series against Algorithm 1 re-derived slowly, word by word and cell by cell."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from salcore.errors import UserError
from salcore.objectives.guided import guided, masked
from salcore.objectives.standard import standard
from salcore.padding import bound
from salcore.seeds import forked, generator
from salcore.spec import GuidanceSpec
from tests import objectives
from tests.oracles import guided_loss, numeric_gradient

SAMPLES, STEPS, WIDTH, CLASSES = 4, 7, 3, 3
LENGTHS = (7, 5, 1, 2)
KINDS = ("text", "series")


class Small(nn.Module):
    """An LSTM in double precision whose states are averaged over the valid steps."""

    def __init__(self, kind, dropout=0.0):
        super().__init__()
        self.kind, self.dropout = kind, nn.Dropout(dropout)
        self.recurrent = nn.LSTM(WIDTH, 4, batch_first=True).double()
        self.linear = nn.Linear(4, CLASSES).double()

    def forward(self, inputs, valid=None):
        states, _ = self.recurrent(self.dropout(inputs if self.kind == "text" else inputs.mT))
        if valid is None:
            return self.linear(states.mean(1))
        return self.linear((states * valid[..., None]).sum(1) / valid.sum(1, keepdim=True))


def network(kind, dropout=0.0):
    with forked(5):
        return Small(kind, dropout).train()


def batch(kind, padded=True):
    shape = (SAMPLES, STEPS, WIDTH) if kind == "text" else (SAMPLES, WIDTH, STEPS)
    inputs, labels = torch.randn(shape, generator=generator(1), dtype=torch.float64), torch.arange(SAMPLES) % CLASSES
    if not padded:
        return inputs, labels, None
    valid = torch.arange(STEPS) < torch.tensor(LENGTHS)[:, None]
    return inputs * (valid[..., None] if kind == "text" else valid[:, None]), labels, valid


def gradient_of(model, inputs, labels, valid):
    """Numeric, one sample at a time."""
    ones = range(SAMPLES)
    parts = [slice(one, one + 1) for one in ones]
    masks = [None if valid is None else valid[part] for part in parts]
    return torch.cat(
        [
            numeric_gradient(bound(model, mask), inputs[part], labels[part])
            for part, mask in zip(parts, masks, strict=True)
        ]
    )


def chosen(scores, fraction, magnitude):
    """The positions of the floor(fraction * n) smallest scores."""
    ranked = sorted(scores, key=lambda place: abs(scores[place]) if magnitude else scores[place])
    return set(ranked[: math.floor(Fraction(str(fraction)) * len(ranked))])


def text_by_hand(words, gradient, length, fraction, magnitude):
    """One text (T, E): the words with the lowest summed gradient become the kept one before, or the first kept one."""
    scores = {place: sum(gradient[place].tolist()) for place in range(length)}
    gone = chosen(scores, fraction, magnitude)
    kept = [place for place in range(length) if place not in gone]
    result = words.clone()
    for place in gone if kept else ():
        result[place] = words[max((other for other in kept if other < place), default=kept[0])]
    return result


def series_by_hand(series, gradient, length, fraction, magnitude, draws):
    """One series (F, T): the cells with the lowest gradient get a draw from the range of their feature."""
    cells = {(feature, time): gradient[feature, time].item() for feature in range(WIDTH) for time in range(length)}
    result = series.clone()
    for feature, time in chosen(cells, fraction, magnitude):
        known = series[feature, :length].tolist()
        result[feature, time] = min(known) + (max(known) - min(known)) * draws[feature, time]
    return result


def slow_masked(kind, model, inputs, labels, valid, fraction=0.5, magnitude=False):
    gradient = gradient_of(model, inputs, labels, valid)
    draws = torch.rand(inputs.shape, generator=generator(0), dtype=torch.float64)
    lengths = (STEPS,) * SAMPLES if valid is None else LENGTHS
    by_hand = text_by_hand if kind == "text" else series_by_hand
    extra = [() if kind == "text" else (draw,) for draw in draws]
    samples = zip(inputs, gradient, lengths, extra, strict=True)
    return torch.stack(
        [by_hand(one, slope, length, fraction, magnitude, *more) for one, slope, length, more in samples]
    )


def loss_of(kind, model, inputs, labels, valid, **options):
    """With the model bound to what counts, as training gives it."""
    settings = {"guidance": GuidanceSpec(**options), "generator": generator(0), "valid": valid, "kind": kind}
    return guided(bound(model, valid), inputs, labels, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("mode", "ranking"), [("train", "signed"), ("eval", "magnitude")])
def test_the_loss_is_that_of_the_slow_algorithm(kind, padded, mode, ranking):
    model, (inputs, labels, valid) = network(kind), batch(kind, padded)
    changed = slow_masked(kind, model, inputs, labels, valid, magnitude=ranking == "magnitude")
    network_of_batch = bound(model, valid)
    with torch.no_grad():
        logits = [network_of_batch(each).numpy() for each in (inputs, changed)]
    expected = guided_loss(*logits, labels.numpy(), 0.7)
    loss = loss_of(kind, model, inputs, labels, valid, weight=0.7, mode=mode, ranking=ranking)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, 1.0])
def test_what_goes_through_the_network_a_second_time_is_that_of_the_slow_algorithm(kind, padded, fraction):
    model, (inputs, labels, valid) = network(kind), batch(kind, padded)
    expected = slow_masked(kind, model, inputs, labels, valid, fraction)
    gradient = gradient_of(model, inputs, labels, valid)
    settings = {"guidance": GuidanceSpec(mask_fraction=fraction), "generator": generator(0)}
    torch.testing.assert_close(masked(inputs, gradient, **settings, valid=valid, kind=kind), expected)
    if fraction in (0.3, 0.9):
        assert not torch.equal(expected, inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_padding_is_what_it_was(kind, mode):
    """The network is asked twice: both times with the padding untouched."""
    model, (inputs, labels, valid) = network(kind), batch(kind)
    seen = []
    handle = model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    loss_of(kind, model, inputs, labels, valid, mode=mode, mask_fraction=1.0)
    handle.remove()
    allowed = valid[..., None] if kind == "text" else valid[:, None]
    assert len(seen) == (2 if mode == "train" else 3)
    for each in seen:
        assert torch.equal(each.where(~allowed, 0), inputs.where(~allowed, 0))
    assert torch.equal(seen[-1], inputs) == (kind == "text"), "where all words are masked, all stay"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_under_dropout_both_passes_are_those_of_training(kind, mode):
    model, (inputs, labels, valid) = network(kind, dropout=0.5), batch(kind)
    network_of_batch = bound(model, valid)
    torch.manual_seed(0)
    first, second = network_of_batch(inputs), network_of_batch(inputs)
    p = first.softmax(1)
    expected = nn.functional.cross_entropy(first, labels) + 3 * (p * (p / second.softmax(1)).log()).sum(1).mean()
    torch.manual_seed(0)
    loss = loss_of(kind, model, inputs, labels, valid, mask_fraction=0.0, weight=3.0, mode=mode)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", objectives.PLAIN)
@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_takes_every_kind_and_changes_nothing_of_the_callers(name, kind):
    model, (inputs, labels, valid) = network(kind), batch(kind)
    copies = inputs.clone(), valid.clone()
    settings = {"guidance": GuidanceSpec(), "generator": generator(0), "valid": valid, "kind": kind}
    objectives.loss(name, model, inputs, labels, **settings).backward()
    assert torch.equal(inputs, copies[0])
    assert torch.equal(valid, copies[1])
    assert not inputs.requires_grad
    assert model.training
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_without_weight_it_is_the_standard_objective(kind):
    model, (inputs, labels, valid) = network(kind), batch(kind)
    expected = standard(bound(model, valid), inputs, labels)
    torch.testing.assert_close(loss_of(kind, model, inputs, labels, valid, weight=0.0), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_masking_reads_no_value_back_from_the_device(kind, padded):
    """The meta device has no values: whatever would wait for a GPU's raises here."""
    inputs, _, valid = batch(kind, padded)
    inputs, valid = inputs.to("meta"), valid if valid is None else valid.to("meta")
    settings = {"guidance": GuidanceSpec(), "generator": generator(0), "valid": valid, "kind": kind}
    assert masked(inputs, inputs, **settings).shape == inputs.shape


@pytest.mark.parametrize(
    ("kind", "shape", "valid", "told"),
    [
        ("images", (2, 5), None, r"`inputs`: expected images \(N, C, H, W\), got \(2, 5\)"),
        ("series", (2, 1, 5, 5), None, r"`inputs`: expected series \(N, F, T\), got"),
        ("text", (2, 5), None, r"`inputs`: expected text \(N, T, E\), got"),
        ("text", (2, 5, 3), (2, 3), r"`valid`: expected \(N, T\) = \(2, 5\), got \(2, 3\)"),
        ("series", (2, 3, 5), (2, 3), r"`valid`: expected \(N, T\) = \(2, 5\), got \(2, 3\)"),
        ("images", (2, 1, 5, 5), (2, 5), "`valid`: expected None, as images have no padding"),
        ("sound", (2, 5), None, "`kind`: expected one of images, series, text, got 'sound'"),
    ],
)
def test_inputs_of_another_kind_are_refused(kind, shape, valid, told):
    valid = None if valid is None else torch.ones(valid, dtype=torch.bool)
    settings = {"guidance": GuidanceSpec(), "generator": generator(0), "valid": valid, "kind": kind}
    with pytest.raises(ValueError, match=told):
        guided(network("text"), torch.zeros(shape), torch.zeros(2, dtype=torch.int64), **settings)


def test_a_fill_of_another_kind_is_refused():
    model, (inputs, labels, valid) = network("text"), batch("text")
    with pytest.raises(UserError, match=r"training\.guidance\.fill"):
        loss_of("text", model, inputs, labels, valid, fill="background")
