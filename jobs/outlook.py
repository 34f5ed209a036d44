"""What a run will consist of, told before any work: members, maps, bytes and time, each method tried on one image."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from jobs.prepare import Plan
from salcore import models, seeds, training
from salcore.attribution import METHODS
from salcore.data import Data
from salcore.data.batches import normalise
from salcore.draws import with_draws
from salcore.errors import UserError
from salcore.explain import padded_size
from salcore.objectives import OBJECTIVES
from salcore.settings import settings_of
from salcore.spec import MethodSpec, Spec

# One of everything that a method repeats; a penalty, as one mask alone determines nothing.
_LEAST = {"num_samples": 1, "num_steps": 1, "num_baselines": 1, "num_superpixels": 1, "penalty": "ridge", "alpha": 1.0}
# Passes that a method makes whatever its numbers are: KernelSHAP's all on and all off.
_ALWAYS = {"kernel_shap": 2}


def map_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Shape of one map by each method, from one draw or step on one image with an untrained network.

    Raises UserError if a method cannot explain this network, or its numbers do not fit each other.
    """
    model, inputs, target = _network(plan), _inputs(plan, 1), torch.zeros(1, dtype=torch.int64)
    stand_in = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs[0].numel(), 1))
    shapes = {}
    for method in plan.spec.attribution.methods:
        try:
            settings = _settings(plan, method)
            if "num_superpixels" in settings_of(METHODS[method.name]):  # its numbers, on a network that costs nothing
                METHODS[method.name](stand_in, inputs, target, **settings)
            maps = METHODS[method.name](model, inputs, target, **_cheap(method, settings)[0])
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
    settings, factor = _cheap(method, _settings(plan, method))
    return factor * _seconds(lambda: METHODS[method.name](model, inputs, targets, **settings))


def _settings(plan: Plan, method: MethodSpec) -> dict[str, Any]:
    """The settings that the first member's maps are made with."""
    return with_draws(plan.spec, method, plan.members[0], plan.data, torch.device("cpu"))


def _cheap(method: MethodSpec, settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The settings with one draw, step and baseline, and how many times as much work the method's own are."""
    of = settings.get("of")
    inner = {} if of is None else settings_of(METHODS[of])
    known = {**inner, **settings_of(METHODS[method.name])}
    asked = {name: settings.get(name, parameter.default) for name, parameter in known.items()}
    repeated = ["num_samples", "num_steps"] if asked.keys() & {"num_samples", "num_steps"} else ["num_baselines"]
    factor = np.prod([asked.get(name, 1) for name in repeated]) / _ALWAYS.get(method.name, 1)
    cheap = settings | {name: least for name, least in _LEAST.items() if name in known}
    if isinstance(images := settings.get("baselines"), torch.Tensor):
        cheap["baselines"] = images[:1]
    return cheap, float(factor)


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
