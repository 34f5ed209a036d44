"""One ranking for all shares: descending, stable, exact counts; the fills, value by value."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salcore.faithfulness.ranking import at_least, at_most, rankings, ranks, scores
from salcore.faithfulness.removal import deleted, filler
from salcore.faithfulness.samples import Samples

VALUES = st.sampled_from([-2.0, -1.0, 0.0, -0.0, 1.0, 2.0])


@st.composite
def problems(draw):
    samples, size = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    rows = st.lists(st.lists(VALUES, min_size=size, max_size=size), min_size=samples, max_size=samples)
    flags = st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=samples, max_size=samples)
    return draw(rows), draw(flags)


@settings(deadline=None)
@given(problems())
def test_ranks_are_those_of_a_stable_descending_sort_and_what_does_not_count_is_last(problem):
    values, flags = problem
    found = ranks(torch.tensor(values), torch.tensor(flags))
    for row, counted, places in zip(values, flags, found.tolist(), strict=True):
        order = sorted((p for p in range(len(row)) if counted[p]), key=lambda p: (-row[p], p))
        assert [places[position] for position in order] == list(range(len(order)))
        assert sorted(places) == list(range(len(row)))


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3000))
def test_counts_are_those_of_the_decimal_that_was_written(thousandths, size):
    exact, written = Fraction(thousandths, 1000) * size, float(f"{thousandths / 1000:.3f}")
    assert int(at_most(written, torch.tensor(size))) == math.floor(exact)
    assert int(at_least(written, torch.tensor(size))) == math.ceil(exact)


def test_an_image_is_ranked_by_the_magnitude_of_its_channel_mean_and_words_by_the_sum_of_their_dimensions():
    pixels = torch.tensor([[5.0, -1.0, 1.0], [-5.0, -2.0, 2.0]])[None, :, None]
    assert scores(pixels, "images").tolist() == [[0.0, 1.5, 1.5]]
    assert scores(pixels, "images", "signed").tolist() == [[0.0, -1.5, 1.5]]
    words = torch.tensor([[[1.0, -4.0], [1.0, 1.0]]])
    assert scores(words, "text").tolist() == [[3.0, 2.0]]
    assert scores(words, "text", "signed").tolist() == scores(words.sum(2), "text", "signed").tolist() == [[-3.0, 2.0]]
    assert scores(torch.full((1, 2, 3), -1.0), "series").tolist() == [[1.0] * 6]


def test_random_rankings_differ_by_draw_and_sample_and_not_by_how_samples_are_batched():
    def drawn(rows):
        made = rankings(None, "images", "magnitude", positions=50, seed=3, draws=2)
        return [torch.cat([scores(slice(*ends)) for ends in rows]) for scores in made]

    whole, pieces = drawn([(0, 9)]), drawn([(0, 2), (2, 7), (7, 9)])
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    assert len({tuple(row) for draw in whole for row in ranks(draw).tolist()}) == 18


def batch_of(samples):
    return next(
        samples.ranked(lambda rows: torch.zeros(rows.stop, samples.positions), torch.device("cpu"), torch.float64)
    )


def filled(fill, samples, seed=0):
    return filler(fill, samples, seed)(batch_of(samples))


def test_fills_of_images_pixel_by_pixel(images):
    inputs = images[0]
    found = {name: filled(name, Samples(inputs=inputs)) for name in ("background", "mean", "uniform", "zero")}
    draws = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(_fill_seed(0)))
    for place in [(0, 0, 0, 0), (3, 1, 4, 2), (6, 0, 5, 5)]:
        channel = inputs[place[0], place[1]].numpy()
        assert found["background"][place] == channel[0, 0]
        assert found["mean"][place].item() == pytest.approx(channel.mean())
        low, high = channel.min(), channel.max()
        assert found["uniform"][place].item() == pytest.approx(low + (high - low) * draws[place].item())
        assert found["zero"][place] == 0
    assert not torch.equal(found["uniform"], filled("uniform", Samples(inputs=inputs), seed=1))


def _fill_seed(seed):
    from salcore import seeds

    return seeds.derive(seed, 1)


def test_means_and_ranges_of_sequences_are_over_their_valid_steps_alone():
    series = torch.tensor([[[1.0, 3.0, 90.0], [5.0, 5.0, -90.0]]], dtype=torch.float64)
    valid = torch.tensor([[True, True, False]])
    assert filled("mean", Samples(inputs=series, kind="series", valid=valid))[0, :, 0].tolist() == [2, 5]
    uniform = filled("uniform", Samples(inputs=series, kind="series", valid=valid))
    assert (uniform[0, 0] >= 1).all()
    assert (uniform[0, 0] <= 3).all()
    assert uniform[0, 1].tolist() == [5, 5, 5]
    text = series.transpose(1, 2)
    assert filled("mean", Samples(inputs=text, kind="text", valid=valid))[0, 0].tolist() == [2, 5]


def test_a_tensor_fills_every_sample_alike_or_each_with_its_own(images):
    samples = Samples(inputs=images[0], batch_size=3)
    constant = torch.tensor([1.0, 2.0])[:, None, None]
    assert filled(constant, samples)[2, :, 3, 3].tolist() == [1, 2]
    own = filler(images[2], samples, 0)
    parts = [own(b) for b in samples.ranked(lambda rows: torch.zeros(rows.stop - rows.start, 36), "cpu", torch.float64)]
    assert torch.equal(torch.cat(parts), images[2])


def test_deletion_keeps_the_order_of_words_and_leaves_one_empty_step_of_an_empty_text():
    inputs = torch.arange(1, 9, dtype=torch.float64).view(2, 4, 1)
    keep = torch.tensor([[True, False, True, True], [False, True, False, False]])
    texts, valid = deleted(inputs, keep)
    assert texts[..., 0].tolist() == [[1, 3, 4], [6, 0, 0]]
    assert valid.tolist() == [[True, True, True], [True, False, False]]
    texts, valid = deleted(inputs, torch.zeros_like(keep))
    assert texts.tolist() == [[[0]], [[0]]]
    assert valid.tolist() == [[True], [True]]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "sound"}, "`kind`"),
        ({"inputs": torch.zeros(0, 1, 2, 2)}, "`inputs`"),
        ({"inputs": torch.zeros(2, 2, 2)}, "`inputs`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"valid": torch.ones(2, 2, dtype=torch.bool)}, "`valid`"),
        ({"query": torch.zeros(2, dtype=torch.int64)}, "`query`"),
        ({"inputs": torch.zeros(2, 3, 4), "kind": "series", "valid": torch.ones(2, 3, dtype=torch.bool)}, "`valid`"),
        ({"inputs": torch.zeros(2, 3, 4), "kind": "text", "valid": torch.ones(2, 3)}, "`valid`"),
        ({"inputs": torch.zeros(2, 3, 4), "kind": "text", "query": torch.tensor([0, -1])}, "`query`"),
    ],
)
def test_samples_that_do_not_fit_are_refused_by_name(change, word):
    with pytest.raises(ValueError, match=f"^{word}: expected .*got"):
        Samples(**{"inputs": torch.zeros(2, 1, 3, 3), **change})
