"""Streams of a GPU for lanes and captured graphs, each of which needs one that nothing else runs on.

Torch hands out the same few in turn. Work on a stream that is being captured would be captured with it, and what two
graphs were captured on the same stream share scratch memory, though they are replayed on others.
"""

import threading

import torch

POOL = 32
"""The streams of a device that torch hands out."""

_taken: set[tuple[int, int]] = set()
_lock = threading.RLock()  # a graph that is collected while a stream is taken gives its own back


def take() -> torch.cuda.Stream:
    """A stream of the current device that nobody has, until it is given back. Raises RuntimeError if there is none."""
    with _lock:
        for _ in range(POOL):
            stream = torch.cuda.Stream()
            if _key(stream) not in _taken:
                _taken.add(_key(stream))
                return stream
    raise RuntimeError(f"all {POOL} streams of the GPU are taken")


def give_back(stream: torch.cuda.Stream) -> None:
    """Let others have the stream."""
    with _lock:
        _taken.discard(_key(stream))


def _key(stream: torch.cuda.Stream) -> tuple[int, int]:
    return stream.device.index, stream.cuda_stream
