"""Whose turn it is to draw from the global generators of Python, NumPy and torch, of which a process has one each."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class Turns:
    """A lock that goes to the threads in the order in which they asked for it; its holder may ask again."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._holder: int | None = None
        self._depth = 0
        self._own = threading.local()
        self._shared: list[torch.Generator] = []

    @property
    def wanted(self) -> bool:
        """Whether another thread waits, and the holder may hand on."""
        return bool(self._waiting) and self._depth == 1

    def take(self) -> None:
        """Wait for this thread's turn."""
        me = threading.get_ident()
        with self._mutex:
            if self._holder == me:
                self._depth += 1
                return
            come = threading.Event()
            if self._holder is None:
                self._holder, self._depth = me, 1
                come.set()
            else:
                self._waiting.append((me, come))
        come.wait()
        self._install()

    def leave(self) -> None:
        """End a turn, or that of a block within it."""
        if self._depth == 1:
            self._remove()
        with self._mutex:
            self._depth -= 1
            if self._depth:
                return
            self._holder = None
            if self._waiting:
                self._holder, come = self._waiting.popleft()
                self._depth = 1
                come.set()

    @contextmanager
    def own_generators(self) -> Iterator[None]:
        """A block in whose turns CUDA's default generators are this thread's own, and not copies of one.

        A captured graph keeps the generator that it drew from, and where that stands in memory on the device, which
        graphs of other streams would write to at the same time.
        """
        self._own.generators = [each.clone_state() for each in torch.cuda.default_generators]
        try:
            yield
        finally:
            del self._own.generators

    def _install(self) -> None:
        if own := getattr(self._own, "generators", None):
            self._shared = [each.graphsafe_get_state() for each in torch.cuda.default_generators]
            self._set(own)

    def _remove(self) -> None:
        if getattr(self._own, "generators", None):
            self._set(self._shared)

    def _set(self, generators: Sequence[torch.Generator]) -> None:
        for default, each in zip(torch.cuda.default_generators, generators, strict=True):
            default.graphsafe_set_state(each)


TURNS = Turns()
"""Of this process: who has the global generators."""
