"""How a worker's process computes: pinned threads and deterministic algorithms, so that the same member has the
same bits.
"""

import ctypes
import os
import platform

import torch
from torch import Tensor

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def of_slot(gpus: float) -> str:
    """The device of a process that was given so many GPUs, or a share of one: it sees no others."""
    return "cuda" if gpus and torch.cuda.is_available() else "cpu"


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on the device. For a GPU they are staged, so that neither this process nor other work waits."""
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def pin(threads: int) -> None:
    """Give this process exactly `threads` threads and deterministic kernels. For worker processes only: it is global.

    Raises RuntimeError if torch does not take the number of threads.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise RuntimeError(f"torch runs {torch.get_num_threads()} threads instead of {threads}")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_deterministic_debug_mode("warn")  # as `use_deterministic_algorithms`, which loads torch.compile as well
    # Nothing here reads memory before it is written; filling it first costs some 5 % of a small network's pass.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch has it, untyped
    _keep_memory()


def _keep_memory() -> None:
    """Have glibc re-use large blocks instead of returning them to the system after each step.

    A guided step of a small network otherwise takes tens of thousands of page faults, 5 to 8 % of its time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
        libc.mallopt(TRIM_THRESHOLD, 1 << 30)
