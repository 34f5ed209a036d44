"""What parameter-space saliency of a run will consist of, told and checked before any work."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from jobs.prepare import Plan
from salcore.blame import network
from salcore.blame.splits import part_of
from salcore.data.batches import inputs_of
from salcore.parameter_space import filter_profiles


def seconds_of_profiles(plan: Plan, model: nn.Module) -> float:
    """Time that the profiles of both splits take one member, from that of one batch."""
    parameters = plan.spec.parameters
    assert parameters is not None
    splits = [part_of(plan.data, split) for split in (parameters.held_out, parameters.independent)]
    size = plan.spec.attribution.batch_size
    rows = np.resize(splits[0].index, size)
    inputs, labels = inputs_of(splits[0], rows, plan.data)[0], torch.from_numpy(splits[0].labels[rows])
    began = time.perf_counter()
    filter_profiles(model, inputs, labels, linear=parameters.linear)
    return (time.perf_counter() - began) * sum(map(len, splits)) / size


def told(plan: Plan, model: nn.Module) -> Iterator[str]:
    """Lines on what will be made of filters; none for a plan without parameters. Raises UserError."""
    parameters = plan.spec.parameters
    if parameters is None:
        return
    found = network.table(plan.spec, plan.data, model)
    sizes = {split: len(part_of(plan.data, split)) for split in (parameters.held_out, parameters.independent)}
    splits = " and ".join(f"{size:,} {split}" for split, size in sizes.items())
    size = sum(sizes.values()) * len(found) * 4 / 1e6
    yield (
        f"filters  {len(found):,} of {len(found.layers)} layers; profiles of {splits} samples by each member, "
        f"{len(plan.members) * size:,.0f} MB"
    )
    most = "all" if parameters.mistakes is None else f"up to {parameters.mistakes}"
    yield f"mistakes {most} of each member: {', '.join(parameters.experiments) or 'no experiment'}"
