"""Which words of a long text are shown: its beginning, and the passages that weigh most."""

import numpy as np

PASSAGE = 20
"""Words of a passage."""


def excerpt(weights: np.ndarray, query: int, most: int) -> list[int]:
    """Places of the words of a text that are shown after its query, the first words; -1 where words are left out.

    `weights` `(T,)` are the magnitudes of all words.

    >>> excerpt(np.array([9.0, 0.0, 0.0, 0.0, 1.0, 0.0]), 1, 2)
    [1, -1, 4, -1]
    """
    places: list[int] = []
    end = query
    for start, stop in spans(weights[query:], most):
        places += [-1] * (query + start > end) + [*range(query + start, query + stop)]
        end = query + stop
    return places + [-1] * (end < len(weights))


def spans(weights: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Stretches (start, stop) of a text's words, in order and apart, of at most `most` words in all.

    `weights` `(T,)` are the words' magnitudes. A text that fits is one stretch. Of a longer one half is its beginning
    and the rest the passages of 20 words of the largest sums of weights, each the best of what is left; passages that
    touch are one.

    >>> spans(np.array([0.0] * 95 + [1.0] * 5), 40)
    [(0, 20), (80, 100)]
    """
    if len(weights) <= most:
        return [(0, len(weights))]
    count = max(1, most // 2 // PASSAGE)
    length = min(PASSAGE, most // 2)
    shown = np.zeros(len(weights), bool)
    shown[: most - count * length] = True
    sums = np.convolve(weights, np.ones(length), mode="valid")
    for _ in range(count):
        free = np.convolve(shown, np.ones(length), mode="valid") == 0
        if not free.any():
            break
        start = int(np.argmax(np.where(free, sums, -np.inf)))
        shown[start : start + length] = True
    ends = np.flatnonzero(np.diff(np.pad(shown.astype(np.int8), 1)))
    return list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))
