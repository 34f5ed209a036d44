"""Series that are noise but for one box of cells: where the class is told is known, cell by cell.

The class sign, +1 or -1, is added to every cell of the box; the noise is N(0, 1). In the two positional sets it is +1
for both classes, and the place of the box tells the class: on the feature axis in `positional_time`, on the time axis
in `positional_feature`, as in the published code, whose names say the opposite.

Sources: Benchmarking Deep Learning Interpretability in Time Series Predictions (Ismail et al., 2020) for the ten sets
of 50 steps and 50 features; Input-Cell Attention Reduces Vanishing Saliency of Recurrent Neural Networks (Ismail et
al., 2019) for `earlier`, `center` (its "middle") and `later`, of 100 and 100.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from salcore.data.source import Labelled, Source
from salcore.data.streams import normal, raw
from salcore.errors import UserError

if TYPE_CHECKING:
    from salcore.spec import DataSpec

Start = int | range | tuple[int, int]
"""Where a box begins on one axis: always there, anywhere in a range, or at one place for class 0, one for class 1."""
TRAIN_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Box:
    """Size and start of the box, each (time, feature), in series of `side` steps and as many features."""

    size: tuple[int, int]
    start: tuple[Start, Start]
    side: int = 50
    test_samples: int = 100

    @property
    def signed(self) -> bool:
        """Whether the class is what is added to the box, not its place."""
        return not any(isinstance(start, tuple) for start in self.start)


# The last place where a moving box would fit is never taken: the published code draws below an exclusive bound.
SETS = {
    "middle": Box(size=(30, 30), start=(10, 10)),
    "small_middle": Box(size=(14, 14), start=(18, 18)),
    "moving_middle": Box(size=(30, 30), start=(range(20), range(20))),
    "moving_small_middle": Box(size=(15, 15), start=(range(35), range(35))),
    "rare_time": Box(size=(6, 40), start=(22, 5)),
    "moving_rare_time": Box(size=(6, 40), start=(range(44), range(10))),
    "rare_feature": Box(size=(40, 6), start=(5, 22)),
    "moving_rare_feature": Box(size=(40, 6), start=(range(10), range(44))),
    "positional_time": Box(size=(20, 20), start=(range(30), (29, 1))),
    "positional_feature": Box(size=(20, 20), start=((29, 1), range(30))),
    "earlier": Box(size=(30, 80), start=(0, 10), side=100, test_samples=300),
    "center": Box(size=(60, 60), start=(20, 20), side=100, test_samples=300),
    "later": Box(size=(30, 80), start=(70, 10), side=100, test_samples=300),
}


def read(spec: "DataSpec", argument: str) -> Source:
    """`synthetic:NAME`: one of `SETS`, 1,000 training samples, drawn from the set's name and `data.split_seed`."""
    if argument not in SETS:
        near = get_close_matches(argument, SETS, n=1)
        hint = f" (did you mean synthetic:{near[0]}?)" if near else ""
        raise UserError("data.name", f"synthetic: and one of {', '.join(SETS)}{hint}", f"synthetic:{argument}")
    box, key = SETS[argument], (spec.split_seed, crc32(argument.encode()))
    return Source(train=_drawn(box, TRAIN_SAMPLES, *key, 0), test=_drawn(box, box.test_samples, *key, 1), kind="series")


def _drawn(box: Box, count: int, *key: int) -> Labelled:
    """Samples `(count, F, T)`, each from a stream of its own: four numbers for label and place, then the noise."""
    values = np.empty((count, box.side, box.side), np.float32)
    labels, informative = np.empty(count, np.int64), np.zeros(values.shape, bool)
    for number in range(count):
        bits = raw(4 + box.side**2, *key, number)
        labels[number] = label = int(bits[0] >> np.uint64(63))
        informative[number][_cells(box, label, bits[1:3])] = True
        values[number] = normal(bits[4:]).reshape(box.side, box.side)
    signs = np.where(labels == 1, 1, -1) if box.signed else np.ones(count)
    values += signs.astype(np.float32)[:, None, None] * informative
    return Labelled(values=values, labels=labels, informative=informative)


def _cells(box: Box, label: int, bits: np.ndarray) -> tuple[slice, slice]:
    """The box of one sample: features, then steps."""
    starts = [_start(start, label, int(draw)) for start, draw in zip(box.start, bits, strict=True)]
    steps, features = (slice(start, start + size) for start, size in zip(starts, box.size, strict=True))
    return features, steps


def _start(start: Start, label: int, draw: int) -> int:
    if isinstance(start, int):
        return start
    return start[label] if isinstance(start, tuple) else start[draw % len(start)]
