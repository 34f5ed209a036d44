"""Lanes: trainings side by side in one process, each in a thread and, on a GPU, on a stream of its own.

A small network's kernels fill a part of a GPU, and those of several streams run at the same time; processes take turns
instead. What the threads share are the global generators of Python, NumPy and torch: one thread has them at a time
(`salcore.turns`), and hands them on between steps. So a member draws what it draws alone, and ends with the same bits.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from salcore import streams
from salcore.turns import TURNS


def side_by_side(work: Sequence[Callable[[], None]], device: str) -> None:
    """Do all the work, each in a lane of its own; one alone needs none.

    Raises an error as soon as a lane does, and leaves the others to end with the process: what they wait for may be
    what the failed one holds.
    """
    if len(work) == 1:
        work[0]()
        return
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(each: Callable[[], None]) -> None:
        try:
            with _stream(device):
                each()
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    for each in work:
        threading.Thread(target=run, args=(each,), daemon=True).start()
    for _ in work:
        if (error := ended.get()) is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame, which would hold it, and through it the failed lane's memory


@contextmanager
def _stream(device: str) -> Iterator[None]:
    if torch.device(device).type != "cuda":
        yield
        return
    stream = streams.take()
    try:
        with torch.cuda.stream(stream), TURNS.own_generators():
            yield
    finally:
        streams.give_back(stream)
