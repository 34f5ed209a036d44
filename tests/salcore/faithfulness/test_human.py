"""Agreement with people's rationales, by hand and against a slow re-derivation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, f1_score, precision_recall_curve

from salcore.faithfulness.human import by_word, human_agreement, spans

EVERY = torch.ones(1, 6, dtype=torch.bool)


def found(scores, marked, counted=EVERY, share=0.5):
    return human_agreement(torch.tensor([scores]).float(), torch.tensor([marked]).bool(), counted, share=share)


def test_a_text_by_hand():
    each = found([6, 5, 1, 4, 2, 3], [1, 1, 1, 0, 0, 0])  # predicted: 0, 1 and 3
    assert each.token_f1.tolist() == [pytest.approx(2 / 3)]
    assert each.span_precision.tolist() == [0.5]  # [0, 2) meets [0, 3) by two thirds; [3, 4) does not
    assert each.span_recall.tolist() == [1.0]
    assert each.iou_f1 == pytest.approx(2 / 3)


def test_half_of_the_union_is_a_hit_and_less_is_none():
    assert found([9, 8, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], share=1 / 3).span_recall.tolist() == [1.0]
    assert found([9, 8, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], share=1 / 3).span_recall.tolist() == [0.0]


def test_padding_and_queries_are_left_out():
    counted = torch.tensor([[False, True, True, True, True, False]])
    each = found([99, 4, 3, 2, 1, 99], [1, 1, 1, 0, 0, 1], counted)
    assert each.token_f1.tolist() == [1.0]
    assert each.auprc.tolist() == [1.0]


def test_a_text_in_which_nothing_is_marked_is_left_out():
    two = human_agreement(torch.rand(2, 6), torch.tensor([[0] * 6, [1] * 6]).bool(), EVERY.repeat(2, 1), share=0.5)
    assert np.isnan(two.token_f1[0])
    assert not np.isnan(two.token_f1[1])
    assert np.isfinite(two.iou_f1)


def test_many_texts_against_scikit_learn():
    random = torch.Generator().manual_seed(0)
    scores, marked = torch.rand(30, 20, generator=random), torch.rand(30, 20, generator=random) < 0.3
    counted = torch.arange(20) < torch.randint(5, 21, (30, 1), generator=random)
    each = human_agreement(scores, marked, counted, share=0.3)
    for row in range(30):
        own, truth = scores[row][counted[row]].numpy(), marked[row][counted[row]].numpy()
        if not truth.any():
            continue
        predicted = np.zeros(len(own), bool)
        predicted[np.argsort(-own)[: int(np.ceil(0.3 * len(own) - 1e-9))]] = True
        assert each.token_f1[row] == pytest.approx(f1_score(truth, predicted))
        precision, recall, _ = precision_recall_curve(truth, own)
        assert each.auprc[row] == pytest.approx(auc(recall, precision))


def test_pieces_are_summed_over_their_words():
    values = torch.tensor([[9.0, 1.0, 2.0, 3.0, 9.0], [9.0, 4.0, 9.0, 9.0, 9.0]])
    word_of = torch.tensor([[-1, 0, 1, 1, -1], [-1, 0, -1, -1, -1]])
    sums, there = by_word(values, word_of)
    assert sums.tolist() == [[1, 5], [4, 0]]
    assert there.tolist() == [[True, True], [True, False]]


def test_runs_are_found_at_both_ends():
    assert spans(np.array([1, 0, 1, 1], bool)) == [(0, 1), (2, 4)]
    assert spans(np.zeros(3, bool)) == []
    assert spans(np.ones(3, bool)) == [(0, 3)]


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="`scores`"):
        human_agreement(torch.rand(1, 5), EVERY, EVERY, share=0.5)
    with pytest.raises(ValueError, match="`share`"):
        human_agreement(torch.rand(1, 6), EVERY, EVERY, share=0.0)
