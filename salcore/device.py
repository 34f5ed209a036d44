"""How a worker's process computes: pinned threads and deterministic algorithms, so that the same member has the
same bits.
"""

import os

import torch


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
    torch.use_deterministic_algorithms(True, warn_only=True)
