"""Arrays that stay on a GPU: a batch is then gathered there, and nothing waits for the bus."""

import weakref

import numpy as np
import torch
from torch import Tensor

from salcore.device import sent

SHARE = 0.25
"""An array stays on a GPU if it takes no more than this share of what is free: networks need the rest."""

_HELD: dict[tuple[int, torch.device], Tensor | None] = {}


def rows_of(array: np.ndarray, rows: np.ndarray, device: torch.device | str) -> Tensor:
    """Some rows of an array as a tensor on the device, in memory of its own."""
    device = torch.device(device)
    held = held_on(array, device) if device.type == "cuda" else None
    if held is not None:
        return held[sent(torch.from_numpy(rows), device)]
    # Indexing by an array makes the batch's one copy, which is writable even where the set is not.
    return sent(torch.from_numpy(np.asarray(array[rows])), device)


def held_on(array: np.ndarray, device: torch.device) -> Tensor | None:
    """The array on the device, moved there when it is first asked for; None where it is too large, or lies in a file.

    It is given up when nothing else holds the array.
    """
    key = id(array), device
    if key not in _HELD:
        fits = not isinstance(array, np.memmap) and array.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]
        # The copy is waited for, so other streams may read it.
        _HELD[key] = torch.from_numpy(np.array(array)).to(device) if fits else None
        weakref.finalize(array, _HELD.pop, key, None)
    return _HELD[key]
