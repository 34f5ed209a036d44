"""Masking the lowest: exact counts, with ties, padding and infinities."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salcore.objectives.guided import lowest
from tests.oracles import lowest_by_sorting

DECIMALS = st.integers(0, 1000).map(lambda thousandths: f"{thousandths / 1000:.3f}")
# Few distinct values, so that ties are the rule, as dead ReLUs make them.
VALUES = st.sampled_from([-math.inf, -1.5, -1.0, 0.0, 1.0, 2.0, math.inf])


@st.composite
def problems(draw):
    samples, size = draw(st.integers(1, 4)), draw(st.integers(1, 24))
    rows = st.lists(st.lists(VALUES, min_size=size, max_size=size), min_size=samples, max_size=samples)
    flags = st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=samples, max_size=samples)
    return draw(rows), draw(flags), draw(DECIMALS)


@settings(deadline=None)  # a busy machine is no failure
@given(problems())
def test_exactly_the_smallest_are_masked(problem):
    values, flags, fraction = problem
    saliency = torch.tensor(values, dtype=torch.float64)
    for valid in (None, torch.tensor(flags)):
        mask = lowest(saliency, float(fraction), valid)
        assert mask.dtype == torch.bool
        allowed = torch.ones_like(mask) if valid is None else valid
        assert not (mask & ~allowed).any()
        for sample in range(len(values)):
            masked = sorted(saliency[sample][mask[sample]].tolist())
            assert masked == lowest_by_sorting(values[sample], fraction, allowed[sample].tolist())
            kept = saliency[sample][allowed[sample] & ~mask[sample]].tolist()
            assert not masked or not kept or min(kept) >= max(masked)


@settings(deadline=None)  # a busy machine is no failure
@given(fraction=DECIMALS, size=st.integers(1, 3000))
def test_the_count_is_the_floor_of_the_decimal_that_was_written(fraction, size):
    count = math.floor(Fraction(fraction) * size)
    saliency = torch.zeros(1, size)
    assert lowest(saliency, float(fraction)).sum() == count
    assert lowest(saliency, float(fraction), torch.ones(1, size, dtype=torch.bool)).sum() == count


@pytest.mark.parametrize(
    ("fraction", "size", "count"), [(0.7, 10, 7), (0.29, 100, 29), (0.57, 100, 57), (0.5, 784, 392)]
)
def test_round_off_masks_none_too_few(fraction, size, count):
    assert lowest(torch.randn(3, size), fraction).sum(1).tolist() == [count] * 3


@pytest.mark.parametrize("shape", [(2, 12), (2, 3, 4), (2, 2, 3, 2), (0, 5)])
def test_all_trailing_axes_are_ranked_together(shape):
    saliency = torch.randn(shape)
    mask = lowest(saliency, 0.5)
    assert mask.shape == shape
    torch.testing.assert_close(mask.flatten(1), lowest(saliency.flatten(1), 0.5))


def test_a_samples_mask_does_not_depend_on_its_batch():
    saliency = torch.randn(6, 40)
    assert torch.equal(lowest(saliency, 0.3)[2:3], lowest(saliency[2:3], 0.3))


def test_all_valid_is_the_same_as_no_mask_where_nothing_ties():
    saliency = torch.randn(4, 5, 5)
    assert torch.equal(lowest(saliency, 0.37), lowest(saliency, 0.37, torch.ones(4, 5, 5, dtype=torch.bool)))


def test_the_saliency_is_left_as_it_was():
    saliency = torch.randn(3, 8, requires_grad=True)
    copy = saliency.detach().clone()
    assert not lowest(saliency, 0.5).requires_grad
    assert torch.equal(saliency, copy)


@settings(deadline=None)
@given(problems(), st.data())
def test_a_value_that_is_no_number_counts_as_infinite(problem, data):
    values, flags, fraction = problem
    numbers = torch.tensor(values)
    broken = torch.tensor(data.draw(st.permutations(flags[0])))
    saliency = numbers.masked_fill(broken, math.nan)
    for valid in (None, torch.tensor(flags)):
        allowed = torch.ones_like(saliency, dtype=torch.bool) if valid is None else valid
        mask = lowest(saliency, float(fraction), valid)
        clean = saliency.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        for sample in range(len(values)):
            expected = lowest_by_sorting(clean[sample].tolist(), fraction, allowed[sample].tolist())
            assert sorted(clean[sample][mask[sample]].tolist()) == expected
        assert not (mask & ~allowed).any()


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_nothing_is_masked_where_nothing_counts_and_all_where_all_is_asked(fraction):
    valid = torch.tensor([[False] * 6, [True] * 6, [True, True, True, False, False, False]])
    mask = lowest(torch.full((3, 6), math.inf), fraction, valid)
    assert mask.sum(1).tolist() == [0, int(6 * fraction), int(3 * fraction)]
    assert not (mask & ~valid).any()


def test_no_digit_is_lost_on_the_way():
    """Two doubles that one float32 stands for, and two bfloat16."""
    near = torch.tensor([[1 + 1e-12, 1.0]], dtype=torch.float64)
    assert lowest(near, 0.5, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[False, True]]
    half = torch.tensor([[2.0, 1.0]], dtype=torch.bfloat16)
    assert lowest(half, 0.5, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[False, True]]


def test_of_equals_among_valid_positions_the_first_are_masked():
    saliency, valid = torch.zeros(1, 6), torch.tensor([[False, True, True, False, True, True]])
    assert lowest(saliency, 0.5, valid).tolist() == [[False, True, True, False, False, False]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_of_nothing(shape):
    assert lowest(torch.zeros(shape), 0.5, torch.ones(shape, dtype=torch.bool)).shape == shape


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="`mask_fraction`"):
        lowest(torch.zeros(1, 4), fraction)


def test_a_valid_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="`valid`"):
        lowest(torch.zeros(2, 4), 0.5, torch.ones(4, dtype=torch.bool))
