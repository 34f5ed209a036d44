"""Several ensembles at once, as studies need them: trained in one pool of slots, then explained one after the other.

Each has a run directory of its own that any other command takes, named by what its members are, so that two studies
that need the same ensemble share it. Such a run only grows: a study that asks for fewer members or other methods adds
to it and takes nothing away.
"""

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

import salcore
from cluster import start, train
from cluster.source import Source
from jobs import command, session, stages
from jobs.command import Command
from jobs.lock import Lock
from jobs.outlook import describe, estimate, map_shapes
from jobs.prepare import Plan, begin, prepare
from jobs.progress import Progress
from salcore import layout
from salcore.complete import complete
from salcore.data import Data
from salcore.errors import UserError
from salcore.members import fingerprint
from salcore.spec import ClusterSpec, MethodSpec, Spec
from salcore.storage import Store


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One ensemble: what a study calls it, its command, and its plan."""

    name: str
    command: Command
    plan: Plan


def plan(specs: Mapping[str, Spec], folder: str, *, shared: bool = True, retry_failed: bool = False) -> list[Asked]:
    """The ensembles of these specs in `folder`, checked, under the names given. Raises UserError.

    `shared` directories are named by what their members are, and grow; others are named as the specs are.
    """
    loaded: dict[str, Data] = {}
    asked = []
    for name, spec in specs.items():
        spec = _shared(spec, folder) if shared else spec
        key = spec.data.model_dump_json()
        wanted = Command(spec=spec, store=Store(f"{folder}/{spec.name}"), plan=False, retry_failed=retry_failed)
        asked.append(_asked(name, wanted, loaded.get(key)))
        loaded[key] = asked[-1].plan.data  # one copy of a set that many ensembles are of
    return asked


def told(asked: Sequence[Asked]) -> str:
    """What would be done, and an estimate of the time."""
    return "\n\n".join(
        f"{each.name}\n{describe(each.plan, map_shapes(each.plan))}\n{estimate(each.plan)}" for each in asked
    )


def finished(each: Asked) -> bool:
    """Whether nothing is left to do for an ensemble."""
    return session.finished(each.plan, session.ALL, retry_failed=each.command.retry_failed)


def run(asked: Sequence[Asked]) -> int:
    """Train, explain, reduce and report every ensemble; returns the worst exit status. Raises UserError, Broken."""
    left, statuses, joined = [], [], start.joined()
    for each in asked:
        if finished(each):
            print(f"{each.name} is finished: {each.plan.store}", flush=True)
            statuses.append(session.status(each.plan))
        else:
            left.append(each)
    try:
        if left:
            start.start()  # before the first run, so that it stays up from one to the next
            _train_together(left)
        for place, each in enumerate(left, 1):
            print(f"\nensemble {place} of {len(left)}: {each.name}", flush=True)
            statuses.append(session.carry_out(each.command, each.plan))
    finally:
        if not joined:
            start.stop()
    return max(statuses)


def place_of(spec: Spec, folder: str) -> str:
    """Run directory of an ensemble: what it is trained on and how, and nothing that a run may change as it grows."""
    whole = complete(spec)
    data = _told(whole.data, {"eval_samples", "root", "mirror"})
    kept, training = _told(whole.ensemble, {"members", "until"}), _told(whole.training, set())
    parts = data, whole.model.model_dump(mode="json"), kept, training
    words = re.sub(r"[^A-Za-z0-9]+", "_", f"{spec.data.name.rsplit('/', 1)[-1]}_{spec.model.name}")
    return f"{folder}/{words.strip('_')}-{fingerprint(*parts)[:8]}"


LATER = {"cut", "tokenizer", "vocabulary", "labelled", "eval_split", "start", "attention"}
"""Keys that came later: at their defaults they leave the name of a directory as it was without them."""


def _told(section: BaseModel, exclude: set[str]) -> dict[str, Any]:
    values = section.model_dump(mode="json", exclude=exclude)
    defaults = type(section)().model_dump(mode="json")
    return {key: value for key, value in values.items() if key not in LATER or value != defaults[key]}


def grown(spec: Spec, before: Spec, planned: int) -> Spec:
    """The spec of a run that also holds what was asked of it before, when it was `planned` to be of so many members.

    The more members and samples, and all methods; one that is asked for with other settings is made anew.
    """
    methods = {method.folder: method for method in before.attribution.methods}
    for method in complete(spec).attribution.methods:
        methods[method.folder] = _longer(method, methods.get(method.folder))
    ensemble, data, attribution = spec.ensemble, spec.data, spec.attribution
    return spec.model_copy(
        update={
            "ensemble": ensemble.model_copy(update={"members": max(ensemble.members, planned)}),
            "data": data.model_copy(update={"eval_samples": max(data.eval_samples, before.data.eval_samples)}),
            "attribution": attribution.model_copy(update={"methods": tuple(methods.values())}),
            "parameters": spec.parameters or before.parameters,
        }
    )


def _shared(spec: Spec, folder: str) -> Spec:
    """The spec under the name of its place, with what is there already."""
    spec = command.absolute(spec)
    place = place_of(spec, folder)
    spec = spec.model_copy(update={"name": place.rpartition("/")[2]})
    store = Store(place)
    if not store.exists(layout.SPEC):
        return spec
    before = salcore.open(place)
    whole = grown(spec, before.spec, before.planned)
    if whole.ensemble.members > spec.ensemble.members:
        print(f"{place}: {spec.ensemble.members} members asked for; it is of {whole.ensemble.members}, and all count")
    return whole


def _longer(asked: MethodSpec, before: MethodSpec | None) -> MethodSpec:
    """The method as it is asked for, on the samples that it explains already where those are more."""
    if before is None or (before.name, before.settings) != (asked.name, asked.settings) or asked.samples is None:
        return asked
    samples = None if before.samples is None else max(asked.samples, before.samples)
    return asked.model_copy(update={"samples": samples})


def _asked(name: str, asked: Command, data: Data | None) -> Asked:
    checked = prepare(asked, data)
    left = _with_maps(name, checked)
    attribution = checked.spec.attribution.model_copy(update={"methods": left})
    checked = replace(checked, spec=checked.spec.model_copy(update={"attribution": attribution}))
    return Asked(name=name, command=asked, plan=checked)


def _with_maps(name: str, plan: Plan) -> tuple[MethodSpec, ...]:
    """The methods that give this network a map; the others are named. Raises UserError if none does."""
    kept, refused = [], None
    for method in plan.spec.attribution.methods:
        try:
            attribution = plan.spec.attribution.model_copy(update={"methods": (method,)})
            map_shapes(replace(plan, spec=plan.spec.model_copy(update={"attribution": attribution})))
            kept.append(method)
        except UserError as error:
            refused = error
            print(f"{name}: left out, {error}")
    if refused is not None and not kept:
        raise refused
    return tuple(kept)


def _slots(spec: Spec) -> tuple[int, ClusterSpec]:
    """What the slots of an ensemble are."""
    return spec.training.pinned, spec.cluster


def _train_together(asked: Sequence[Asked]) -> None:
    """Train the members that any of the ensembles lacks in one pool: slots take 10 to 20 seconds to start."""
    asked = [each for each in {each.plan.store.uri: each for each in asked}.values() if not each.plan.undecided]
    lacking = {each.name: each.plan.untrained() for each in asked}
    wanted = [each for each in asked if lacking[each.name]]
    if not wanted:
        return
    spec = wanted[0].plan.spec
    # Slots of one kind, in threads, GPUs and attempts: ensembles of others are trained later, each by itself.
    wanted = [each for each in wanted if _slots(each.plan.spec) == _slots(spec)]
    progress, total = Progress(), sum(len(lacking[each.name]) for each in wanted)
    with ExitStack() as locks:
        for each in wanted:
            locks.enter_context(Lock(each.plan.store))
            begin(each.plan)
        sources = {each.plan.data.digest: Source.of(each.plan.data, each.plan.spec.data) for each in wanted}
        runs = [
            train.Run(store=each.plan.store, data=sources[each.plan.data.digest], members=lacking[each.name])
            for each in wanted
        ]
        room = start.room(spec.cluster, spec.training.pinned, total, start.nodes(), grows=start.grows())
        progress.say(f"train    {total} members of {len(wanted)} ensembles in {room.slots} slots")
        statuses = train.train(
            runs,
            room,
            name=f"{fingerprint([each.plan.fingerprint for each in wanted])[:8]}-{int(time.time())}",
            attempts=spec.cluster.attempts,
            scratch=wanted[0].plan.store.path(stages.SCRATCH),
        )
        epochs = sum(len(lacking[each.name]) * stages.records_of(each.plan.spec) for each in wanted)
        stages.follow(statuses, progress, of=[each.name for each in wanted], epochs=epochs)
        wanted[0].plan.store.delete_folder(stages.SCRATCH)
    progress.end()
