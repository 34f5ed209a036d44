"""The pool's actors: one item that fails leaves the others alone, unless it tells that all others would fail too."""

import errno
import os
import re

import pytest
import torch

from cluster import pool
from cluster.errors import Broken
from cluster.pool import work_off
from cluster.start import Room

ROOM = Room(slots=1, cpus=1, gpus=0.0)


def actor(work):
    """An actor, here."""
    made = object.__new__(pool._Actor)
    made._work, made._name = work, str
    return made


def failing(error, at=3):
    """Work that fails at one item, and what it was called with."""
    seen = []

    def work(item):
        seen.append(item)
        if item == at:
            raise error
        return item

    return work, seen


def results(work, items=range(10)):
    [done] = actor(work)({"task": [pool._Task(items=tuple(items))]})["done"]
    return done.results


@pytest.mark.parametrize("error", [ValueError("no layer"), FileNotFoundError(errno.ENOENT, "gone"), OSError("strange")])
def test_an_item_that_fails_leaves_the_others_alone(error):
    work, seen = failing(error)
    found = results(work)
    assert seen == list(range(10))
    assert [each.made for each in found if not each.failure] == [0, 1, 2, *range(4, 10)]
    assert found[3].failure.startswith(f"3: {type(error).__name__}: ")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device.*make room or mend it"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "quota exceeded.*make room or mend it"),
        (torch.AcceleratorError("CUDA error: an illegal address\nmore"), r"no more work \(CUDA error: an .*address\)"),
    ],
)
def test_what_no_other_item_would_survive_ends_the_work_at_once(error, told):
    work, seen = failing(error)
    *before, last = results(work)
    assert seen == [0, 1, 2, 3]
    assert [each.made for each in before] == [0, 1, 2]
    assert not last.failure
    assert re.search(told, last.broken, re.IGNORECASE), last.broken


def _start(device):
    return failing(OSError(errno.ENOSPC, "No space left on device"))[0]


def test_the_stage_stops_and_says_what_to_do(ray_cluster):
    made = []
    with pytest.raises(Broken, match=r"^storage cannot be used \(.*No space left.*run the same command$"):
        made += work_off(range(10), _start, ROOM, title="fill", name=str, cure="cure")
    assert len(made) < 10
