"""Pictures of an object beside a patch of clutter that goes with another class: what misleads a network is known.

On grey noise an object, whose shape tells the class, is pasted at a random place in a random colour, and elsewhere a
grey patch of stripes or checks. In the training split the patch has the pattern of the object's class in 9 of 10
pictures, in the test split in every second one, and otherwise that of another class, each as often as the others. A
network that has learned the patterns too errs, in the test split, towards the class of the patch.

>>> drawn = pasted("test", seed=0)
>>> drawn.images.shape, drawn.objects[0].tolist(), drawn.patches[0].tolist()
((1000, 3, 32, 32), [10, 3, 21, 14], [20, 23, 29, 32])
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import numpy as np

from salcore.data.source import Labelled, Source
from salcore.data.streams import normal, raw

if TYPE_CHECKING:
    from salcore.spec import DataSpec

CLASSES = ("disc", "square", "cross", "ring")
SIDE, OBJECT, PATCH = 32, 11, 9
"""Pixels of a picture, of an object's box and of a patch, all square."""
SAMPLES = {"train": 2000, "test": 1000}
AGREEING = {"train": 0.9, "test": 0.5}
"""Share of the pictures whose patch has the pattern of the object's class."""
GREY, NOISE, COLOUR, CONTRAST = 128, 30, 90, 30
"""Mean and deviation of the noise, the most that an object and what a patch adds to it, in grey levels of 0 to 255."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pasted:
    """Pictures (N, 3, 32, 32) uint8 and their labels (N,), and what is where in them.

    `patterns` (N,) are the classes that the patches go with, `objects` and `patches` (N, 4) the boxes of both, in
    pixels [left, top, right, bottom). Row n is sample n of its split.
    """

    images: np.ndarray
    labels: np.ndarray
    patterns: np.ndarray
    objects: np.ndarray
    patches: np.ndarray


def read(spec: "DataSpec", argument: str) -> Source:
    """`pasted`: 2,000 pictures to train on and 1,000 others, drawn from `data.split_seed`."""
    train, test = (pasted(split, spec.split_seed) for split in ("train", "test"))
    return Source(train=_labelled(train), test=_labelled(test), classes=CLASSES)


def pasted(split: Literal["train", "test"], seed: int) -> Pasted:
    """All samples of a split, each from a stream of its own: what is where (5 numbers), in which colour (3), the noise.

    Parts of the data set hold rows of it: `pasted("test", seed).objects[data.evaluation.index]`.
    """
    shapes, patterns = _shapes(), _patterns()
    count, values = SAMPLES[split], 3 * SIDE**2
    images = np.empty((count, 3, SIDE, SIDE), np.uint8)
    chosen, boxes = np.empty((2, count), np.int64), np.empty((2, count, 4), np.int64)
    for number in range(count):
        bits = raw(8 + values, seed, crc32(b"pasted"), crc32(split.encode()), number)
        chosen[:, number] = label, pattern = _classes(bits[:3], AGREEING[split])
        boxes[:, number] = thing, patch = _places(bits[3:5])
        picture = GREY + NOISE * normal(bits[8:]).reshape(images.shape[1:])
        _inside(picture, thing)[:] += COLOUR * _colour(bits[5:8])[:, None, None] * shapes[label]
        _inside(picture, patch)[:] += CONTRAST * patterns[pattern]
        images[number] = np.rint(picture.clip(0, 255))
    return Pasted(images=images, labels=chosen[0], patterns=chosen[1], objects=boxes[0], patches=boxes[1])


def _labelled(drawn: Pasted) -> Labelled:
    return Labelled(values=drawn.images, labels=drawn.labels, boxes=drawn.objects / SIDE)


def _shapes() -> np.ndarray:
    """Which pixels of its box an object covers, (4, 11, 11), by class."""
    y, x = np.indices((OBJECT, OBJECT)) - OBJECT // 2
    distance = np.hypot(x, y)
    square, cross = np.maximum(abs(x), abs(y)) <= 4, np.minimum(abs(x), abs(y)) <= 1
    return np.stack([distance <= 5.2, square, cross, (distance >= 3) & (distance <= 5.7)])


def _patterns() -> np.ndarray:
    """The patch of each class, (4, 9, 9), of -1 and 1: stripes along each axis, checks, stripes across."""
    y, x = np.indices((PATCH, PATCH))
    light = [x % 4 < 2, y % 4 < 2, (x // 3 + y // 3) % 2 == 0, (x + y) % 6 < 3]
    return np.where(np.stack(light), 1, -1)


def _classes(bits: np.ndarray, agreeing: float) -> tuple[int, int]:
    """The class of the object and that of the patch."""
    label = int(bits[0] % 4)
    other = (label + 1 + int(bits[2] % 3)) % 4
    return label, label if float(bits[1] >> np.uint64(11)) * 2.0**-53 < agreeing else other


def _places(bits: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The boxes of the object, anywhere, and of the patch, anywhere beside it."""
    room = SIDE - OBJECT + 1
    top, left = divmod(int(bits[0] % room**2), room)
    y, x = np.indices((SIDE - PATCH + 1,) * 2)
    apart = (x + PATCH <= left) | (x >= left + OBJECT) | (y + PATCH <= top) | (y >= top + OBJECT)
    free = np.flatnonzero(apart)
    below, right = divmod(int(free[int(bits[1] % len(free))]), len(x))
    return (left, top, left + OBJECT, top + OBJECT), (right, below, right + PATCH, below + PATCH)


def _colour(bits: np.ndarray) -> np.ndarray:
    """What an object adds to red, green and blue, (3,): each from 1/2 to 1, lighter or darker."""
    size = 0.5 + (bits >> np.uint64(12)) * 2.0**-53
    return np.where(bits & np.uint64(1), size, -size)


def _inside(picture: np.ndarray, box: tuple[int, ...]) -> np.ndarray:
    """The pixels of a picture (C, H, W) in a box, as a view."""
    left, top, right, bottom = box
    return picture[:, top:bottom, left:right]
