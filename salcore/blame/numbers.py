"""The numbers behind the claims: curves over filters, with 95 % intervals of a bootstrap over samples.

Members misclassify many of the same samples, so a sample with all its rows is what is drawn. The intervals are for
these members: they answer whether other samples would show the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from salcore.blame.experiments import CHOICES, LAYERS
from salcore.blame.results import Blame, column
from salcore.parameter_space.layers import by_depth, depth_contrast
from salcore.parameter_space.masking import paired_test
from salcore.parameter_space.pruning import Mode
from salcore.statistics import Estimate

Measure = Literal["incorrect", "true", "corrected", "neighbours_corrected", "neighbours_true"]

MODE_NAMES: dict[Mode, str] = {
    "paper": "as the paper prunes: the filter's weights and the shift of the batch-norm that follows are zero",
    "silenced": "silenced: the filter's channel is exactly zero, after the batch-norm that follows too",
}
MEASURES: dict[Measure, str] = {
    "incorrect": "change of the incorrect class's confidence",
    "true": "change of the true class's confidence",
    "corrected": "share of mistakes corrected",
}
TUNED: dict[Measure, str] = {
    "corrected": "share of the samples stepped on that are corrected",
    "neighbours_corrected": "share of their neighbours corrected",
    "neighbours_true": "change of the neighbours' true class's confidence",
}
"""What each measure is called."""

DRAWS = 1000
UNKNOWN = Estimate(value=np.nan, low=np.nan, high=np.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Values (R, B) of R rows, each of a sample (R,); several rows are of one sample where members share a mistake."""

    sample: np.ndarray
    values: np.ndarray

    def __sub__(self, other: "Rows") -> "Rows":
        """The difference row by row, for rows of the same samples and members. Raises ValueError for others."""
        if not np.array_equal(self.sample, other.sample):
            raise ValueError("`other`: expected rows of the same samples")
        return Rows(sample=self.sample, values=self.values - other.values)

    def average(self) -> Estimate:
        """The mean over all columns and rows, with its interval."""
        (found,) = over_samples(self.sample, self.values.mean(1, keepdims=True))
        return found

    def mean(self) -> list[Estimate]:
        """The mean of each column over all rows, with its interval; NaN ends for fewer than 2 samples."""
        return over_samples(self.sample, self.values)


def over_samples(sample: np.ndarray, values: np.ndarray) -> list[Estimate]:
    """Means of values (R, B) over rows, with 95 % percentile intervals of a bootstrap that draws whole samples.

    NaN values are left out. Source: The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982), chapter 10.

    >>> over_samples(np.array([7, 7, 9]), np.array([[0.0], [1.0], [0.5]]))[0].value
    0.5
    """
    means, drawn = _drawn(sample, values)
    return [_estimate(mean, ends) for mean, ends in zip(means.tolist(), drawn.T, strict=True)]


def difference(sample: np.ndarray, values: np.ndarray) -> Estimate:
    """The mean of column 0 less that of column 1 of (R, 2), each over its own finite rows, with such an interval."""
    means, drawn = _drawn(sample, values)
    return _estimate(float(means[0] - means[1]), drawn[:, 0] - drawn[:, 1])


def unit(measure: Measure) -> str:
    """What an axis of a measure is called."""
    return "share" if "corrected" in measure else "change of confidence"


def pruned(blame: Blame, mode: Mode, measure: Measure) -> dict[str, Rows]:
    """What turning filters off does, by choice: a column for each of `parameters.pruned`."""
    return {choice: _rows(blame, "pruning", measure, choice=choice, mode=mode) for choice in CHOICES}


def tuned(blame: Blame, measure: Measure) -> tuple[dict[str, Rows], Rows]:
    """What one step does, by choice: a column for each of `parameters.tuned`; and that of the whole network's."""
    choices: dict[str, Rows] = {choice: _rows(blame, "finetuning", measure, choice=choice) for choice in CHOICES}
    return choices, _rows(blame, "finetuning", measure, choice="network")


@dataclass(frozen=True, kw_only=True)
class Shared:
    """How often neighbours of a mistake were mistaken between the same two classes.

    `chance` is the share of all samples that were, `of_mistakes` that of all mistakes, and `beyond` by how much the
    neighbours' share lies above the latter, mistake by mistake.
    """

    neighbours: Estimate
    chance: float
    of_mistakes: float
    beyond: Estimate


def neighbours_share_pair(blame: Blame) -> dict[str, Shared]:
    """How often neighbours share the pair of classes, by the filters that they were searched by."""
    known = set(column(blame.table("neighbours", blame.has("neighbours")[0]), "layers"))
    found = {}
    for name in (each for each in LAYERS if each in known):
        shared, chance, of_mistakes = (
            _rows(blame, "neighbours", what, layers=name) for what in ("same_pair", "chance", "chance_of_mistakes")
        )
        means = {"neighbours": shared, "beyond": shared - of_mistakes}
        estimates = {
            what: over_samples(rows.sample, rows.values.mean(1, keepdims=True))[0] for what, rows in means.items()
        }
        found[name] = Shared(
            **estimates, chance=float(chance.values.mean()), of_mistakes=float(of_mistakes.values.mean())
        )
    return found


def gain_at_best(first: Rows, second: Rows) -> Estimate:
    """By how much the greatest column mean of one lies above that of the other, each at its own best.

    Both bests are taken anew in every draw of samples: where nothing differs, the search favours neither.
    """
    (means, drawn), (others, drawn_others) = (_drawn(rows.sample, rows.values) for rows in (first, second))
    return _estimate(float(means.max() - others.max()), drawn.max(1) - drawn_others.max(1))


def salience(blame: Blame) -> Estimate:
    """By how much the mean standardised profile of wrong samples lies above that of right ones."""
    return _wrong_less_right(blame, lambda table: column(table, "mean"))


def relative_deviations(blame: Blame) -> tuple[float, float]:
    """The median filter's deviation over its mean, in the early and in the deep half of the layers.

    Where it is great, the filter answers to few samples, such as those of one class, and standardising makes little of
    what it says of a mistake. NaN for a network of one layer.
    """
    found = [blame.statistics(member) for member in blame.members]
    ratio = np.mean([each.deviation / np.where(each.mean > 0, each.mean, np.nan) for each in found], axis=0)
    layers = [np.nanmedian(ratio[where]) for _, where in by_depth(blame.filters)]
    half = (len(layers) + 1) // 2
    return (float(np.mean(layers[:half])), float(np.mean(layers[half:]))) if len(layers) > 1 else (np.nan, np.nan)


def depth(blame: Blame) -> Estimate:
    """By how much deeper the profiles of wrong samples lie than those of right ones: deep half less early half.

    Unknown for a network of one layer.
    """
    filters = blame.filters
    if len(by_depth(filters)) < 2:
        return UNKNOWN
    return _wrong_less_right(blame, lambda table: depth_contrast(column(table, "layers"), filters))


def depth_of(blame: Blame, kind: Literal["right", "wrong"]) -> Estimate:
    """How much more the standardised profiles of right or wrong samples lie in the deep half than in the early one."""
    filters = blame.filters
    if len(by_depth(filters)) < 2:
        return UNKNOWN
    samples, values = [], []
    for member in blame.members:
        table = blame.table("layers", member)
        kept = (column(table, "label") != column(table, "prediction")) == (kind == "wrong")
        samples.append(column(table, "sample")[kept])
        values.append(depth_contrast(column(table, "layers")[kept], filters))
    return over_samples(np.concatenate(samples), np.concatenate(values)[:, None])[0]


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Mean changes of confidences when pixels are masked, with their intervals and the p of a paired t test."""

    incorrect: Estimate
    incorrect_p: float
    true: Estimate
    true_p: float
    corrected: Estimate
    salience: Estimate


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """By how much more the salient pixels change both confidences than the random ones, with p of a paired t test."""

    incorrect: Estimate
    incorrect_p: float
    true: Estimate
    true_p: float


def masking_tests(blame: Blame) -> dict[str, Masked]:
    """What masking the salient and as many random pixels does, by kind. `salience` is that of the filters, in shares.

    A sample that several members mistake counts once in the test, with the mean of its changes.
    """
    tables = [blame.table("masking", member) for member in blame.has("masking")]
    sample = np.concatenate([column(table, "sample") for table in tables])

    def of(name: str) -> np.ndarray:
        return np.concatenate([column(table, name) for table in tables]).astype(np.float64)

    found = {}
    for kind in ("salient", "random"):
        changes = {name: of(f"{kind}_{name}") for name in ("incorrect", "true", "corrected")}
        before = of("salience")
        changes["salience"] = np.divide(of(f"{kind}_salience") - before, before, where=before > 0, out=before * np.nan)
        estimates = {name: over_samples(sample, values[:, None])[0] for name, values in changes.items()}
        found[kind] = Masked(
            **estimates,
            incorrect_p=paired_test(_by_sample(sample, changes["incorrect"])).p,
            true_p=paired_test(_by_sample(sample, changes["true"])).p,
        )
    return found


def masking_contrast(blame: Blame) -> Contrast:
    """What masking salient pixels changes beyond masking random ones, mistake by mistake."""
    tables = [blame.table("masking", member) for member in blame.has("masking")]
    sample = np.concatenate([column(table, "sample") for table in tables])
    changes = {
        what: np.concatenate([column(table, f"salient_{what}") - column(table, f"random_{what}") for table in tables])
        for what in ("incorrect", "true")
    }
    estimates = {what: over_samples(sample, more.astype(np.float64)[:, None])[0] for what, more in changes.items()}
    p = {what: paired_test(_by_sample(sample, more.astype(np.float64))).p for what, more in changes.items()}
    return Contrast(
        incorrect=estimates["incorrect"], incorrect_p=p["incorrect"], true=estimates["true"], true_p=p["true"]
    )


def _by_sample(sample: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values (R,) of each sample."""
    _, place = np.unique(sample, return_inverse=True)
    return np.bincount(place, values) / np.bincount(place)


def _wrong_less_right(blame: Blame, of: Callable[[pa.Table], np.ndarray]) -> Estimate:
    """The mean of a number over all members' wrong samples less that over their right ones."""
    samples, values = [], []
    for member in blame.members:
        table = blame.table("layers", member)
        wrong = column(table, "label") != column(table, "prediction")
        samples.append(column(table, "sample"))
        values.append(np.stack([np.where(wrong, of(table), np.nan), np.where(wrong, np.nan, of(table))], axis=1))
    return difference(np.concatenate(samples), np.concatenate(values))


def _drawn(sample: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the columns of (R, B) over their finite rows, (B,), and the same of each draw of samples, (D, B).

    The draws are NaN for fewer than 2 samples.
    """
    numbers, place = np.unique(sample, return_inverse=True)
    known = np.isfinite(values)
    sums, sizes = (np.zeros((len(numbers), values.shape[1])) for _ in range(2))
    np.add.at(sums, place, np.where(known, values, 0))
    np.add.at(sizes, place, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum(0) / sizes.sum(0)
        if len(numbers) < 2:
            return means, np.full((DRAWS, len(means)), np.nan)
        shares = np.full(len(numbers), 1 / len(numbers))
        counts = np.random.default_rng(0).multinomial(len(numbers), shares, DRAWS)
        return means, (counts @ sums) / (counts @ sizes)


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    """A value with the middle 95 % of its draws; draws without a sample of a kind are left out. NaN ends for none."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return Estimate(value=value, low=float(low), high=float(high))


def _rows(blame: Blame, what: str, measure: str, **chosen: str) -> Rows:
    """One measure of an experiment over all members: a row for each mistake, its rows of the table side by side."""
    samples, values = [], []
    if not blame.has(what):
        raise ValueError(f"`blame`: expected a run with {what}: see parameters.experiments")
    for member in blame.has(what):
        table = blame.table(what, member)
        keep = np.logical_and.reduce([column(table, name) == value for name, value in chosen.items()])
        sample, found = column(table, "sample")[keep], column(table, measure)[keep].astype(np.float64)
        mistakes = len(np.unique(sample))
        samples.append(sample.reshape(mistakes, -1)[:, 0])
        values.append(found.reshape(mistakes, -1))
    return Rows(sample=np.concatenate(samples), values=np.concatenate(values))
