"""One trial of a search: a small ensemble at one setting, in a run directory of its own like any other."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from salcore import faithfulness, inventory, layout, members
from salcore.data import Data
from salcore.errors import UserError
from salcore.explain import read_predictions
from salcore.layout import LOGITS, Range, member_folder, part_file
from salcore.member_files import train_member, trained
from salcore.members import Member
from salcore.runs import Run
from salcore.search import goal, record, stages
from salcore.search.record import UNKNOWN, MemberRow, Record
from salcore.search.settings import Setting, name_of, spec_of
from salcore.spec import SearchSpec, Spec
from salcore.statistics import Estimate
from salcore.storage import Store
from salcore.work import range_digest

FOLDER = "trials"
VERSION = 1
"""Of what a record holds and how it is measured: a trial of another version is measured again."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial is: its setting (None: standard training), the ensemble's spec, and the folder it lies in.

    `fingerprint` is of all that its record follows from.
    """

    name: str
    setting: Setting | None
    spec: Spec
    store: Store
    fingerprint: str

    @classmethod
    def of(cls, setting: Setting | None, spec: Spec, data: Data, home: Store) -> "Trial":
        """The trial of a setting in the search `spec`, every default of which is written out, in folder `home`."""
        own, name, attention = spec_of(spec, setting), name_of(setting), spec.training.objective == "attention"
        samples = Range(part=0, start=0, stop=len(data.evaluation))
        fingerprint = members.fingerprint(
            VERSION,
            members.recipe(own, data.digest),
            own.ensemble.members,
            own.attribution.model_dump(mode="json", by_alias=True, exclude={"keep_maps"}),
            range_digest(data, samples),
            [spec.search.faithfulness, method_of(spec), spec.search.samples],
            *([each.taught_by for each in members.plan(own, data.digest)] if setting and attention else []),
        )
        return cls(name=name, setting=setting, spec=own, store=home.child(f"{FOLDER}/{name}"), fingerprint=fingerprint)


def method_of(spec: Spec) -> str:
    """The folder of the method whose faithfulness is measured. Raises UserError if the spec has no such method."""
    folders = [method.folder for method in spec.attribution.methods]
    if spec.search.method is not None and spec.search.method not in folders:
        raise UserError("search.method", f"one of attribution.methods ({', '.join(folders)})", spec.search.method)
    return spec.search.method or folders[0]


def run(
    trial: Trial, search: SearchSpec, data: Data, *, standard: Store | None = None, device: str | torch.device = "cpu"
) -> Iterator[Record]:
    """Train, explain, reduce and measure a trial; yields its record after every member.

    The last one says how the trial ended, and stands on storage; those before say what the trial would be if it were
    stopped there, with numbers only where `search.asha` asks for them. What is on storage already is not done again.
    `standard` is the folder of standard training. Whatever the trial raises fails it: the reason is in its record.
    Raises OSError if storage fails, and torch.AcceleratorError if the GPU does: it takes no more work of this process.
    The folder must hold the trial's spec.yaml.
    """
    try:
        yield from _members_in_turn(trial, search, data, standard, device)
    except (OSError, torch.AcceleratorError):
        raise  # not this trial: whoever runs the others must hear of it
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        yield fail(trial, reason)


def fail(trial: Trial, reason: str) -> Record:
    """Record that a trial failed."""
    failed = Record(
        name=trial.name, setting=trial.setting, fingerprint=trial.fingerprint, state="failed", reason=reason
    )
    record.write(trial.store, failed)
    return failed


def over(trial: Trial, data: Data) -> Record | None:
    """The record of a trial that is over; None if it is of something else, or any of its files is gone or damaged."""
    found = record.read(trial.store)
    if found is None or found.fingerprint != trial.fingerprint:
        return None
    there = members.plan(trial.spec, data.digest)[: len(found.members)]
    if not all(trained(trial.store, member) for member in there):
        return None
    lacking = inventory.take(trial.store, trial.spec, data, there)
    return None if lacking.missing or lacking.problems else found


def _members_in_turn(
    trial: Trial, search: SearchSpec, data: Data, standard: Store | None, device: str | torch.device
) -> Iterator[Record]:
    planned = members.plan(trial.spec, data.digest)
    compared = search.asha and trial.setting is not None
    scores: tuple[float, ...] = ()
    for count, member in enumerate(planned, 1):
        outcome = train_member(member, data, trial.store, device=device)
        if outcome.reason is not None:
            yield fail(trial, f"member {member.index}: {outcome.reason}")
            return
        last, so_far = count == len(planned), planned[:count]
        state: Literal["finished", "stopped"] = "finished" if last else "stopped"
        if last or compared:
            found = _measured(trial, search, data, so_far, device)
        else:
            found = _record(
                trial, [MemberRow(member=each.index, accuracy=math.nan, faithfulness=math.nan) for each in so_far]
            )
        if compared:
            scores += (goal.score(found, record.read(standard) if standard else None, search),)
        found = replace(found, state=state, scores=scores)
        if last:
            record.write(trial.store, found)
        yield found


def _measured(
    trial: Trial, search: SearchSpec, data: Data, chosen: Sequence[Member], device: str | torch.device
) -> Record:
    """The metrics of the first members of a trial, from maps that are made and reduced here."""
    store, spec = trial.store, trial.spec
    stages.reduce(store, spec, chosen, stages.explain(store, spec, data, chosen, device=device))
    run = Run(store.uri)
    method = search.method or spec.attribution.methods[0].folder
    areas = faithfulness.measure(run, method, search.faithfulness, samples=search.samples, data=data, device=device).own
    rows = [
        MemberRow(member=member.index, accuracy=_accuracy(store, spec, data, member), faithfulness=area)
        for member, area in zip(chosen, areas, strict=True)
    ]
    return _record(trial, rows, snr=_snr(run))


def _record(trial: Trial, rows: Sequence[MemberRow], snr: Estimate = UNKNOWN) -> Record:
    return Record(
        name=trial.name,
        setting=trial.setting,
        fingerprint=trial.fingerprint,
        state="finished",
        accuracy=faithfulness.over_members([row.accuracy for row in rows]),
        snr_debiased=snr,
        faithfulness=faithfulness.over_members([row.faithfulness for row in rows]),
        members=tuple(rows),
    )


def _snr(run: Run) -> Estimate:
    """Debiased SNR of the first method, with its jackknife interval over members."""
    row = run.summary.to_pylist()[0]
    return Estimate(value=row["snr_debiased"], low=row["snr_debiased_low"], high=row["snr_debiased_high"])


def _accuracy(store: Store, spec: Spec, data: Data, member: Member) -> float:
    """Share of the labelled evaluation samples that a member classifies rightly; NaN where none has a label."""
    right = []
    for part in layout.ranges(len(data.evaluation), spec.attribution.shard_samples):
        found = read_predictions(store, f"{member_folder(member.index)}/{LOGITS}/{part_file(part.part)}")
        assert found is not None, "explaining writes the logits"
        right.append((found.prediction == found.label)[found.label >= 0])
    hits = np.concatenate(right)
    return float(hits.mean()) if len(hits) else math.nan
