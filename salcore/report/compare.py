"""Runs side by side, on the samples that both explained: what differs, and how sure that is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from salcore import statistics
from salcore.errors import UserError
from salcore.finite import finite_rows, stretches
from salcore.report.accuracy import softmax
from salcore.report.resample import bootstrap, over_members
from salcore.statistics import Estimate

if TYPE_CHECKING:
    from salcore.runs import Run

CHUNK_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One quantity of two runs, `second` - `first`, over the `samples` that both explained.

    `members` has a jackknife interval over members: it answers whether new ensembles would differ so. `over_samples` is
    a paired bootstrap over samples: it answers whether other samples would, for these very members.
    """

    quantity: str
    runs: tuple[str, str]
    values: tuple[float, float]
    members: Estimate
    over_samples: tuple[float, float]
    samples: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every run beside the first, and what is to be known before the numbers are read."""

    runs: tuple[str, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """Two runs, what they are called, and the positions `(n,)` of their common samples in each."""

    runs: tuple["Run", "Run"]
    names: tuple[str, str]
    positions: tuple[np.ndarray, np.ndarray]


def compare(runs: "Sequence[Run]") -> Comparison:
    """Compare each run with the first: debiased SNR of every method that both have, and accuracies.

    Raises UserError for fewer than 2 runs, runs without a common method or sample, and runs of other labels.
    """
    if len(runs) < 2:
        raise UserError("RUN", "two run directories or more", len(runs))
    names = _names(runs)
    found: list[Difference] = []
    notes: list[str] = []
    for run, name in zip(runs[1:], names[1:], strict=True):
        shared = [method for method in runs[0].methods if method in run.methods]
        if not shared:
            raise UserError("RUN", f"runs with a method in common; {names[0]} has {', '.join(runs[0].methods)}", name)
        for method in shared:
            pair = _paired((runs[0], run), (names[0], name), method)
            found.append(_snr(_defined(pair, method), method))
            notes += _warned(pair, method)
        found += _accuracies(
            _paired((runs[0], run), (names[0], name), max(shared, key=lambda m: _explained(runs[0], m)))
        )
    return Comparison(runs=names, differences=tuple(found), notes=tuple(dict.fromkeys(notes)))


def debiased_without(run: "Run", method: str, positions: np.ndarray) -> np.ndarray:
    """Debiased SNR `(M,)` over some samples of the ensemble without each of M members, from the maps.

    They are those with a finite map of any of the samples: without any other, the number is that of all.
    """
    count = len(run.metadata(method)["members"])
    sums, counts = np.zeros((count, 2)), np.zeros(count, bool)
    pixels = int(np.prod(run.maps(method, positions[:1].tolist()).shape[2:]))
    step = max(1, CHUNK_BYTES // (8 * count * pixels))
    for start in range(0, len(positions), step):
        chosen = positions[start : start + step].tolist()
        x = run.maps(method, chosen).astype(np.float64).reshape(count, len(chosen), -1)
        finite = np.stack([finite_rows(member) for member in x])
        counts |= finite.any(axis=1)
        for first, end in stretches(finite):
            sums += _without_each(x[:, first:end], finite[:, first])
    return statistics.debiased(sums[counts, 0], sums[counts, 1])


def _without_each(x: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Sums over samples of signal2 and noise2, `(M, 2)`, without each member, from maps `(M, n, P)`.

    Only members that are `there` `(M,)` count, so nothing changes without another; 0 where fewer than 2 are left. The
    mean of m members without one is mu - d / (m - 1), where d is how far that member's map is from their mean mu.
    """
    sums, count = np.zeros((len(x), 2)), int(there.sum())
    if count > 1:
        mean, noise2 = x[there].mean(axis=0), x[there].var(axis=0, ddof=1).sum(axis=-1)
        sums[~there] = _summed((mean**2).sum(axis=-1), noise2, count)
    if count > 2:
        deviation = x[there] - mean
        left2 = statistics.noise2_without(noise2, (deviation**2).sum(axis=-1), count)
        sums[there] = _summed(((mean - deviation / (count - 1)) ** 2).sum(axis=-1), left2, count - 1)
    return sums


def _summed(mean2: np.ndarray, noise2: np.ndarray, members: int) -> np.ndarray:
    """Sums over samples of signal2 and noise2, `(..., 2)`, from squares `(..., n)` of the mean's norm and the noise."""
    return np.stack([statistics.signal2(mean2, noise2, members).sum(axis=-1), noise2.sum(axis=-1)], axis=-1)


def _snr(pair: _Pair, method: str) -> Difference:
    columns = [
        (run.column(method, "signal2")[positions], run.column(method, "noise2")[positions])
        for run, positions in zip(pair.runs, pair.positions, strict=True)
    ]
    first, second = (float(statistics.debiased(signal2.sum(), noise2.sum())) for signal2, noise2 in columns)

    def drawn(counts: np.ndarray) -> np.ndarray:
        a, b = (statistics.debiased(counts @ signal2, counts @ noise2) for signal2, noise2 in columns)
        return b - a

    without = [debiased_without(run, method, at) for run, at in zip(pair.runs, pair.positions, strict=True)]
    return Difference(
        quantity=f"Debiased SNR, {method}",
        runs=pair.names,
        values=(first, second),
        members=over_members(without[0], without[1], second - first),
        over_samples=bootstrap(drawn, len(pair.positions[0])),
        samples=len(pair.positions[0]),
    )


def _accuracies(pair: _Pair) -> Iterator[Difference]:
    """Accuracy of a member on average, and of the ensemble; nothing where no common sample has a label."""
    loaded = [run.logits() for run in pair.runs]
    labels = loaded[0][0][pair.positions[0]]
    known = labels >= 0
    if not known.any():
        return
    logits = [z[:, at[known]] for (_, z), at in zip(loaded, pair.positions, strict=True)]
    labels = labels[known]
    members = [(z.argmax(-1) == labels).astype(np.float64) for z in logits]
    single = [(right.sum(0, keepdims=True) - right) / max(1, len(right) - 1) for right in members]
    yield _rightness("Accuracy of a member", pair, [right.mean(0) for right in members], [s.mean(1) for s in single])
    whole = [_ensemble_right(z, labels) for z in logits]
    yield _rightness("Accuracy of the ensemble", pair, [right[0] for right in whole], [w[1:].mean(1) for w in whole])


def _rightness(quantity: str, pair: _Pair, right: list[np.ndarray], without: list[np.ndarray]) -> Difference:
    """A difference of means over samples: `right` `(n,)` of each run, and means `(M,)` without each member."""
    first, second = (float(values.mean()) for values in right)
    gain = right[1] - right[0]
    return Difference(
        quantity=quantity,
        runs=pair.names,
        values=(first, second),
        members=over_members(without[0], without[1], second - first),
        over_samples=bootstrap(lambda counts: counts @ gain / len(gain), len(gain)),
        samples=len(gain),
    )


def _ensemble_right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the mean softmax is right, `(1 + M, n)`: of all members first, then without each of them."""
    total = np.zeros(logits.shape[1:])
    for member in logits:
        total += softmax(member)
    rest = [(total - softmax(member)).argmax(-1) == labels for member in logits] if len(logits) > 1 else []
    return np.array([total.argmax(-1) == labels, *rest], np.float64)


def _paired(runs: "tuple[Run, Run]", names: tuple[str, str], method: str) -> _Pair:
    first, second = (run.column(method, "sample") for run in runs)
    common, at_first, at_second = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    if not len(common):
        raise UserError("RUN", f"runs that explain some of the same samples by {method}", f"{names[0]} and {names[1]}")
    labels = [run.column(method, "label")[at] for run, at in zip(runs, (at_first, at_second), strict=True)]
    if not np.array_equal(labels[0], labels[1]):
        raise UserError(
            "RUN", "runs of the same data set (the same samples have other labels)", f"{names[0]} and {names[1]}"
        )
    return _Pair(runs=runs, names=names, positions=(at_first, at_second))


def _defined(pair: _Pair, method: str) -> _Pair:
    """The samples with a noise in both runs: with finite maps of 2 members. All of them where there are none."""
    first, second = pair.positions
    noise2 = pair.runs[0].column(method, "noise2")[first] + pair.runs[1].column(method, "noise2")[second]
    known = ~np.isnan(noise2)
    return replace(pair, positions=(first[known], second[known])) if known.any() else pair


def _warned(pair: _Pair, method: str) -> Iterator[str]:
    """What stands in the way of a fair comparison."""
    first, second = pair.runs
    if first.spec.data.name != second.spec.data.name:
        yield f"Other data sets: {pair.names[0]} has {first.spec.data.name}, {pair.names[1]} {second.spec.data.name}."
    targets = [run.column(method, "target")[at] for run, at in zip(pair.runs, pair.positions, strict=True)]
    if not np.array_equal(targets[0], targets[1]):
        yield f"{method}: {pair.names[1]} explains other classes of some samples than {pair.names[0]}."
    settings = [next(m for m in run.spec.attribution.methods if m.folder == method) for run in pair.runs]
    if (settings[0].name, settings[0].settings) != (settings[1].name, settings[1].settings):
        yield f"{method}: {pair.names[1]} has other settings of it than {pair.names[0]}."
    most = max(_explained(run, method) for run in pair.runs)
    both = f"{pair.names[0]} and {pair.names[1]}"
    if len(pair.positions[0]) < most:
        yield f"{method}: {len(pair.positions[0])} samples are common to {both}, of up to {most}."
    if lost := len(pair.positions[0]) - len(_defined(pair, method).positions[0]):
        yield f"{method}: {lost} common samples lack finite maps of 2 members in one of {both}: they are left out."


def _explained(run: "Run", method: str) -> int:
    return len(run.column(method, "sample"))


def _names(runs: "Sequence[Run]") -> tuple[str, ...]:
    """Names of the directories, numbered where two are alike."""
    names = [PurePosixPath(str(run.store)).name for run in runs]
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{place}:{name}" for place, name in enumerate(names, 1))
