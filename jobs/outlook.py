"""What a run will consist of, told before any work: members, maps, bytes and time, each method tried on one sample."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from jobs import filters
from jobs.prepare import Plan
from salcore import models, optimisation, seeds, training, until
from salcore.attribution import METHODS, inner_method, takes_statistics, with_statistics
from salcore.blame import network
from salcore.data import Data
from salcore.data.batches import Batch, Taught, inputs_of
from salcore.draws import with_draws
from salcore.errors import UserError
from salcore.explain import in_precision, stored
from salcore.models.quick import quick
from salcore.objectives import OBJECTIVES
from salcore.padding import bound
from salcore.parameter_space import ProfileStatistics
from salcore.precision import emulates_bfloat16
from salcore.settings import settings_of
from salcore.spec import MethodSpec, Spec
from salcore.step import Step
from salcore.tokens import embedded
from salcore.work import padded_size

# One of everything that a method repeats; a penalty, as one mask alone determines nothing.
_LEAST = {"num_samples": 1, "num_steps": 1, "num_baselines": 1, "num_superpixels": 1, "penalty": "ridge", "alpha": 1.0}
# Passes beside those of the samples: one that tries the layout in memory, and KernelSHAP's with all on and all off.
_BESIDE = {"kernel_shap": 2, "lime": 1}


def map_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Shape of one map by each method, from one draw or step on one image with an untrained network.

    Raises UserError if a method cannot explain this network, or its numbers do not fit each other.
    """
    (inputs, valid), target = _inputs(plan, 1), torch.zeros(1, dtype=torch.int64)
    model = bound(_network(plan), valid)
    inputs = embedded(model, inputs)
    stand_in = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs[0].numel(), 1))
    shapes = {}
    for method in plan.spec.attribution.methods:
        try:
            settings = _settings(plan, method)
            within, inner = inner_method(settings) if method.name == "smoothgrad" else (method.name, settings)
            if within in _BESIDE:  # its numbers, on a network that costs nothing
                METHODS[within](stand_in, inputs, target, **inner)
            maps = METHODS[method.name](model, inputs, target, **_cheap(method.name, settings))
        except Exception as error:  # whatever a user's network raises is told in one line
            message = f"a method that explains {plan.spec.model.name} ({method.folder}: {error})"
            raise UserError("attribution.methods", message) from None
        shapes[method.folder] = tuple(stored(maps, plan.data.kind).shape[1:])
    return shapes


def describe(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a run consists of, in a few lines: members, work items and bytes."""
    spec, data = plan.spec, plan.data
    width = 4 if spec.attribution.dtype == "float32" else 2
    samples = {method.folder: _samples(method, data) for method in spec.attribution.methods}
    values = sum(samples[folder] * int(np.prod(shape)) for folder, shape in shapes.items())
    cut = sum(-(-count // spec.attribution.shard_samples) for count in samples.values())
    count = len(plan.members)
    built = _network(plan)
    parameters = sum(p.numel() for p in built.parameters())
    most = "at most " if plan.undecided else ""
    return "\n".join(
        [
            f"run      {plan.store}",
            *(f"note     {note}" for note in (*data.notes, *_precision(spec))),
            f"data     {spec.data.name}: {len(data.train)} training, {len(data.validation)} validation, "
            f"{len(data.evaluation)} evaluation samples of {'x'.join(map(str, data.shape))}, "
            f"{len(data.classes)} classes",
            f"members  {_fewest(plan)}{count} x {spec.model.name} ({parameters:,} parameters), {_origin(plan)}"
            f"{_until(plan)}",
            f"methods  {', '.join(samples)}{_warning(spec)}",
            f"maps     {_kept(spec, f'{most}{count * cut} shards, {_size(count * values * width)}')}; "
            f"statistics {_size((4 + 4 + 1) * values)}; weights {_size(count * parameters * 4)}",
            *filters.told(plan, built),
        ]
    )


def _precision(spec: Spec) -> Iterator[str]:
    """A line where passes by bfloat16 would be slow on this machine."""
    if spec.training.precision == "bfloat16" and emulates_bfloat16() and not torch.cuda.is_available():
        yield (
            "training.precision=bfloat16 is some ten times as slow on this processor, which emulates it; one with "
            "AVX512-BF16 or AMX, or a GPU, is not"
        )


def _kept(spec: Spec, told: str) -> str:
    return told if spec.attribution.keep_maps else "not kept: made twice, where they are reduced"


def _origin(plan: Plan) -> str:
    spec, missing = plan.spec, len(plan.untrained())
    if plan.lender is not None:
        return f"those of {plan.lender}; {missing} to copy"
    if spec.ensemble.weights:
        return f"from your own files; {missing} to read"
    return f"{spec.training.objective}, {spec.training.epochs} epochs; {missing} to train"


def _fewest(plan: Plan) -> str:
    return f"{_least(plan)} to " if _least(plan) < len(plan.members) else ""


def _least(plan: Plan) -> int:
    """The fewest members that the run may be of."""
    return plan.decision.members if plan.decision is not None else len(plan.members)


def _until(plan: Plan) -> str:
    """A line that says when the run has members enough, or that it has."""
    if (asked := plan.spec.ensemble.until) is None:
        return ""
    method = until.method(plan.spec).folder
    line = f"\nuntil    the interval of the mean SNR of {method} is narrower than {asked.width:g}"
    if plan.decision is not None and plan.decision.settled:
        return f"{line}: {'it is' if plan.decision.reached else 'not with all members'}"
    begin = f"go on at {_least(plan)}" if plan.rounds else f"begin with {asked.first}"
    return f"{line}; looks {begin} members and add {asked.step}"


def _warning(spec: Spec) -> str:
    if spec.attribution.target != "prediction":
        return ""
    return "\n         each member explains its own prediction: where members disagree, the SNR mixes classes"


def estimate(plan: Plan) -> str:
    """Time that the run would take on one slot of this machine, from a measurement of a few steps and passes."""
    spec, count = plan.spec, len(plan.members)
    steps = training.steps_per_epoch(len(plan.data.train), spec.training.batch_size) * spec.training.epochs
    batches = -(-len(plan.data.evaluation) // spec.attribution.batch_size)
    torch.set_num_threads(spec.training.pinned)
    train = 0.0 if spec.ensemble.weights else _seconds_of_a_step(plan) * steps
    explain = sum(
        _seconds_of_a_pass(plan, method) * batches * _samples(method, plan.data) / len(plan.data.evaluation)
        for method in spec.attribution.methods
    )
    explain *= 1 if spec.attribution.keep_maps else 2
    profile = filters.seconds_of_profiles(plan, _network(plan)) if spec.parameters is not None else 0.0
    of_filters = f", {_duration(profile)} of filter profiles (experiments not counted)" if profile else ""
    explain += profile
    least = _least(plan)
    few = f"{_duration(least * (train + explain))} for {least} and " if least < count else ""
    return (
        f"time     about {_duration(train)} of training and {_duration(explain - profile)} of explaining{of_filters} a "
        "member on one slot of "
        f"this machine; {few}{_duration(count * (train + explain))} for {count} members on one slot, and some 30 s to "
        f"start{' each time that members are added' if plan.undecided else ''}"
    )


def _samples(method: MethodSpec, data: Data) -> int:
    return min(len(data.evaluation), method.samples or len(data.evaluation))


def _network(plan: Plan) -> torch.nn.Module:
    with seeds.forked(0):
        network = models.build(
            plan.spec.model, input_shape=plan.data.shape, classes=len(plan.data.classes), start=False
        )
    return network.eval()


def _inputs(plan: Plan, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    return inputs_of(plan.data.evaluation, np.resize(plan.data.evaluation.index, count), plan.data)


def _seconds_of_a_step(plan: Plan) -> float:
    spec = plan.spec.training
    inputs, valid = _inputs(plan, min(spec.batch_size, len(plan.data.train)))
    model = quick(_network(plan).train(), plan.spec.model)
    optimizer = optimisation.optimizer(model.parameters(), spec.model_copy(update={"learning_rate": 1e-6}))
    taught = None if valid is None else Taught(valid.float(), valid)
    batch = Batch(inputs, torch.zeros(len(inputs), dtype=torch.int64), valid, taught)
    step = Step(plan.members[0], model, OBJECTIVES[spec.objective], plan.data.kind, "cpu")

    def trained() -> None:
        with seeds.forked(0):
            step(batch)
        optimizer.step()

    return _seconds(trained)


def _seconds_of_a_pass(plan: Plan, method: MethodSpec) -> float:
    inputs, valid = _inputs(plan, padded_size(plan.spec.attribution.batch_size))
    full = _settings(plan, method)
    built = _network(plan)
    model = bound(built if takes_statistics(method.name, full) else quick(built, plan.spec.model), valid)
    inputs = embedded(model, inputs)
    targets = torch.zeros(len(inputs), dtype=torch.int64)
    settings = _cheap(method.name, full)
    factor = _passes(method.name, full) / _passes(method.name, settings)
    with in_precision(built, plan.spec, method, torch.device("cpu")):
        return factor * _seconds(lambda: METHODS[method.name](model, inputs, targets, **settings))


def _settings(plan: Plan, method: MethodSpec) -> dict[str, Any]:
    """The settings that the first member's maps are made with."""
    embed = partial(embedded, _network(plan))
    settings = with_draws(plan.spec, method, plan.members[0], plan.data, torch.device("cpu"), embed)
    if not takes_statistics(method.name, settings):
        return settings
    table = network.table(
        plan.spec, plan.data, _network(plan)
    )  # of the network as it is tried here: standardised by nothing
    statistics = ProfileStatistics(table=table, mean=np.zeros(len(table)), deviation=np.ones(len(table)), count=0)
    return with_statistics(method.name, settings, statistics)


def _cheap(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with one draw, step and baseline."""
    if name == "smoothgrad":
        within, inner = inner_method(settings)
        return {"num_samples": 1, "of": {"name": within, **_cheap(within, inner)}}
    known = settings_of(METHODS[name])
    cheap = settings | {key: least for key, least in _LEAST.items() if key in known}
    if isinstance(images := settings.get("baselines"), torch.Tensor):
        cheap["baselines"] = images[:1]
    return cheap


def _passes(name: str, settings: dict[str, Any]) -> float:
    """How many times a method runs the network on a sample, with these settings."""
    asked = {key: parameter.default for key, parameter in settings_of(METHODS[name]).items()} | settings
    if name == "smoothgrad":
        return asked["num_samples"] * _passes(*inner_method(settings))
    if name == "deepshap":
        images = asked["baselines"]
        return len(images) if isinstance(images, torch.Tensor) else asked["num_baselines"]
    return asked.get("num_samples", asked.get("num_steps", 1)) + _BESIDE.get(name, 0)


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
