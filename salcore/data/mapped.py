"""Arrays that are held in memory, or in memory-mapped files where they would not fit.

The environment variable `SALCORE_MEMORY_LIMIT` (bytes) says what fits; without it, half of the memory that is free.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from salcore.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]
Fill = Callable[[str, np.ndarray], None]


def memory_limit() -> int:
    """Bytes that decoded images may take in memory."""
    given = os.environ.get("SALCORE_MEMORY_LIMIT")
    if given is None:
        import psutil

        return psutil.virtual_memory().available // 2
    if not given.isdigit():
        raise UserError("SALCORE_MEMORY_LIMIT", "a number of bytes", given)
    return int(given)


def held(shapes: Shapes, dtype: np.dtype, fill: Fill, *, folder: Path, key: str) -> dict[str, np.ndarray]:
    """Arrays of the given names and shapes, made by `fill(name, out)`: all in memory, or all mapped from `folder`."""
    size = sum(int(np.prod(shape)) * dtype.itemsize for shape in shapes.values())
    if size > memory_limit():
        _make_room(folder, size)
        return {name: _written(name, shape, dtype, fill, folder, key) for name, shape in shapes.items()}
    arrays = {name: np.empty(shape, dtype) for name, shape in shapes.items()}
    for name, array in arrays.items():
        fill(name, array)
    return arrays


def kept(names: list[str], *, folder: Path, key: str) -> dict[str, np.ndarray] | None:
    """The mapped arrays of an earlier run, if they are all there and would still not fit in memory."""
    paths = {name: folder / f"{key}-{name}.npy" for name in names}
    if not all(path.exists() for path in paths.values()):
        return None
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in paths.items()}
    return arrays if sum(array.nbytes for array in arrays.values()) > memory_limit() else None


def _written(name: str, shape: tuple[int, ...], dtype: np.dtype, fill: Fill, folder: Path, key: str) -> np.ndarray:
    path = folder / f"{key}-{name}.npy"
    unfinished = folder / f".{key}-{name}-{os.getpid()}.npy"
    try:
        out = np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
        fill(name, out)
        out.flush()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _make_room(folder: Path, size: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("data.root", "a folder that can be written", str(error)) from error
    free = shutil.disk_usage(folder).free
    if free < size:  # a mapped file on a full disk ends the process with a bus error
        raise UserError(
            "data.root", f"a folder with {size / 1e9:.1f} GB free for decoded images", f"{free / 1e9:.1f} GB"
        )
