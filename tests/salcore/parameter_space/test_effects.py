"""Which filters come first, and what an effect counts."""

import numpy as np
import pytest
import torch

from salcore.parameter_space.effects import Effect, order
from tests.salcore.parameter_space.networks import noise


def in_order(row, kind):
    """The columns as a stable sort of Python puts them."""
    sign = -1 if kind == "most" else 1
    return sorted(range(len(row)), key=lambda k: sign * abs(row[k]))


@pytest.mark.parametrize("kind", ["most", "least"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 5, None])
def test_filters_come_by_magnitude_and_equal_ones_by_column(kind, dtype, levels):
    profiles = noise(7, 40).to(dtype)
    if levels:
        profiles = (profiles * levels).round() / levels  # many are equal, zeros of both signs among them
    expected = [in_order(row, kind) for row in profiles.tolist()]
    for count in (0, 1, 13, 40):
        found = order(profiles, kind, count, samples=range(7))
        assert found.dtype == torch.int64
        assert found.tolist() == [row[:count] for row in expected]


def test_a_random_order_is_its_samples_own():
    profiles = noise(5, 30)
    together = order(profiles, "random", 30, samples=[3, 8, 1, 0, 9], seed=4)
    assert together.sort(1).values.tolist() == [list(range(30))] * 5
    assert torch.equal(order(profiles[:2], "random", 12, samples=torch.tensor([1, 8]), seed=4), together[[2, 1], :12])
    assert len({tuple(row) for row in together.tolist()}) == 5
    assert not torch.equal(order(profiles, "random", 30, samples=[3, 8, 1, 0, 9], seed=5), together)


def test_random_orders_are_uniform():
    firsts = order(torch.zeros(3000, 6), "random", 2, samples=range(3000))
    for place in range(2):
        counts = np.bincount(firsts[:, place], minlength=6)
        assert ((counts - 500) ** 2 / 500).sum() < 20.5  # chi-squared of 5 degrees of freedom: 0.1 %


@pytest.mark.parametrize("kind", ["most", "random", "least"])
def test_the_order_of_no_samples(kind):
    assert order(torch.zeros(0, 4), kind, 3, samples=[]).shape == (0, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "best"}, "`kind`: expected one of most, random, least, got 'best'"),
        ({"count": 5}, "`count`: expected 0 to 4 filters, as many as there are, got 5"),
        ({"count": -1}, "`count`: .* got -1"),
        ({"samples": [0]}, "`samples`: expected .* each of 2 profiles, got 1"),
        ({"samples": [0, -2]}, "`samples`: expected .* smallest -2"),
        ({"seed": -1, "kind": "random"}, "`seed`: expected 0 or more, got -1"),
        ({"profiles": torch.zeros(4)}, r"`profiles`: expected \(N, P\), got \(4,\)"),
        ({"profiles": torch.tensor([[0.0] * 4, [0.0, float("nan"), 0.0, 0.0]])}, "`profiles`: .* others in row 1"),
    ],
)
def test_what_has_no_order_is_refused(changed, message):
    settings = {"profiles": torch.zeros(2, 4), "kind": "most", "count": 2, "samples": [0, 1], **changed}
    with pytest.raises(ValueError, match=message):
        order(**settings)


def test_an_effect_counts_what_was_wrong_and_has_become_right():
    before = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    after = torch.tensor(
        [
            [[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]],
            [[0.6, 0.3, 0.1], [0.9, 0.1, 0.0], [0.3, 0.6, 0.1]],
        ]
    )
    effect = Effect.of(before, after, torch.tensor([1, 0]))
    np.testing.assert_allclose(effect.incorrect, [[0, -0.3, -0.4], [0, 0.3, -0.3]], atol=1e-7)
    np.testing.assert_allclose(effect.true, [[0, 0.4, -0.1], [0, 0.3, -0.3]], atol=1e-7)
    assert effect.corrected.tolist() == [[False, True, False], [False, False, False]]  # the second was right before
