"""Weighted precision and recall against a loop over cells, and maps whose areas are known."""

import math

import pytest
import torch
from sklearn.metrics import auc

from salcore.faithfulness import areas_above_random, precision_recall_areas

LEVELS = [level / 10 for level in range(1, 10)]


def by_hand(saliency, informative, valid):
    """One sample: lists of (F, T). Precision and recall at nine levels, None where their denominator is 0."""
    cells = [(f, t) for f in range(len(saliency)) for t in range(len(saliency[0])) if valid[t]]
    magnitude = {cell: abs(saliency[cell[0]][cell[1]]) for cell in cells}
    low, high = min(magnitude.values()), max(magnitude.values())
    scaled = {cell: (value - low) / (high - low) for cell, value in magnitude.items()}
    order = sorted(cells, key=lambda cell: -scaled[cell])
    total, rows = math.fsum(scaled.values()), []
    for level in LEVELS:
        chosen = []
        while not chosen or math.fsum(scaled[cell] for cell in chosen) < level * total * (1 - 1e-12):
            chosen.append(order[len(chosen)])
        box = {cell for cell in cells if informative[cell[0]][cell[1]]}
        true = math.fsum(scaled[cell] for cell in chosen if cell in box)
        false = math.fsum(scaled[cell] for cell in chosen if cell not in box)
        missed = math.fsum(scaled[cell] for cell in box if cell not in chosen)
        rows.append((true / (true + false), true / (true + missed) if true + missed else None))
    return rows


@pytest.fixture
def series():
    draw = torch.Generator().manual_seed(0)
    saliency = torch.randn(12, 4, 6, generator=draw, dtype=torch.float64)
    return saliency, torch.rand(12, 4, 6, generator=draw) < 0.3


@pytest.mark.parametrize("padded", [False, True])
def test_precision_and_recall_are_those_of_a_loop_over_cells(series, padded):
    saliency, informative = series
    lengths = torch.arange(12) % 4 + 3 if padded else torch.full((12,), 6)
    valid = torch.arange(6) < lengths[:, None]
    found = precision_recall_areas(saliency, informative, valid=valid if padded else None)
    rows = [by_hand(s.tolist(), b.tolist(), v.tolist()) for s, b, v in zip(saliency, informative, valid, strict=True)]
    expected = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(found.precision, expected[..., 0])
    torch.testing.assert_close(found.recall, expected[..., 1])
    assert found.aup == pytest.approx(auc(LEVELS, expected[..., 0].mean(0)))
    assert found.aur == pytest.approx(auc(LEVELS, expected[..., 1].mean(0)))
    assert found.counted == 12


def box(samples=5, features=10, steps=10, side=5):
    truth = torch.zeros(samples, features, steps, dtype=torch.bool)
    truth[:, 2 : 2 + side, 3 : 3 + side] = True
    return truth


def test_the_truth_itself_has_all_precision_and_half_the_recall():
    truth = box(side=10, features=20, steps=20)  # a hundred cells, so that each level is a whole number of them
    found = precision_recall_areas(truth.float(), truth)
    assert found.aup == pytest.approx(0.8)
    assert found.aur == pytest.approx(0.4)
    assert found.recall[0].tolist() == pytest.approx(LEVELS)  # none too many by rounding
    assert precision_recall_areas(-3 * truth.double(), truth).aup == pytest.approx(0.8)


def test_what_lies_beside_the_truth_has_no_precision_and_no_recall_to_speak_of():
    found = precision_recall_areas((~box()).float(), box())
    assert found.aup == 0
    assert found.recall.isnan().all()
    assert found.counted == 0


def test_levels_are_shares_of_mass_and_not_of_cells():
    saliency, truth = torch.zeros(1, 1, 100), torch.zeros(1, 1, 100, dtype=torch.bool)
    saliency[..., 0], saliency[..., 1:] = 100, 1
    saliency[..., 99] = 0
    truth[..., 0] = True  # one cell has 100 of 198
    found = precision_recall_areas(saliency, truth)
    assert found.precision[0, :5].tolist() == [1] * 5
    assert found.precision[0, 5].item() == pytest.approx(100 / 119)  # 60 % of 198 are 100 and 19 ones
    assert found.recall[0].tolist() == [1] * 9


def test_rounding_in_the_sum_takes_no_cell_too_many():
    saliency = torch.tensor([[[1.0, *[0.1] * 10, 0.0]]], dtype=torch.float64)  # whose sum in float64 is more than 2
    found = precision_recall_areas(saliency, saliency == 1)
    assert found.precision[0, :5].tolist() == [1] * 5
    assert found.precision[0, 5].item() == pytest.approx(1 / 1.2)


def test_chance_has_the_share_of_informative_cells_and_no_difference_to_itself():
    truth = box(samples=40)
    random = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = areas_above_random(random, truth)
    assert found.random_aup == pytest.approx(0.8 * 0.25, abs=0.01)
    assert found.random_aur == pytest.approx(0.4, abs=0.01)
    assert found.aup == pytest.approx(0, abs=0.02)
    perfect = areas_above_random(truth.float(), truth)
    assert perfect.aup + perfect.random_aup == pytest.approx(0.8)
    assert perfect.aup > 0.5


def test_a_permutation_of_features_keeps_what_is_there_in_time():
    truth = torch.zeros(6, 8, 10, dtype=torch.bool)
    truth[..., 3:6] = True  # all features: permuting them changes nothing
    assert areas_above_random(truth.float(), truth, permuted="features").aup == pytest.approx(0)
    assert areas_above_random(truth.float(), truth).aup > 0.4


def test_cells_are_dealt_out_among_valid_ones_and_by_the_seed(series):
    saliency, informative = series
    valid = torch.arange(6) < (torch.arange(12) % 3 + 3)[:, None]
    spoilt = torch.where(valid[:, None], saliency, 1e9)  # were padding dealt out, it would be all of the mass
    clean = torch.where(valid[:, None], saliency, 0)
    found = [areas_above_random(each, informative, valid=valid, seed=2) for each in (spoilt, clean)]
    assert found[0] == found[1]
    assert found[0] != areas_above_random(clean, informative, valid=valid, seed=3)


def test_samples_without_informative_cells_or_saliency_are_counted_out(series):
    saliency, informative = (each.clone() for each in series)
    rest = precision_recall_areas(saliency[2:], informative[2:])
    informative[0] = False
    saliency[1] = -3.0
    found = precision_recall_areas(saliency, informative)
    assert found.precision.isnan().all(1).tolist() == [True, True, *[False] * 10]
    assert (found.aup, found.aur) == pytest.approx((rest.aup, rest.aur))
    assert found.counted == 10
    assert math.isnan(precision_recall_areas(saliency[:2], informative[:2]).aup)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saliency": torch.zeros(0, 4, 6)}, "^`saliency`"),
        ({"saliency": torch.zeros(4, 6)}, "^`saliency`"),
        ({"informative": torch.zeros(12, 4, 6)}, "^`informative`: expected .* of bool"),
        ({"informative": torch.zeros(12, 4, 5, dtype=torch.bool)}, "^`informative`"),
        ({"valid": torch.ones(12, 5, dtype=torch.bool)}, "^`valid`"),
        ({"permuted": "rows"}, "^`permuted`"),
        ({"draws": 0}, "^`draws`"),
        ({"saliency": torch.zeros(12, 4, 6).index_fill(0, torch.tensor([5]), math.inf)}, "^`saliency`.*in sample 5"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(series, changes, message):
    arguments = {"saliency": series[0], "informative": series[1], **changes}
    with pytest.raises(ValueError, match=message):
        areas_above_random(**arguments)
