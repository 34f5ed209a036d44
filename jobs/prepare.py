"""From a command to a checked plan: everything that can be refused is refused here, before any work."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import yaml

from jobs.command import Command
from salcore import borrowed, layout, members, models, seeds, training
from salcore.attribution import METHODS, check_settings
from salcore.complete import complete
from salcore.data import Data, load
from salcore.data.batches import normalise
from salcore.errors import UserError
from salcore.explain import padded_size
from salcore.member_files import failed, read_record, trained
from salcore.members import Member
from salcore.objectives import OBJECTIVES
from salcore.settings import settings_of
from salcore.spec import MethodSpec, Spec, from_dict
from salcore.storage import Store


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked run: its spec, data and members, and the fingerprint that its directory is known by."""

    spec: Spec
    store: Store
    data: Data
    members: tuple[Member, ...]
    fingerprint: str

    def untrained(self, *, retry_failed: bool = False) -> list[Member]:
        """Members that are still to be trained; failed ones only on request."""
        return [
            member
            for member in self.members
            if not trained(self.store, member) and (retry_failed or failed(self.store, member) is None)
        ]

    def trained(self) -> list[Member]:
        """Members that are trained, in order."""
        return [member for member in self.members if trained(self.store, member)]

    def failures(self) -> Mapping[int, str]:
        """Why members failed, by index."""
        lacking = [member for member in self.members if not trained(self.store, member)]
        reasons = {member.index: failed(self.store, member) for member in lacking}
        return {index: reason for index, reason in reasons.items() if reason}


def prepare(command: Command) -> Plan:
    """Load and check all that the command needs. Raises UserError that names the key."""
    spec = command.spec
    for method in spec.attribution.methods:
        check_settings(method.name, method.settings)
    if borrowed.is_borrowed(command.store):
        return _borrowed(command)
    data = load(spec.data)
    models.check(spec.model, data.shape, len(data.classes))
    spec = complete(spec)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"eval_samples": len(data.evaluation)})})
    _check_weights(spec, data)
    _check_target(spec, data)
    planned = members.plan(spec, data.digest)
    training.check(planned[0], data)
    fingerprint = members.recipe(spec, data.digest)
    _check_directory(command.store, spec, fingerprint)
    _check_members(command.store, planned)
    return Plan(spec=spec, store=command.store, data=data, members=planned, fingerprint=fingerprint)


def _borrowed(command: Command) -> Plan:
    """The plan of a run that explains other data with members copied from a finished run."""
    spec = command.spec
    data = borrowed.data_of(spec, command.store)
    planned = borrowed.members_of(spec, command.store)
    changes: dict[str, Any] = {"data": spec.data.model_copy(update={"eval_samples": len(data.evaluation)})}
    if spec.attribution.target == "label" and (data.evaluation.labels < 0).any():  # the truth is not known
        changes["attribution"] = spec.attribution.model_copy(update={"target": "ensemble"})
    spec = spec.model_copy(update=changes)
    fingerprint = members.fingerprint([member.fingerprint for member in planned])
    return Plan(spec=spec, store=command.store, data=data, members=planned, fingerprint=fingerprint)


def map_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Shape of one map by each method, from one draw or step on one image with an untrained network.

    Raises UserError if a method cannot explain this network.
    """
    model, inputs = _network(plan), _inputs(plan, 1)
    shapes = {}
    for method in plan.spec.attribution.methods:
        try:
            maps = METHODS[method.name](model, inputs, torch.zeros(1, dtype=torch.int64), **_cheap(method)[0])
        except (ValueError, RuntimeError, TypeError) as error:
            message = f"a method that explains {plan.spec.model.name} ({method.folder}: {error})"
            raise UserError("attribution.methods", message) from None
        shapes[method.folder] = tuple(maps.shape[1:])
    return shapes


def describe(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a run consists of, in a few lines: members, work items and bytes."""
    spec, data = plan.spec, plan.data
    width = 4 if spec.attribution.dtype == "float32" else 2
    samples = {method.folder: _samples(method, data) for method in spec.attribution.methods}
    values = sum(samples[folder] * int(np.prod(shape)) for folder, shape in shapes.items())
    cut = sum(-(-count // spec.attribution.shard_samples) for count in samples.values())
    count = len(plan.members)
    parameters = sum(p.numel() for p in _network(plan).parameters())
    return "\n".join(
        [
            f"run      {plan.store}",
            f"data     {spec.data.name}: {len(data.train)} training, {len(data.validation)} validation, "
            f"{len(data.evaluation)} evaluation samples of {'x'.join(map(str, data.shape))}, "
            f"{len(data.classes)} classes",
            f"members  {count} x {spec.model.name} ({parameters:,} parameters), {_origin(plan)}",
            f"methods  {', '.join(samples)}{_warning(spec)}",
            f"maps     {count * cut} shards, {_size(count * values * width)}; statistics {_size(2 * 4 * values)}; "
            f"weights {_size(count * parameters * 4)}",
        ]
    )


def _origin(plan: Plan) -> str:
    spec, missing = plan.spec, len(plan.untrained())
    if spec.ensemble.weights:
        return f"from your own files; {missing} to read"
    return f"{spec.training.objective}, {spec.training.epochs} epochs; {missing} to train"


def _warning(spec: Spec) -> str:
    if spec.attribution.target != "prediction":
        return ""
    return "\n         each member explains its own prediction: where members disagree, the SNR mixes classes"


def estimate(plan: Plan) -> str:
    """Time that the run would take on one slot of this machine, from a measurement of a few steps and passes."""
    spec, count = plan.spec, len(plan.members)
    steps = training.steps_per_epoch(len(plan.data.train), spec.training.batch_size) * spec.training.epochs
    batches = -(-len(plan.data.evaluation) // spec.attribution.batch_size)
    torch.set_num_threads(spec.training.threads)
    train = 0.0 if spec.ensemble.weights else _seconds_of_a_step(plan) * steps
    explain = sum(
        _seconds_of_a_pass(plan, method) * batches * _samples(method, plan.data) / len(plan.data.evaluation)
        for method in spec.attribution.methods
    )
    return (
        f"time     about {_duration(train)} of training and {_duration(explain)} of explaining a member on one slot of "
        f"this machine; {_duration(count * (train + explain))} for {count} members on one slot, and some 30 s to start"
    )


def resolved(plan: Plan) -> str:
    """The text of `spec.yaml`: every default written out, and the fingerprints, each of which the next one includes."""
    attribution = plan.spec.attribution.model_dump(mode="json", by_alias=True)
    maps = members.fingerprint(plan.fingerprint, attribution, plan.spec.data.split_seed)
    stats = members.fingerprint(maps, plan.spec.ensemble.members, plan.spec.data.eval_samples)
    marks = {"data": plan.data.digest, "member": plan.fingerprint, "maps": maps, "stats": stats}
    return yaml.safe_dump({**plan.spec.to_dict(), "fingerprints": marks}, sort_keys=False, width=120)


def _check_weights(spec: Spec, data: Data) -> None:
    """Refuse weight files that do not fit before anything starts."""
    if spec.ensemble.weights:
        model = models.build(spec.model, input_shape=data.shape, classes=len(data.classes), start=False)
        for index, file in enumerate(spec.ensemble.weights):
            models.load_weights(model, file, key=f"ensemble.weights.{index}")


def _check_target(spec: Spec, data: Data) -> None:
    target, classes = spec.attribution.target, len(data.classes)
    if isinstance(target, int) and target >= classes:
        raise UserError("attribution.target", f"a class below {classes}", target)
    if target == "label" and (data.evaluation.labels[data.evaluation.index] < 0).any():
        expected = "ensemble, prediction or a class number, since these images have no labels"
        raise UserError("attribution.target", expected, target)


def _check_directory(store: Store, spec: Spec, fingerprint: str) -> None:
    """Refuse a directory whose members would differ; say in what."""
    if not store.exists(layout.SPEC):
        return
    text = store.read(layout.SPEC).decode()
    values = yaml.safe_load(text) or {}
    if values.get("fingerprints", {}).get("member") in {fingerprint, None}:
        return
    old = from_dict({key: value for key, value in values.items() if key != "fingerprints"})
    changed = [key for key in _differences(old.to_dict(), spec.to_dict()) if _makes_members(key)]
    what = ", ".join(changed) or "the data's content, or a file of weights"
    raise UserError("--run-dir", f"a new folder, since the members in {store} differ from this spec's in {what}")


def _check_members(store: Store, planned: tuple[Member, ...]) -> None:
    """Refuse to overwrite a finished member by another one, such as another file under its number."""
    for member in planned:
        record = read_record(store, member.index)
        if record is not None and record["fingerprint"] != member.fingerprint:
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
    others = {"ensemble.members", "data.eval_samples", "data.root", "data.mirror"}
    return key.split(".")[0] in {"data", "model", "ensemble", "training"} and key not in others


def _samples(method: MethodSpec, data: Data) -> int:
    return min(len(data.evaluation), method.samples or len(data.evaluation))


def _network(plan: Plan) -> torch.nn.Module:
    with seeds.forked(0):
        network = models.build(
            plan.spec.model, input_shape=plan.data.shape, classes=len(plan.data.classes), start=False
        )
    return network.eval()


def _inputs(plan: Plan, count: int) -> torch.Tensor:
    rows = np.resize(plan.data.evaluation.index, count)
    return normalise(torch.from_numpy(np.asarray(plan.data.evaluation.images[rows])), plan.data.mean, plan.data.std)


def _seconds_of_a_step(plan: Plan) -> float:
    model, spec = _network(plan).train(), plan.spec.training
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    inputs = _inputs(plan, min(spec.batch_size, len(plan.data.train)))
    labels = torch.zeros(len(inputs), dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "bfloat16"), seeds.forked(0):
            loss = OBJECTIVES[spec.objective](
                model, inputs, labels, guidance=spec.guidance, generator=torch.Generator().manual_seed(0)
            )
        loss.backward()
        optimizer.step()

    return _seconds(step)


def _seconds_of_a_pass(plan: Plan, method: MethodSpec) -> float:
    model, inputs = _network(plan), _inputs(plan, padded_size(plan.spec.attribution.batch_size))
    targets = torch.zeros(len(inputs), dtype=torch.int64)
    settings, factor = _cheap(method)
    return factor * _seconds(lambda: METHODS[method.name](model, inputs, targets, **settings))


def _cheap(method: MethodSpec) -> tuple[dict[str, Any], int]:
    """Settings with one draw and one step, and how many times as much work the method's own settings are."""
    settings, factor = dict(method.settings), 1
    inner = settings_of(METHODS[settings["of"]]) if settings.get("of") in METHODS else {}
    for name, default in {**settings_of(METHODS[method.name]), **inner}.items():
        if name in {"num_samples", "num_steps"}:
            factor *= settings.get(name, default.default)
            settings[name] = 1
    return settings, factor


def _seconds(action: object) -> float:
    """Median time of a call after a first one, of as many as fit into a second, three at least."""
    assert callable(action)
    action()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1.0 and len(times) < 50):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
