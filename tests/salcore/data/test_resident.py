"""Rows of arrays, from a device that holds them or from the processor's memory."""

import gc

import numpy as np
import pytest
import torch

from salcore.data import resident
from salcore.data.resident import held_on, rows_of

CPU = torch.device("cpu")
ROWS = np.array([3, 0, 3])


@pytest.fixture
def array():
    return np.arange(20, dtype=np.uint8).reshape(5, 4)


@pytest.fixture
def free(monkeypatch):
    """A function that says how much of a device is free."""
    return lambda count: monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (count, count))


def test_rows_are_a_copy(array):
    found = rows_of(array, ROWS, "cpu")
    assert found.tolist() == array[ROWS].tolist()
    found.zero_()
    assert array[3].any()


def test_what_is_held_is_moved_once_and_given_up_with_the_array(free):
    array = np.arange(20, dtype=np.uint8).reshape(5, 4)
    free(80)
    held = held_on(array, CPU)
    assert held.tolist() == array.tolist()
    assert held_on(array, CPU) is held
    key = (id(array), CPU)
    assert key in resident._HELD
    del array
    gc.collect()
    assert key not in resident._HELD


def test_what_takes_more_than_a_share_is_not_held(array, free):
    free(79)
    assert held_on(array, CPU) is None


def test_a_file_is_not_held(array, free, tmp_path):
    free(1 << 30)
    np.save(tmp_path / "array.npy", array)
    assert held_on(np.load(tmp_path / "array.npy", mmap_mode="r"), CPU) is None
