"""Randomness as an argument: every draw comes from a seed that is a pure function of what it is for.

Seeds are derived with `numpy.random.SeedSequence`, whose streams are independent for distinct keys, so member 7
draws the same numbers whether it is trained first, last, alone or after a crash.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from salcore.turns import TURNS

ON_CPU: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""How draws are made, whatever the caller's default type and device are: the same numbers everywhere."""

PURPOSES = ("init", "order", "augment", "model", "masking", "attribution")
"""What a member draws random numbers for. `model` is dropout and whatever else a network draws while it trains."""


def derive(root: int, *key: int) -> int:
    """A 63-bit seed for `key` below `root`: equal keys give equal seeds, distinct keys independent ones.

    >>> derive(0, 3, 1) == derive(0, 3, 1), derive(0, 3, 1) == derive(0, 1, 3)
    (True, False)
    """
    if root < 0 or min(key, default=0) < 0:
        raise ValueError(f"`seed`: expected 0 or more, got {min(root, *key)}")
    state = np.random.SeedSequence(root, spawn_key=key).generate_state(1, np.uint64)[0]
    return int(state) >> 1  # torch.Generator takes signed 64-bit seeds


def generator(root: int, *key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` on `device` for `key` below `root`."""
    return torch.Generator(device).manual_seed(derive(root, *key))


@contextmanager
def forked(root: int, *key: int) -> Iterator["Fork"]:
    """Seed the global generators of Python, NumPy and torch for the block, and put them back after it.

    For what cannot take a generator: dropout, and the constructors of torchvision and of users. Blocks of other threads
    wait for the end of this one, or until it hands on.
    """
    seed = derive(root, *key)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    TURNS.take()
    fork = Fork()
    try:
        with torch.random.fork_rng(devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` notes a stack trace for GPUs to come
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield fork
    finally:
        _put_back(fork.outside)
        TURNS.leave()


class Fork:
    """A block that has the global generators to itself; `outside` is how they stood before it."""

    def __init__(self) -> None:
        self.outside = _states()

    def hand_on(self) -> None:
        """Let the threads that wait have their turn, if any does, and go on with this one's generators after it."""
        if TURNS.wanted:
            inside = _states()
            _put_back(self.outside)
            TURNS.leave()
            TURNS.take()
            self.outside = _states()
            _put_back(inside)


def _states() -> tuple[Any, Any, torch.Tensor]:
    """How the global generators stand; those of GPUs go with the turn."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - users' code may draw


def _put_back(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
