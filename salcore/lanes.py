"""Lanes: trainings side by side in one process, each in a thread and, on a GPU, on a stream of its own.

A small network's kernels fill a part of a GPU, and those of several streams run at the same time; processes take turns
instead. What the threads share are the global generators of Python, NumPy and torch: one thread has them at a time
(`salcore.turns`), and hands them on between steps. So a member draws what it draws alone, and ends with the same bits.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch

from salcore.turns import TURNS


def side_by_side(work: Sequence[Callable[[], None]], device: str) -> None:
    """Do all the work, each in a lane of its own; raises the first error when all have ended. One needs no lane."""
    if len(work) == 1:
        work[0]()
        return
    errors: list[BaseException] = []

    def run(each: Callable[[], None]) -> None:
        try:
            with _stream(device):
                each()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@contextmanager
def _stream(device: str) -> Iterator[None]:
    on_gpu = torch.device(device).type == "cuda"
    with torch.cuda.stream(torch.cuda.Stream()) if on_gpu else nullcontext():
        with TURNS.own_generators() if on_gpu else nullcontext():
            yield
