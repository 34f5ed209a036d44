"""Which samples and which members a page shows: rules, so that nobody picks by hand what suits them."""

import numpy as np

SHOWN = 6
DISTRUSTED = 8


def representative(snr: np.ndarray, count: int = SHOWN) -> list[int]:
    """Positions of samples at evenly spaced ranks of SNR, from the highest to the lowest, both included.

    `snr` is `(N,)`; undefined values are left out. Fewer than `count` samples are all shown.

    >>> representative(np.array([0.1, 0.5, 0.3, np.nan, 0.2]), 3)
    [1, 4, 0]
    """
    ranked = [int(i) for i in np.argsort(-snr, kind="stable") if np.isfinite(snr[i])]
    if not ranked:
        return list(range(min(count, len(snr))))
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[place] for place in dict.fromkeys(places.tolist())]


def least_certain(snr: np.ndarray, count: int = DISTRUSTED) -> list[int]:
    """Positions of the samples of lowest SNR, the lowest first; undefined values are left out."""
    return [int(i) for i in np.argsort(snr, kind="stable") if np.isfinite(snr[i])][:count]


def extremes(maps: np.ndarray) -> tuple[int, ...]:
    """Two members that disagree: of least cosine to the mean map, then of least cosine to that one.

    `maps` is `(M, ...)`; positions along its first axis are returned, one if there is one member. The first of equals.
    Stands for the hand-picked columns of Woerl et al., Fig. 1.
    """
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    first = int(np.argmin(cosines(flat, flat.mean(axis=0))))
    if len(flat) == 1:
        return (first,)
    to_first = cosines(flat, flat[first])
    to_first[first] = np.inf
    return first, int(np.argmin(to_first))


def cosines(rows: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Cosine of each row to a direction; 0 where one of them is zero: a map of nothing agrees with nothing."""
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(direction)
    return np.divide(rows @ direction, lengths, out=np.zeros(len(rows)), where=lengths > 0)
