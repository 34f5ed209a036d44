"""From a command to a checked plan: everything that can be refused is refused here, before any work."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import yaml

from cluster import threads
from jobs.command import Command
from salcore import borrowed, layout, members, models, training, until
from salcore.attribution import check_settings, takes_statistics
from salcore.blame import network, splits
from salcore.complete import complete
from salcore.data import Data, load
from salcore.data.part import text_digests
from salcore.errors import UserError
from salcore.member_files import failed, standing, trained
from salcore.members import Member
from salcore.runs import Run
from salcore.spec import Spec, fingerprints, parse
from salcore.storage import Store


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked run: its spec, data and members, and the fingerprint that its directory is known by.

    With `ensemble.until`, `rounds` are the looks taken so far, and `members` are all that there may be until the looks
    have settled how many there are. `lender` is the run whose members are copied when this one begins.
    """

    spec: Spec
    store: Store
    data: Data
    members: tuple[Member, ...]
    fingerprint: str
    rounds: tuple[until.Round, ...] = ()
    lender: Store | None = None

    @property
    def decision(self) -> until.Decision | None:
        """What the looks say; None without `ensemble.until`."""
        return None if self.spec.ensemble.until is None else until.decide(self.rounds, self.spec.ensemble)

    @property
    def undecided(self) -> bool:
        """Whether it is still to be found how many members the run is of."""
        return self.decision is not None and not self.decision.settled

    def looked(self, rounds: Iterable[until.Round]) -> "Plan":
        """The plan with these looks; once they settle the number, it is of so many members."""
        plan = replace(self, rounds=tuple(rounds))
        decision = plan.decision
        return plan.first(decision.members) if decision is not None and decision.settled else plan

    def first(self, count: int) -> "Plan":
        """The plan of the first `count` members."""
        return replace(self, members=self.members[:count])

    def untrained(self, *, retry_failed: bool = False) -> list[Member]:
        """Members that are still to be trained; failed ones only on request."""
        store = self.store.snapshot(layout.MEMBERS)
        return [
            member
            for member in self.members
            if not trained(store, member) and (retry_failed or failed(store, member) is None)
        ]

    def trained(self) -> list[Member]:
        """Members that are trained, in order."""
        store = self.store.snapshot(layout.MEMBERS)
        return [member for member in self.members if trained(store, member)]

    def failures(self) -> Mapping[int, str]:
        """Why members failed, by index."""
        store = self.store.snapshot(layout.MEMBERS)
        lacking = [member for member in self.members if not trained(store, member)]
        reasons = {member.index: failed(store, member) for member in lacking}
        return {index: reason for index, reason in reasons.items() if reason}


def prepare(command: Command, data: Data | None = None, *, search: bool = False, lender: Run | None = None) -> Plan:
    """Load and check all that the command needs. Raises UserError.

    `data` is the spec's, where it is loaded already; with `search` the directory may be that of a search; with a
    `lender` the run is of that one's members.
    """
    spec = command.spec
    for method in spec.attribution.methods:
        check_settings(method.name, method.settings)
        if spec.parameters is None and takes_statistics(method.name, method.settings):
            expected = (
                f"a section (parameters={{}} will do), as {method.folder} is standardised over its held-out split"
            )
            raise UserError("parameters", expected, None)
    if lender is not None or borrowed.is_borrowed(command.store):
        plan = _borrowed(command, lender)
    else:
        plan = _own(command, data, search)
    parse(resolved(plan))  # as every later command will
    return plan


def _own(command: Command, data: Data | None, search: bool) -> Plan:
    """The plan of a run that trains its members, or takes them from files."""
    spec = command.spec
    until.method(spec)
    data = load(spec.data) if data is None else data
    tokens = data.kind == "text" and data.vectors is None
    models.check(spec.model, data.shape, len(data.classes), kind=data.kind, tokens=tokens)
    for method in spec.attribution.methods:
        check_settings(method.name, method.settings, data.kind)
    splits.check(spec, data)
    _check_kept(spec, data)
    spec = complete(network.completed(spec, data), data.kind)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"eval_samples": len(data.evaluation)})})
    _check_weights(spec, data)
    _check_target(spec, data)
    training.check(members.plan(spec, data.digest)[0], data)
    spec = _with_threads(spec, data, command.store)
    planned = members.plan(spec, data.digest)
    fingerprint = members.recipe(spec, data.digest)
    _check_directory(command.store, spec, fingerprint, search)
    _check_members(command.store, planned)
    plan = Plan(spec=spec, store=command.store, data=data, members=planned, fingerprint=fingerprint)
    return plan.looked(_looks(plan, retry_failed=command.retry_failed)) if spec.ensemble.until else plan


def _with_threads(spec: Spec, data: Data, store: Store) -> Spec:
    """The spec with a number of threads: for `auto` that of its directory, where they were measured before."""
    if spec.training.threads != "auto":
        return spec
    known = parse(store.read(layout.SPEC)).training.threads if store.exists(layout.SPEC) else "auto"
    found = threads.best(spec, members.plan(spec, data.digest)[0], data) if known == "auto" else known
    return spec.model_copy(update={"training": spec.training.model_copy(update={"threads": found})})


def _looks(plan: Plan, *, retry_failed: bool) -> Iterator[until.Round]:
    """The looks on storage that still stand: not those without a member that is trained now or to be tried again."""
    failures = {} if retry_failed else plan.failures()
    for each in until.read(plan.store, plan.spec, plan.fingerprint):
        if set(each.failed) == {index for index in failures if index < each.members}:
            yield each


def _borrowed(command: Command, lender: Run | None) -> Plan:
    """The plan of a run that explains other data with members copied from a finished run, or still to be copied."""
    spec = command.spec.model_copy(update={"parameters": None})  # these data have no split held out
    for method in spec.attribution.methods:
        if takes_statistics(method.name, method.settings):
            expected = "methods that need no held-out samples, which another run's members do not bring"
            raise UserError("attribution.methods", expected, method.folder)
    home = command.store if lender is None else lender.store
    data = borrowed.data_of(spec, home)
    planned = borrowed.members_of(spec, home)
    if lender is not None:
        planned = tuple(member for member in planned if member.index in lender.members)
        borrowed.check(command.store, planned, home)
    changes: dict[str, Any] = {"data": spec.data.model_copy(update={"eval_samples": len(data.evaluation)})}
    if spec.training.threads == "auto":  # nothing is trained
        changes["training"] = spec.training.model_copy(update={"threads": 1})
    if spec.attribution.target == "label" and (data.evaluation.labels < 0).any():  # the truth is not known
        changes["attribution"] = spec.attribution.model_copy(update={"target": "ensemble"})
    if spec.ensemble.until:  # it has done its work: these are the members
        count = planned[-1].index + 1
        files = spec.ensemble.weights and spec.ensemble.weights[:count]
        changes["ensemble"] = spec.ensemble.model_copy(update={"until": None, "members": count, "weights": files})
    spec = spec.model_copy(update=changes)
    fingerprint = members.fingerprint([member.fingerprint for member in planned])
    return Plan(
        spec=spec, store=command.store, data=data, members=planned, fingerprint=fingerprint,
        lender=None if lender is None else lender.store,
    )  # fmt: skip


def resolved(plan: Plan) -> str:
    """The text of `spec.yaml`: every default written out, and the fingerprints, each of which the next one includes."""
    attribution = plan.spec.attribution.model_dump(mode="json", by_alias=True, exclude={"keep_maps"})
    maps = members.fingerprint(plan.fingerprint, attribution, plan.spec.data.split_seed)
    count = len(plan.members) if plan.spec.ensemble.until else plan.spec.ensemble.members
    stats = members.fingerprint(maps, count, plan.spec.data.eval_samples)
    marks = {"data": plan.data.digest, "member": plan.fingerprint, "maps": maps, "stats": stats}
    return yaml.safe_dump({**plan.spec.to_dict(), "fingerprints": marks}, sort_keys=False, width=120)


def begin(plan: Plan) -> None:
    """Write what a run is before any work on it: members that it borrows, its spec, and the tokenizer of its texts."""
    if plan.lender is not None:
        borrowed.copy(plan.store, plan.members, plan.lender)
    plan.store.write(layout.SPEC, resolved(plan).encode())
    if plan.data.tokenizer is not None:
        plan.store.write(layout.TOKENIZER, plan.data.tokenizer.encode())
        digests = text_digests(plan.data.evaluation, plan.data.evaluation.index)
        table = pa.table({"sample": pa.array(plan.data.evaluation.index), "digest": pa.array(digests)})
        plan.store.write_parquet(layout.TEXTS, table)


def _check_weights(spec: Spec, data: Data) -> None:
    """Refuse weight files that do not fit before anything starts."""
    files = {"weights": spec.ensemble.weights or (), "start": spec.ensemble.start or ()}
    if any(files.values()) or spec.model.weights is not None:
        model = models.build(spec.model, input_shape=data.shape, classes=len(data.classes))
    for key, names in files.items():
        for index, file in enumerate(names):
            models.load_weights(model, file, key=f"ensemble.{key}.{index}")


def _check_kept(spec: Spec, data: Data) -> None:
    """Refuse to make maps of sequences again and again: they are reduced length by length, in passes of a few rows."""
    if not spec.attribution.keep_maps and data.evaluation.lengths is not None:
        raise UserError("attribution.keep_maps", "true for sequences of different lengths", False)


def _check_target(spec: Spec, data: Data) -> None:
    target, classes = spec.attribution.target, len(data.classes)
    if isinstance(target, int) and target >= classes:
        raise UserError("attribution.target", f"a class below {classes}", target)
    if target == "label" and (data.evaluation.labels[data.evaluation.index] < 0).any():
        expected = "ensemble, prediction or a class number, since these images have no labels"
        raise UserError("attribution.target", expected, target)


def _check_directory(store: Store, spec: Spec, fingerprint: str, search: bool) -> None:
    """Refuse a directory of something else, or whose members would differ; say in what."""
    if not store.exists(layout.SPEC):
        return
    text = store.read(layout.SPEC)
    marks = fingerprints(text)
    if "sallm" in marks:
        raise UserError("--run-dir", f"a new folder, or one of the runs in {store}, which python -m jobs.sallm made")
    if "search" in marks and not search:
        chosen = f"python -m jobs.ensemble {store.path(layout.CHOSEN)} trains the setting that it chose"
        raise UserError("--run-dir", f"a new folder; {store} holds a search: {chosen}")
    if marks.get("member") in {fingerprint, None}:
        return
    changed = [key for key in _differences(parse(text).to_dict(), spec.to_dict()) if _makes_members(key)]
    what = ", ".join(changed) or "the data's content, or a file of weights"
    raise UserError("--run-dir", f"a new folder, since the members in {store} differ from this spec's in {what}")


def _check_members(store: Store, planned: tuple[Member, ...]) -> None:
    """Refuse to overwrite a finished member by another one, such as another file under its number."""
    held = store.snapshot(layout.MEMBERS)
    for member in planned:
        found = standing(held, member.index)
        if found is not None and found.fingerprint != member.fingerprint:
            key = f"ensemble.weights.{member.index}" if member.weights else "--run-dir"
            raise UserError(key, f"the member {member.index} that {store} holds, or a new --run-dir", member.weights)


def _differences(before: dict, after: dict, prefix: str = "") -> list[str]:
    """Keys whose values differ."""
    found: list[str] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}")
    return found


def _makes_members(key: str) -> bool:
    others = {
        *("ensemble.members", "data.eval_samples", "data.root", "data.mirror"),
        "training.attention.explanations",
    }
    part, _, rest = key.partition(".")
    return part in {"data", "model", "ensemble", "training"} and key not in others and not rest.startswith("until")
