"""Faithfulness of the maps that a run directory holds: of each member's own, and of the ensemble's mean map.

A member is loaded once for all that is measured of it, and its maps are read one member at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from salcore.faithfulness.named import MEASURES, Subject, check_name
from salcore.tokens import embedded

if TYPE_CHECKING:
    from salcore.data import Data, Part
    from salcore.runs import Run


Key = tuple[str | None, str]
"""A method, None for random rankings, and a measure."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A measure of one method's maps: of each member's own, of the mean map on each member, and what they are read off.

    `members` are their indices, in order, `samples` the number measured. `of_mean` is one value where no network is
    asked, and empty for random rankings. `results` and `of_mean_results` are what the measure's function gave, such as
    curves. For intervals over members: `over_members(own)`, `paired(of_mean, own)`.
    """

    name: str
    method: str | None
    better: Literal["higher", "lower"]
    members: tuple[int, ...]
    samples: int
    own: tuple[float, ...]
    of_mean: tuple[float, ...]
    results: tuple[Any, ...]
    of_mean_results: tuple[Any, ...]


def measure(
    run: Run,
    method: str | None,
    name: str,
    *,
    samples: int | None = None,
    seed: int = 0,
    data: Data | None = None,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> Measured:
    """One measure of one method's maps in a run: see `measures`. Further settings go to the measure's function.

    >>> import salcore
    >>> measure(salcore.open("runs/fashion"), "gradient", "accuracy_drop").own  # doctest: +SKIP
    """
    found = measures(
        run, [method], [name], samples=samples, seed=seed, data=data, device=device, settings={name: settings}
    )
    return found[method, name]


def measures(
    run: Run,
    methods: Sequence[str | None],
    names: Sequence[str],
    *,
    samples: int | None = None,
    seed: int = 0,
    data: Data | None = None,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[Key, Measured]:
    """Measures, names of `MEASURES`, of methods' maps in a run that is reduced, by (method, name).

    A method of None is random rankings. Of the evaluation samples the first `samples` are taken (None: all that the
    method explains), without those of which any member's map is not finite. `data` is the run's, where it is loaded
    already; `settings` go to the functions, by the measure's name. Maps are measured as they are stored: whether they
    explain the label or the prediction is `attribution.target`.

    Raises ValueError for an unknown name or method, a measure that this data cannot have (`comprehensiveness` is of
    texts, `aup` needs informative cells that are known), other data than the run's, less than one sample, and where
    none is left.
    """
    data = _checked(run, run.data() if data is None else data)
    subjects: dict[bytes, Subject] = {}
    plans = [_plan(run, data, method, samples, subjects) for method in methods]
    for plan, name in product(plans, names):
        check_name(name, plan.subject, random=plan.method is None)
    chosen = {name: {"seed": seed, **(settings or {}).get(name, {})} for name in names}
    own: dict[Key, list[Any]] = {(plan.method, name): [] for plan in plans for name in names}
    of_mean: dict[Key, list[Any]] = {key: [] for key in own}
    for index, model in _networks(run, data, device):
        for plan in plans:
            if index not in plan.members:
                continue
            maps, subject = _maps(run, plan, index), _as_taken(plan.subject, model)
            for name in names:
                asked, key = MEASURES[name], (plan.method, name)
                own[key].append(asked.of(model, subject, maps, **chosen[name]))
                if plan.mean is not None and (asked.asks_network or not of_mean[key]):
                    of_mean[key].append(asked.of(model, subject, plan.mean, **chosen[name]))
    return {
        (plan.method, name): _measured(plan, name, own[plan.method, name], of_mean[plan.method, name])
        for plan, name in product(plans, names)
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """One method's maps in a run: which members and samples have them, and the mean map (N, ...) of these samples."""

    method: str | None
    members: tuple[int, ...]
    kept: np.ndarray
    mean: Tensor | None
    subject: Subject


def _plan(run: Run, data: Data, method: str | None, samples: int | None, subjects: dict[bytes, Subject]) -> _Plan:
    """The plan of one method; `subjects` are those of other methods, which mostly explain the same samples."""
    if samples is not None and samples < 1:
        raise ValueError(f"`samples`: expected at least 1, got {samples}")
    if method is None:
        kept, members = np.arange(len(data.evaluation))[:samples], run.members
    else:
        count = run.column(method, "count")[:samples]
        members = tuple(run.metadata(method)["members"])
        kept = np.flatnonzero(count == len(members))
    if not len(kept):
        raise ValueError(f"`method`: expected one with samples whose maps are all finite, got {method!r}")
    mean = None if method is None else torch.from_numpy(run.mean(method)[kept])
    subject = subjects.get(kept.tobytes()) or subjects.setdefault(kept.tobytes(), _subject(data, kept))
    return _Plan(method=method, members=members, kept=kept, mean=mean, subject=subject)


def _maps(run: Run, plan: _Plan, member: int) -> Tensor | None:
    """One member's maps of the samples, (N, ...); None of random rankings."""
    return None if plan.method is None else torch.from_numpy(run.member_maps(plan.method, member, plan.kept))


def _networks(run: Run, data: Data, device: str | torch.device) -> Iterator[tuple[int, nn.Module]]:
    """Every trained member's index and network, loaded when its turn comes."""
    from salcore.borrowed import members_of
    from salcore.member_files import load_member

    for member in members_of(run.spec, run.store):  # what their records tell is all that loading asks for
        if member.index in run.members:
            yield member.index, load_member(run.store, member, data).to(device)


def _subject(data: Data, places: np.ndarray) -> Subject:
    """The evaluation samples at these places of their order."""
    from salcore.data.batches import inputs_of

    part = data.evaluation
    rows = part.index[places]
    inputs, valid = inputs_of(part, rows, data)
    return Subject(
        kind=data.kind,
        inputs=inputs,
        labels=torch.from_numpy(part.labels[rows].astype(np.int64)),
        valid=valid,
        query=_kept(part, rows),
        informative=None if part.informative is None else torch.from_numpy(part.informative[rows]),
    )


def _kept(part: Part, rows: np.ndarray) -> Tensor | None:
    """What is always kept of texts: their queries' lengths (n,), or of tokens a mask (n, T); None where nothing is."""
    query = None if part.query is None else torch.from_numpy(part.query[rows].astype(np.int64))
    if part.word_of is None:
        return query
    wordless = torch.from_numpy(part.word_of[rows] < 0)
    return wordless if query is None else wordless | (torch.arange(wordless.shape[1]) < query[:, None])


def _as_taken(subject: Subject, model: nn.Module) -> Subject:
    """The subject as this model takes it: tokens as its embeddings of them."""
    if subject.inputs.is_floating_point():
        return subject
    device = next(model.parameters()).device
    return replace(subject, inputs=embedded(model, subject.inputs.to(device)).cpu())


def _measured(plan: _Plan, name: str, results: list[Any], of_mean: list[Any]) -> Measured:
    value = MEASURES[name].value
    return Measured(
        name=name,
        method=plan.method,
        better=MEASURES[name].better,
        members=plan.members,
        samples=len(plan.subject.inputs),
        own=tuple(value(result) for result in results),
        of_mean=tuple(value(result) for result in of_mean),
        results=tuple(results),
        of_mean_results=tuple(of_mean),
    )


def _checked(run: Run, data: Data) -> Data:
    digest = run.fingerprints.get("data", data.digest)
    if data.digest != digest:
        raise ValueError(f"`data`: expected the data of {run.store}, digest {digest[:8]}, got {data.digest[:8]}")
    return data
