"""How often members and their ensemble are right, and how sure the ensemble is, from logits alone."""

from dataclasses import dataclass

import numpy as np

from salcore.statistics import Estimate, jackknife


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of right predictions over the labelled evaluation samples.

    `members` by index; `ensemble` is that of the mean softmax, with a jackknife interval over members; `guessing` that
    of always naming the most frequent class; `at_chance` the members that are not clearly better than that, which
    nobody is called where not even a member that is always right would be.
    """

    members: dict[int, float]
    ensemble: Estimate
    guessing: float
    at_chance: tuple[int, ...]
    samples: int

    @property
    def tells_chance(self) -> bool:
        """Whether a member that is always right is clearly better than guessing: not with too few samples."""
        return _clearly_better(self.guessing, self.samples) < 1


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z_k) / sum_j exp(z_j) along the last axis, in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def accuracy(members: tuple[int, ...], labels: np.ndarray, logits: np.ndarray) -> Accuracy | None:
    """Accuracies from labels `(N,)` and logits `(M, N, K)`; labels of -1 do not count. None if there are no others.

    A member is at chance if its accuracy is below that of guessing plus three binomial standard errors. Where that is 1
    or more, with few samples outside the largest class, none is: a member that is always right would be too.
    """
    known = labels >= 0
    count = int(known.sum())
    if not count:
        return None
    labels, logits = labels[known], logits[:, known]
    right = (logits.argmax(axis=-1) == labels).mean(axis=1)
    guessing = float(np.bincount(labels).max() / count)
    limit = _clearly_better(guessing, count)
    at_chance = tuple(m for m, share in zip(members, right, strict=True) if share < limit < 1)
    return Accuracy(
        members={m: float(share) for m, share in zip(members, right, strict=True)},
        ensemble=ensemble_accuracy(labels, logits),
        guessing=guessing,
        at_chance=at_chance,
        samples=count,
    )


def _clearly_better(guessing: float, samples: int) -> float:
    """The accuracy from which on a member is clearly better than guessing: by three binomial standard errors."""
    return guessing + 3 * float(np.sqrt(guessing * (1 - guessing) / samples))


def ensemble_accuracy(labels: np.ndarray, logits: np.ndarray) -> Estimate:
    """Accuracy of the mean softmax over members, with the jackknife interval over members; shares in [0, 1]."""
    total = np.zeros(logits.shape[1:])
    for member in logits:
        total += softmax(member)
    value = float((total.argmax(axis=-1) == labels).mean())
    if len(logits) < 2:
        return Estimate(value=value, low=np.nan, high=np.nan)
    without = [((total - softmax(member)).argmax(axis=-1) == labels).mean() for member in logits]
    interval = jackknife(value, np.array(without))
    return Estimate(value=value, low=max(interval.low, 0.0), high=min(interval.high, 1.0))


def ensemble_probabilities(logits: np.ndarray) -> np.ndarray:
    """Mean softmax over members, `(N, K)`."""
    total = np.zeros(logits.shape[1:])
    for member in logits:
        total += softmax(member)
    return total / len(logits)


def confidence(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability `(N,)` of each sample's label, or the largest one where the label is -1."""
    known = labels >= 0
    chosen = np.where(known, labels, probabilities.argmax(axis=-1))
    return np.take_along_axis(probabilities, chosen[:, None].astype(np.int64), axis=-1)[:, 0]
