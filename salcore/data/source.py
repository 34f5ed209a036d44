"""What every source of data hands over, and the checks that arrays of any origin pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from salcore.data.part import Kind
from salcore.errors import UserError

CHANNELS = (1, 3, 4)
NAMINGS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("images", "labels"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Samples and their class numbers `(N,)`, int64; all fields but the rows are those of a `Part`."""

    values: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray | None = None
    query: np.ndarray | None = None
    informative: np.ndarray | None = None
    boxes: np.ndarray | None = None
    word_of: np.ndarray | None = None
    rationale: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A data set as it was found: its training split, its own evaluation split if it has one, its classes' names.

    Without an evaluation split, `held_out` samples of the training split (None: a fifth) are set apart.
    `classes` None: named after their numbers. `classes` (): the truth is not known, and all images are in `test`.
    `validation`: how many samples at the end of the training split are the set's own validation split (None: it has
    none). Texts come with `words` and their `vectors` `(V, E)`, or with tokens and a `tokenizer`, the content of its
    tokenizer.json; `notes` are for whoever runs it. `one_unit`: all features of
    series are of one unit, and are normalised by the same mean and deviation.
    """

    train: Labelled
    test: Labelled | None
    classes: tuple[str, ...] | None = None
    held_out: int | None = None
    kind: Kind = "images"
    vectors: np.ndarray | None = None
    words: tuple[str, ...] = ()
    tokenizer: str | None = None
    validation: int | None = None
    notes: tuple[str, ...] = ()
    one_unit: bool = False


def from_arrays(arrays: Mapping[str, Any], origin: str) -> Source:
    """A source from named arrays, in any of `NAMINGS`, and optional `classes`."""
    for naming in NAMINGS:
        if all(name in arrays for name in naming):
            break
    else:
        wanted = "; or ".join(", ".join(naming) for naming in NAMINGS)
        raise UserError("data.name", f"{origin} with the arrays {wanted}", ", ".join(sorted(arrays)))
    pairs = [labelled(arrays, *naming[start : start + 2]) for start in range(0, len(naming), 2)]
    classes = _names(arrays["classes"], origin) if "classes" in arrays else None
    if classes == ():
        raise UserError("data.name", f"`classes` of {origin} with at least 2 names", 0)
    return Source(train=pairs[0], test=pairs[1] if len(pairs) > 1 else None, classes=classes)


def labelled(arrays: Mapping[str, Any], images: str, labels: str) -> Labelled:
    """Checked images and labels under their two names in `arrays`."""
    pixels, truth = checked_images(arrays[images], images), checked_labels(arrays[labels], labels)
    if len(pixels) != len(truth):
        raise UserError("data.name", f"as many `{labels}` as `{images}` ({len(pixels)})", len(truth))
    return Labelled(values=pixels, labels=truth)


def checked_images(array: Any, name: str) -> np.ndarray:
    """Images as `(N, C, H, W)`, uint8 or finite float32, from (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    array = _as_array(array, name)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise UserError("data.name", f"`{name}` of uint8 or floats", str(array.dtype))
    array = _channels_first(array, name)
    if array.size == 0:
        raise UserError("data.name", f"`{name}` with at least one image", array.shape)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        broken = int(np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))[0])
        raise UserError("data.name", f"finite `{name}`", f"NaN or infinite values in image {broken}")
    return array


def checked_labels(array: Any, name: str) -> np.ndarray:
    """Labels as int64 `(N,)`, from integers `(N,)` or `(N, 1)`."""
    array = _as_array(array, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError("data.name", f"`{name}` of shape (N,)", array.shape)
    if array.dtype.kind not in "iu":
        raise UserError("data.name", f"`{name}` of integers", str(array.dtype))
    return array.astype(np.int64)


def class_names(source: Source) -> tuple[str, ...]:
    """The classes' names; every label of both splits is checked to be one of theirs."""
    found = len(np.unique(source.train.labels))
    classes = tuple(map(str, range(found))) if source.classes is None else source.classes
    if min(found, len(classes)) < 2:
        raise UserError("data.name", "at least 2 classes", min(found, len(classes)))
    for split in (source.train, source.test):
        if split is None or not len(split.labels):
            continue
        for label in (int(split.labels.min()), int(split.labels.max())):
            if not 0 <= label < len(classes):
                raise UserError("data.name", f"labels from 0 to {len(classes) - 1} ({len(classes)} classes)", label)
    return classes


def _names(given: Any, origin: str) -> tuple[str, ...]:
    """The classes' names as text, from text, its bytes in UTF-8, or numbers."""
    if np.ndim(given) != 1:
        raise UserError("data.name", f"`classes` of {origin} as a list of names", given)
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in given)
    except UnicodeDecodeError as error:
        raise UserError("data.name", f"`classes` of {origin} in UTF-8", error.object) from error


def _as_array(array: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise UserError("data.name", f"`{name}` as one array", str(error)) from error
    if array.dtype.kind == "O":
        raise UserError("data.name", f"`{name}` of numbers", "an array of objects")
    return array


def _channels_first(array: np.ndarray, name: str) -> np.ndarray:
    shape = array.shape
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise UserError("data.name", f"`{name}` of shape (N, H, W), (N, H, W, C) or (N, C, H, W)", shape)
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first and last:  # tiny images: only one reading may be square
        first, last = shape[2] == shape[3], shape[1] == shape[2]
    if first == last:
        raise UserError("data.name", f"`{name}` with 1, 3 or 4 channels either first or last", shape)
    return array if first else array.transpose(0, 3, 1, 2)
