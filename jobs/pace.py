"""How long work takes, from the times at which pieces of it were done."""

import heapq
from collections.abc import Sequence


def each(seconds: float, pieces: int, waited: float) -> float:
    """Seconds that a piece takes, of which so many took `seconds`, the last of them `waited` seconds ago.

    What is under way counts once it takes longer than those before.

    >>> each(30.0, 3, 4.0), each(30.0, 3, 25.0)
    (10.0, 15.0)
    """
    return (seconds + max(0.0, waited - seconds / pieces)) / pieces


def left(at_work: Sequence[float], piece: float, waiting: int) -> float:
    """Seconds until all is done: slots are free after `at_work` seconds, and each of those waiting takes `piece`.

    >>> left([5.0, 1.0], 10.0, 0), left([5.0, 1.0], 10.0, 3)
    (5.0, 21.0)
    """
    free = sorted(at_work)
    for _ in range(waiting):
        heapq.heapreplace(free, free[0] + piece)
    return max(free)
