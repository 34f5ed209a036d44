"""A user's own images, seen through the eyes of an ensemble that is already trained."""

import numpy as np

from salcore.data.part import Data, Part, digest
from salcore.data.resize import resize
from salcore.data.source import Source
from salcore.errors import UserError

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow has them."""
FAR = 50
"""Standard deviations of the training data between its mean and that of images on a larger scale."""
WIDE = 20
"""A standard deviation that pixels of 0 to 255 exceed, and that none of 0 to 1 reaches."""


def as_evaluation(
    source: Source, *, shape: tuple[int, ...], classes: tuple[str, ...], mean: np.ndarray, std: np.ndarray
) -> Data:
    """Every image of a source as an evaluation sample `(C, H, W)` of an ensemble, normalised as its training data was.

    Images take the ensemble's size and number of channels (colour becomes luminance, grey is repeated). Labels are
    matched by the names of classes, and are -1 for images in no class folder. Raises UserError for a class that the
    ensemble does not know, for pixels on another scale than its training data, and for series and texts.
    """
    if source.kind != "images" or len(shape) != 3:
        raise UserError("data.name", "images, for an ensemble of images: nothing else is explained anew", source.kind)
    found = source.test if source.test is not None else source.train
    images = _channels(_sized(found.values, shape), shape[0])
    _refuse_other_scale(images, mean, std)
    labels = _labels(found.labels, source.classes, classes)
    rows = np.arange(len(images), dtype=np.int64)
    evaluation, nothing = (Part(values=images, labels=labels, index=index) for index in (rows, rows[:0]))
    return Data(
        train=nothing,
        validation=nothing,
        evaluation=evaluation,
        classes=classes,
        mean=mean,
        std=std,
        digest=digest(nothing, nothing, mean, std, classes),
    )


def _sized(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if images.shape[2:] == shape[1:]:
        return images
    if shape[1] != shape[2]:
        raise UserError(
            "data.name", f"images of {shape[1]} x {shape[2]} pixels, like the training data", images.shape[2:]
        )
    return resize(images, shape[1])


def _channels(images: np.ndarray, channels: int) -> np.ndarray:
    have = images.shape[1]
    if have == channels:
        return images
    if have == 1:
        return np.repeat(images, channels, axis=1)
    if (have, channels) == (3, 1):
        grey = np.einsum("nchw,c->nhw", images.astype(np.float64), LUMINANCE)[:, None]
        return np.rint(grey).astype(images.dtype) if images.dtype == np.uint8 else grey.astype(images.dtype)
    raise UserError("data.name", f"images of {channels} channels, like the training data", have)


def _refuse_other_scale(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    """Raise UserError for images `(N, C, H, W)` on another scale than data with this mean and deviation `(C,)`.

    Nothing tells how that data was scaled but these two, so what is doubtful passes.
    """
    if images.dtype == np.uint8:
        other, got = not _of_unit_scale(mean, std), "uint8 pixels, which count as 0 to 1"
    else:
        low, high = images.min(), images.max()
        distance = np.abs(images.mean(axis=(0, 2, 3), dtype=np.float64) - mean) / std
        other = bool((distance > FAR).any()) or (0 <= low < high <= 1 and bool((std > WIDE).all()))
        got = f"values from {low:.3g} to {high:.3g}"
    if other:
        trained = f"the training data (mean {mean.mean():.3g}, standard deviation {std.mean():.3g})"
        raise UserError("data.name", f"floats prepared like {trained}, from npz:, parquet: or python:", got)


def _of_unit_scale(mean: np.ndarray, std: np.ndarray) -> bool:
    """Whether values from 0 to 1 can have this mean and deviation; one of 1 stands for none at all."""
    narrow = (std <= 0.5 + 1e-6) | (std == 1)
    return bool((narrow & (mean >= 0) & (mean <= 1)).all())


def _labels(labels: np.ndarray, names: tuple[str, ...] | None, classes: tuple[str, ...]) -> np.ndarray:
    """Class numbers of the ensemble; numbers without names are taken as they are, and -1 beside names is unknown."""
    if names == ():
        return np.full(len(labels), -1, np.int64)
    if names is None:
        return _within(labels, 0, len(classes) - 1, "the ensemble's classes").astype(np.int64)
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UserError("data.name", f"folders named after the ensemble's classes ({', '.join(classes)})", unknown[0])
    numbers = np.array([*map(classes.index, names), -1], np.int64)  # the last one is what -1 stands for
    return numbers[_within(labels, -1, len(names) - 1, "the data's own classes, or -1 for an unknown one")]


def _within(labels: np.ndarray, first: int, last: int, meaning: str) -> np.ndarray:
    beyond = labels[(labels < first) | (labels > last)]
    if len(beyond):
        raise UserError("data.name", f"labels from {first} to {last}, {meaning}", int(beyond[0]))
    return labels
