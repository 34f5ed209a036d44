"""What a method draws at random in a run: the seed of its draws, and the training images that it compares with."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from salcore.attribution import METHODS, inner_method
from salcore.data import Data
from salcore.data.batches import normalise
from salcore.members import Member
from salcore.seeds import derive, generator
from salcore.settings import settings_of
from salcore.spec import MethodSpec, Spec


def with_draws(spec: Spec, method: MethodSpec, member: Member, data: Data, device: torch.device) -> dict[str, Any]:
    """The method's settings as its function takes them: the seed in force, and images in place of "training".

    Shared draws are of the spec's seed for every member, so that the variance over members holds no Monte-Carlo noise.
    Members' own are of seeds derived from it by the member's index, as if each explanation were made once.
    """
    return _with_images(method.name, seeded(spec, method, member), data, device)


def _with_images(name: str, settings: dict[str, Any], data: Data, device: torch.device) -> dict[str, Any]:
    """The settings with training images where they say "training", also those of a method inside smoothgrad."""
    if name == "smoothgrad":
        within, inner = inner_method(settings)
        own = {key: value for key, value in settings.items() if key in settings_of(METHODS[name])}
        return own | {"of": {"name": within, **_with_images(within, inner, data, device)}}
    if settings.get("baselines") != "training":
        return settings
    every = {key: parameter.default for key, parameter in settings_of(METHODS[name]).items()} | settings
    return settings | {"baselines": training_images(data, every["num_baselines"], every["seed"], device)}


def seeded(spec: Spec, method: MethodSpec, member: Member) -> dict[str, Any]:
    """The method's settings with the seed that this member's draws are made from."""
    settings = dict(method.settings)
    if spec.attribution.draws == "member" and "seed" in settings_of(METHODS[method.name]):
        settings["seed"] = derive(member.seeds["attribution"], member.index, settings.get("seed", 0))
    return settings


def training_images(data: Data, number: int, seed: int, device: torch.device) -> Tensor:
    """`number` different images of the training part (all, where it has fewer), normalised: (number, C, H, W)."""
    if not len(data.train):
        raise ValueError("`baselines`: expected training images, and a run of other data has none; use uniform")
    order = torch.randperm(len(data.train), generator=generator(seed, 2))[:number].numpy()
    pixels = np.asarray(data.train.images[np.sort(data.train.index[order])])
    return normalise(torch.from_numpy(pixels).to(device), data.mean, data.std)
