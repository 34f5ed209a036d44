"""What a method draws at random in a run: the seed of its draws, and the training images that it compares with."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salcore.attribution import METHODS, inner_method, inner_seed
from salcore.data import Data
from salcore.data.batches import inputs_of
from salcore.members import Member
from salcore.seeds import derive, generator
from salcore.settings import settings_of
from salcore.spec import MethodSpec, Spec


def with_draws(
    spec: Spec,
    method: MethodSpec,
    member: Member,
    data: Data,
    device: torch.device,
    embed: Callable[[Tensor], Tensor] = lambda inputs: inputs,
) -> dict[str, Any]:
    """The method's settings as its function takes them: the seed in force, and images in place of "training".

    Shared draws are of the spec's seed for every member, so that the variance over members holds no Monte-Carlo noise.
    Members' own are of seeds derived from it by the member's index, as if each explanation were made once. Images, or
    embedded texts, are what `embed` makes of the training inputs.
    """
    settings = seeded(spec, method, member)
    if method.name != "smoothgrad":
        return settings | _images(method.name, settings, settings.get("seed", 0), data, device, embed)
    name, inner = inner_method(settings)
    inner |= _images(name, inner, inner_seed(settings.get("seed", 0), inner), data, device, embed)
    own = {key: value for key, value in settings.items() if key in settings_of(METHODS[method.name])}
    return own | {"of": {"name": name, **inner}}


def _images(
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    data: Data,
    device: torch.device,
    embed: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The training images that stand for "training" among a method's settings; nothing where they do not say it."""
    if settings.get("baselines") != "training":
        return {}
    number = settings.get("num_baselines", settings_of(METHODS[name])["num_baselines"].default)
    return {"baselines": embed(training_inputs(data, number, seed, device))}


def seeded(spec: Spec, method: MethodSpec, member: Member) -> dict[str, Any]:
    """The method's settings with the seed that this member's draws are made from."""
    settings = dict(method.settings)
    if spec.attribution.draws == "member" and "seed" in settings_of(METHODS[method.name]):
        settings["seed"] = derive(member.seeds["attribution"], member.index, settings.get("seed", 0))
    return settings


def training_inputs(data: Data, number: int, seed: int, device: torch.device) -> Tensor:
    """`number` different inputs of the training part (all, where it has fewer), normalised: (number, ...)."""
    if not len(data.train):
        raise ValueError("`baselines`: expected training images, and a run of other data has none; use uniform")
    order = torch.randperm(len(data.train), generator=generator(seed, 2))[:number].numpy()
    return inputs_of(data.train, np.sort(data.train.index[order]), data, device)[0]
