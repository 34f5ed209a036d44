"""Seeds: distinct keys are independent streams, and the global generators are given back as they were found."""

import itertools
import random

import numpy as np
import pytest
import torch

from salcore.seeds import PURPOSES, derive, forked, generator


def draw():
    """One number from each of the global generators."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


@pytest.fixture(autouse=True)
def known_state():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        yield


def test_seeds_of_distinct_keys_differ():
    keys = list(itertools.product(range(20), range(len(PURPOSES)), range(20)))
    found = {derive(0, *key) for key in keys}
    assert len(found) == len(keys)
    assert all(0 <= seed < 2**63 for seed in found)


def test_a_shorter_key_and_a_transposed_one_are_other_keys():
    assert len({derive(0), derive(0, 0), derive(0, 0, 0), derive(0, 0, 1), derive(0, 1, 0), derive(1, 0)}) == 6


def test_members_and_purposes_are_numpys_seed_sequence():
    expected = np.random.SeedSequence(7, spawn_key=(3, 2)).generate_state(1, np.uint64)[0]
    assert derive(7, 3, 2) == int(expected) // 2


def test_streams_of_neighbouring_keys_are_uncorrelated():
    streams = torch.stack([torch.randn(4000, generator=generator(0, key)) for key in range(12)])
    correlation = torch.corrcoef(streams).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_generators_of_equal_keys_draw_the_same_and_leave_the_global_one_alone():
    torch.manual_seed(1)
    first = torch.rand(9, generator=generator(3, 1))
    assert torch.equal(first, torch.rand(9, generator=generator(3, 1)))
    assert not torch.equal(first, torch.rand(9, generator=generator(3, 2)))
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))


def test_inside_all_three_generators_depend_on_the_key_alone():
    def inside(*key):
        with forked(*key):
            return draw()

    first = inside(0, 1)
    draw()
    assert inside(0, 1) == first
    for other in (inside(0, 2), inside(1, 1)):
        assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("raises", [False, True])
def test_after_the_block_all_three_go_on_where_they_stood(raises):
    draw()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    try:
        with forked(9, 1, 4):
            draw()
            np.random.standard_normal()  # noqa: NPY002 - leaves a second value waiting in NumPy's state
            random.gauss(0, 1)  # and so does this one in Python's
            if raises:
                raise KeyError("from inside")
    except KeyError:
        assert raises
    assert draw() == expected


def test_a_block_draws_what_torch_draws_after_that_seed():
    with forked(5, 2):
        inside = torch.rand(4)
    assert torch.equal(inside, torch.rand(4, generator=generator(5, 2)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="calls are kept where no GPU was found yet")
def test_blocks_leave_nothing_behind_for_gpus_that_never_come():
    """`torch.manual_seed` keeps a call and its stack trace for the day that a GPU is used: kilobytes a block."""
    kept = len(torch.cuda._queued_calls)
    for key in range(3):
        with forked(key):
            draw()
    assert len(torch.cuda._queued_calls) == kept


def test_blocks_nest():
    with forked(1):
        first = draw()
        with forked(2):
            draw()
        second = draw()
    with forked(1):
        assert (draw(), draw()) == (first, second)
