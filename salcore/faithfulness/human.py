"""How far scores of words agree with rationales: the words that people marked.

ERASER: A Benchmark to Evaluate Rationalized NLP Models (DeYoung et al., 2020), published scorer. Words that do not
count, padding and queries, are left out of everything. Texts without a marked word are left out too: NaN.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from salcore.faithfulness.ranking import at_least, ranks

IOU = 0.5
"""A predicted span is a hit if its intersection with a marked one is at least this share of their union."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HumanAgreement:
    """Of each text (N,) float64: token F1, area under the precision-recall curve, precision and recall of spans."""

    token_f1: np.ndarray
    auprc: np.ndarray
    span_precision: np.ndarray
    span_recall: np.ndarray

    @property
    def iou_f1(self) -> float:
        """F1 of the mean precision and the mean recall of spans over texts, as the scorer takes it."""
        precision, recall = np.nanmean(self.span_precision), np.nanmean(self.span_recall)
        return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def human_agreement(scores: Tensor, marked: Tensor, counted: Tensor, *, share: float) -> HumanAgreement:
    """How scores (N, W) agree with what is marked (N, W) bool among the words that count (N, W) bool.

    Token F1 and spans are of the ceil(share * n) words of n with the greatest scores. Raises ValueError for shapes that
    differ, and a share outside (0, 1].
    """
    if not scores.shape == marked.shape == counted.shape or scores.ndim != 2:
        got = tuple(tuple(each.shape) for each in (scores, marked, counted))
        raise ValueError(f"`scores`, `marked`, `counted`: expected three of one shape (N, W), got {got}")
    if not 0 < share <= 1:
        raise ValueError(f"`share`: expected a number above 0, up to 1, got {share}")
    predicted = counted & (ranks(scores, counted) < at_least(share, counted.sum(1))[:, None])
    rows = [
        _of_text(*(each[row][counted[row]].numpy() for each in (scores, predicted, marked)))
        for row in range(len(scores))
    ]
    token_f1, auprc, precision, recall = np.array(rows, np.float64).reshape(-1, 4).T
    return HumanAgreement(token_f1=token_f1, auprc=auprc, span_precision=precision, span_recall=recall)


def by_word(values: Tensor, word_of: Tensor) -> tuple[Tensor, Tensor]:
    """Values of tokens (N, T) summed over each word's, (N, W), and which words there are, (N, W) bool.

    >>> by_word(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[-1, 0, 0]]))
    (tensor([[5.]]), tensor([[True]]))
    """
    counted, place = word_of >= 0, word_of.clamp(min=0).long()
    words = int(word_of.max()) + 1
    sums = values.new_zeros(len(values), words).scatter_add_(1, place, values * counted)
    there = torch.zeros(len(values), words, dtype=torch.long).scatter_add_(1, place, counted.long()) > 0
    return sums, there


def spans(marked: np.ndarray) -> list[tuple[int, int]]:
    """Beginnings and ends [start, stop) of the runs of marked words.

    >>> spans(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _of_text(scores: np.ndarray, predicted: np.ndarray, marked: np.ndarray) -> tuple[float, float, float, float]:
    if not marked.any():
        return (np.nan,) * 4
    hits = int((predicted & marked).sum())
    f1 = 2 * hits / int(predicted.sum() + marked.sum())
    guessed, true = spans(predicted), spans(marked)
    found = sum(max(_iou(one, other) for other in true) >= IOU for one in guessed)
    return f1, _area(scores, marked), found / len(guessed) if guessed else 0.0, found / len(true)


def _area(scores: np.ndarray, marked: np.ndarray) -> float:
    """Trapezoid area under the precision-recall curve."""
    from sklearn.metrics import auc, precision_recall_curve

    precision, recall, _ = precision_recall_curve(marked, scores)
    return float(auc(recall, precision))


def _iou(one: tuple[int, int], other: tuple[int, int]) -> float:
    both = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return both / (one[1] - one[0] + other[1] - other[0] - both)
