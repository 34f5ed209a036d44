"""Agreement of attention with explanations, against scikit-learn and a slow re-derivation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from salcore.sallm.agreement import area, mass, moved
from salcore.sallm.intervals import over_seeds_and_texts

COUNTED = torch.arange(12) < torch.tensor([12, 7, 3, 5])[:, None]


def drawn(seed=0, levels=5):
    random = torch.Generator().manual_seed(seed)
    attention = torch.randint(0, levels, (4, 12), generator=random).float()  # ties too
    return attention, torch.rand(4, 12, generator=random) < 0.4


def test_the_area_is_that_of_scikit_learn_over_the_tokens_that_count():
    attention, marked = drawn()
    marked[:, 0], marked[:, 1] = True, False
    found = area(attention, marked, COUNTED)
    for row in range(4):
        own = COUNTED[row]
        assert found[row].item() == pytest.approx(roc_auc_score(marked[row, own], attention[row, own]))


def test_the_area_is_unknown_where_all_or_nothing_is_marked():
    attention, _ = drawn()
    assert area(attention, COUNTED, COUNTED).isnan().all()
    assert area(attention, ~COUNTED, COUNTED).isnan().all()


def test_many_texts_are_measured_in_pieces_as_in_one():
    random = torch.Generator().manual_seed(1)
    attention, marked = torch.rand(600, 6, generator=random), torch.rand(600, 6, generator=random) < 0.5
    every = torch.ones(600, 6, dtype=torch.bool)
    whole = area(attention, marked, every)
    alone = torch.cat([area(*(each[row : row + 1] for each in (attention, marked, every))) for row in range(600)])
    torch.testing.assert_close(whole, alone, equal_nan=True)


def test_the_mass_is_of_marked_tokens_that_count():
    attention = torch.tensor([[0.5, 0.3, 0.2]])
    assert mass(attention, torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])).item() == 0.5
    assert mass(attention, torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)).isnan().all()


def test_marks_are_moved_to_as_many_tokens_that_count():
    _, marked = drawn()
    found = moved(marked, COUNTED, seed=3)
    assert torch.equal(found.sum(1), (marked & COUNTED).sum(1))
    assert not (found & ~COUNTED).any()
    assert torch.equal(found, moved(marked, COUNTED, seed=3))
    assert not torch.equal(found, moved(marked, COUNTED, seed=4))


def test_attention_that_is_the_explanation_finds_it_and_chance_does_not():
    random = torch.Generator().manual_seed(0)
    explanation = torch.rand(400, 20, generator=random)
    every, marked = torch.ones(400, 20, dtype=torch.bool), explanation > 0.8
    assert area(explanation, marked, every).nanmean() == 1
    chance = area(explanation, moved(marked, every, seed=1), every)
    assert chance.nanmean().item() == pytest.approx(0.5, abs=0.02)
    assert (mass(explanation / explanation.sum(1, keepdim=True), marked, every).nanmean() > 0.2).all()


def test_the_interval_holds_the_spread_of_seeds_and_of_texts():
    random = np.random.default_rng(0)
    seeds, texts = random.normal(0, 1, (3, 1)), random.normal(0, 1, (1, 50))
    both = over_seeds_and_texts(seeds + texts)
    alone = over_seeds_and_texts(0 * seeds + texts)
    assert both.value == pytest.approx(float((seeds + texts).mean()))
    assert both.high - both.low > alone.high - alone.low > 0
    constant = over_seeds_and_texts(np.full((3, 5), 2.0))
    assert (constant.low, constant.value, constant.high) == (2, 2, 2)


def test_texts_are_shared_by_seeds_in_the_bootstrap():
    """Three equal seeds are one: their interval is as wide as that of one, not narrower by the root of three."""
    texts = np.random.default_rng(1).normal(0, 1, (1, 200))
    three, nine = (over_seeds_and_texts(np.repeat(texts, count, 0)) for count in (3, 9))
    assert three.high - three.low == pytest.approx(nine.high - nine.low, rel=0.1)
    assert nine.high - nine.low == pytest.approx(2 * 1.96 * texts.std() / 200**0.5, rel=0.1)


@pytest.mark.parametrize("members", [3, 5])
@pytest.mark.parametrize(("of_seeds", "of_texts"), [(1.0, 0.0), (0.0, 1.0), (0.1, 1.0)])
def test_the_interval_holds_the_truth_as_often_as_it_says(members, of_seeds, of_texts):
    """Seeds drawn with replacement would hold it in 74 % of cases, of three."""
    random, held = np.random.default_rng(0), 0
    for number in range(300):
        seeds, texts = random.normal(0, of_seeds, (members, 1)), random.normal(0, of_texts, (1, 60))
        found = over_seeds_and_texts(seeds + texts, draws=400, seed=number)
        held += found.low <= 0 <= found.high
    assert held / 300 > 0.91


def test_one_seed_has_no_interval():
    found = over_seeds_and_texts(np.array([[1.0, 3.0]]))
    assert found.value == 2
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_what_is_not_known_is_left_out():
    values = np.array([[1.0, np.nan, 3.0], [1.0, np.nan, 3.0]])
    assert over_seeds_and_texts(values).value == 2
    assert np.isnan(over_seeds_and_texts(np.full((2, 2), np.nan)).value)
    with pytest.raises(ValueError, match="`values`"):
        over_seeds_and_texts(np.zeros(3))
