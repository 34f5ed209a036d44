"""From a source as it was found to the parts that an ensemble uses."""

from typing import TYPE_CHECKING

import numpy as np

from salcore.data.part import Data, Part, digest
from salcore.data.resize import resize
from salcore.data.source import Labelled, Source, class_names
from salcore.data.splits import CARVED_SEED, divide, stratified_order
from salcore.errors import UserError
from salcore.moments import Moments

if TYPE_CHECKING:
    from salcore.spec import DataSpec

SUBSET, VALIDATION, EVALUATION = 0, 1, 2
"""What a choice is for; it keeps choices under one `split_seed` independent."""
CARVED_FRACTION = 0.2


def assemble(source: Source, spec: "DataSpec") -> Data:
    """Resizes, splits, and measures the training part's mean and standard deviation per channel."""
    if source.classes == ():
        return _unlabelled(source, spec)
    classes = class_names(source)
    train = _resized(source.train, spec)
    rows, held_out = np.arange(len(train.labels)), None
    if source.test is None:
        count = round(CARVED_FRACTION * len(rows)) if source.held_out is None else source.held_out
        held_out, rows = divide(train.labels, count, CARVED_SEED)
    test = train if source.test is None else _resized(source.test, spec)
    _refuse_different(train, test)
    evaluation = _evaluation(test, np.arange(len(test.labels)) if held_out is None else held_out, spec)
    training, validation = _training(train, rows, spec)
    mean, std = normalisation(training)
    known = digest(training, validation, mean, std, classes)
    return Data(
        train=training, validation=validation, evaluation=evaluation, classes=classes, mean=mean, std=std, digest=known
    )


def normalisation(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof = 0) `(C,)` of a part's pixels, uint8 ones scaled to [0, 1]; float32.

    With mean m_p and variance v_p over the samples at each of a channel's pixels p (law of total variance):

        mean = mean_p m_p        std^2 = mean_p v_p + var_p m_p

    A channel without variance has a standard deviation of 1, so that normalising it gives 0.
    """
    moments = Moments.empty(part.images.shape[1:])
    for images, _ in part.chunks():
        moments = moments.merge(Moments.from_batch(images))
    means, variances = np.asarray(moments.mean), np.asarray(moments.variance(ddof=0))
    scale = 255.0 if part.images.dtype == np.uint8 else 1.0
    mean = means.mean((1, 2)) / scale
    std = np.sqrt(variances.mean((1, 2)) + means.var((1, 2))) / scale
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _training(found: Labelled, rows: np.ndarray, spec: "DataSpec") -> tuple[Part, Part]:
    """The training and the validation part: `train_samples` counts both."""
    if spec.train_samples is not None:
        if spec.train_samples > len(rows):
            raise UserError("data.train_samples", f"at most {len(rows)}, the training split", spec.train_samples)
        chosen, _ = divide(found.labels[rows], spec.train_samples, spec.split_seed, SUBSET)
        rows = rows[chosen]
    count = round(spec.validation_fraction * len(rows))
    if len(rows) - count < 2:
        wanted = f"at least 2 samples to train on beside {count} for validation"
        raise UserError("data.train_samples", wanted, len(rows) - count)
    validation, training = divide(found.labels[rows], count, spec.split_seed, VALIDATION)
    return _part(found, rows[training]), _part(found, rows[validation])


def _evaluation(found: Labelled, rows: np.ndarray, spec: "DataSpec") -> Part:
    asked = "eval_samples" in getattr(spec, "model_fields_set", {"eval_samples"})
    if asked and spec.eval_samples > len(rows):  # the default means as many, or all there are
        raise UserError("data.eval_samples", f"at most {len(rows)}, the evaluation split", spec.eval_samples)
    order = stratified_order(found.labels[rows], spec.split_seed, EVALUATION)
    return _part(found, rows[order[: spec.eval_samples]])


def _unlabelled(source: Source, spec: "DataSpec") -> Data:
    """Images to explain, all of them, in the order of their names: nothing to train on and nothing to normalise by."""
    if source.test is None:
        raise ValueError("`source` without classes: expected its images in `test`, got None")
    found = _resized(source.test, spec)
    nothing = _part(found, np.arange(0))
    mean, std = np.zeros(found.images.shape[1], np.float32), np.ones(found.images.shape[1], np.float32)
    return Data(
        train=nothing,
        validation=nothing,
        evaluation=_part(found, np.arange(len(found.labels))),
        classes=(),
        mean=mean,
        std=std,
        digest=digest(nothing, nothing, mean, std, ()),
    )


def _resized(found: Labelled, spec: "DataSpec") -> Labelled:
    return Labelled(images=resize(found.images, spec.image_size), labels=found.labels)


def _part(found: Labelled, rows: np.ndarray) -> Part:
    return Part(images=found.images, labels=found.labels, index=rows.astype(np.int64))


def _refuse_different(train: Labelled, test: Labelled) -> None:
    if train.images.shape[1] != test.images.shape[1] or train.images.dtype != test.images.dtype:
        told = [f"{found.images.shape[1]} channels of {found.images.dtype}" for found in (train, test)]
        raise UserError("data.name", f"evaluation images with {told[0]}, like the training images", told[1])
    if train.images.shape[2:] != test.images.shape[2:]:
        found = f"{train.images.shape[2:]} and {test.images.shape[2:]}"
        raise UserError("data.image_size", "a size, because training and evaluation images differ in size", found)
