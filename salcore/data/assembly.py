"""From a source as it was found to the parts that an ensemble uses."""

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.batches import valid_steps
from salcore.data.part import Data, Kind, Part, digest
from salcore.data.resize import resize
from salcore.data.sequences import fitted
from salcore.data.source import Labelled, Source, class_names
from salcore.data.splits import CARVED_SEED, divide, stratified_order
from salcore.errors import UserError
from salcore.moments import Moments

if TYPE_CHECKING:
    from salcore.spec import DataSpec

SUBSET, VALIDATION, EVALUATION, LABELLED = 0, 1, 2, 3
"""What a choice is for; it keeps choices under one `split_seed` independent."""
CARVED_FRACTION = 0.2
SERIES_AT_ONCE = 256


def assemble(source: Source, spec: "DataSpec") -> Data:
    """Brings samples to one size, splits, and measures the training part's mean and deviation per channel or feature.

    Texts keep 0 and 1, one of each per value of a word's vector, or one in all of tokens.
    """
    _refuse_other_keys(source, spec)
    if source.classes == ():
        return _unlabelled(source, spec)
    classes = class_names(source)
    train = _sized(source.train, source.kind, spec)
    rows, test = np.arange(len(train.labels)), train
    if source.test is None:
        held_out, rows = set_apart(train.labels, source.held_out)
    else:
        test = _sized(source.test, source.kind, spec)
        held_out = np.arange(len(test.labels))
    _refuse_different(train, test)
    training, validation = _training(train, rows, source.validation, spec)
    if spec.eval_split == "all":  # labels that are not known to training are not known here either
        seen = replace(train, labels=training.labels)
        evaluation = _everything(seen, None if source.test is None else test, source, spec)
    else:
        evaluation = _evaluation(test, held_out, spec)
    mean, std = _measured(training, source)
    known = digest(training, validation, mean, std, classes)
    return Data(
        train=training,
        validation=validation,
        evaluation=evaluation,
        classes=classes,
        mean=mean,
        std=std,
        digest=_with_words(known, source, training, validation),
        kind=source.kind,
        vectors=source.vectors,
        words=source.words,
        tokenizer=source.tokenizer,
        notes=source.notes,
    )


def set_apart(labels: np.ndarray, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a set without an evaluation split `(N,)`: `count` for evaluation (None: a fifth), and the others."""
    return divide(labels, round(CARVED_FRACTION * len(labels)) if count is None else count, CARVED_SEED)


def normalisation(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof = 0) `(C,)` of a part's pixels, uint8 ones scaled to [0, 1]; float32.

    With mean m_p and variance v_p over the samples at each of a channel's pixels p (law of total variance):

        mean = mean_p m_p        std^2 = mean_p v_p + var_p m_p

    A channel without variance has a standard deviation of 1, so that normalising it gives 0.
    """
    moments = Moments.empty(part.values.shape[1:])
    for images, _ in part.chunks():
        moments = moments.merge(Moments.from_batch(images))
    means, variances = np.asarray(moments.mean), np.asarray(moments.variance(ddof=0))
    scale = 255.0 if part.values.dtype == np.uint8 else 1.0
    mean = means.mean((1, 2)) / scale
    std = np.sqrt(variances.mean((1, 2)) + means.var((1, 2))) / scale
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def series_normalisation(part: Part, *, one_unit: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof = 0) `(F,)` of a part's series over all steps that are no padding; float32.

    `one_unit`: over all features too, the same for each. A feature that varies by less than float32 can tell has a
    standard deviation of 1, so that normalising it gives 0.
    """
    features = part.values.shape[1]
    columns = 1 if one_unit else features
    moments = Moments.empty((columns,))
    for start in range(0, len(part), SERIES_AT_ONCE):
        rows = part.index[start : start + SERIES_AT_ONCE]
        steps, valid = part.values[rows].transpose(0, 2, 1), valid_steps(part, rows)
        steps = steps if valid is None else steps[valid.numpy()]
        moments = moments.merge(Moments.from_batch(steps.reshape(-1, columns)))
    mean, std = np.asarray(moments.mean), np.asarray(moments.std(ddof=0))
    std = np.where(std > np.finfo(np.float32).eps * np.abs(mean), std, 1)
    return np.full(features, mean, np.float32), np.full(features, std, np.float32)


def _measured(training: Part, source: Source) -> tuple[np.ndarray, np.ndarray]:
    if source.kind == "text":
        width = 1 if source.vectors is None else source.vectors.shape[1]
        return np.zeros(width, np.float32), np.ones(width, np.float32)
    if source.kind == "images":
        return normalisation(training)
    return series_normalisation(training, one_unit=source.one_unit)


def _with_words(known: str, source: Source, *parts: Part) -> str:
    """Of texts, a digest that is also over the words of both parts, which come first, and their vectors; or over the
    tokenizer, what word each token is of, and what is a query.
    """
    if source.tokenizer is not None:
        return _with_tokens(known, source.tokenizer, *parts)
    if source.vectors is None:
        return known
    met = 1 + max(int(part.values[part.index].max(initial=0)) for part in parts)
    told = hashlib.sha256(known.encode() + json.dumps(source.words[:met]).encode())
    told.update(np.ascontiguousarray(source.vectors[:met], dtype="<f4").data)
    return told.hexdigest()


def _with_tokens(known: str, tokenizer: str, *parts: Part) -> str:
    told = hashlib.sha256(known.encode() + hashlib.sha256(tokenizer.encode()).digest())
    for part in parts:
        for array, kind in ((part.word_of, "<i4"), (part.query, "<i8")):
            if array is not None:
                told.update(np.ascontiguousarray(array[part.index], dtype=kind).data)
    return told.hexdigest()


def _training(found: Labelled, rows: np.ndarray, own: int | None, spec: "DataSpec") -> tuple[Part, Part]:
    """The training and the validation part, of a set the last `own` of whose samples are its own validation split.

    `train_samples` counts both parts, or the first one alone where the second is the set's own.
    """
    if spec.validation_fraction is None:
        rows, validation = _split_by_the_set(found, rows, own, spec)
        return _with_unlabelled(_part(found, _chosen(found, rows, spec)), spec), _part(found, validation)
    rows = _chosen(found, rows, spec)
    count = round(spec.validation_fraction * len(rows))
    if len(rows) - count < 2:
        wanted = f"at least 2 samples to train on beside {count} for validation"
        raise UserError("data.train_samples", wanted, len(rows) - count)
    validation, training = divide(found.labels[rows], count, spec.split_seed, VALIDATION)
    return _with_unlabelled(_part(found, rows[training]), spec), _part(found, rows[validation])


def _split_by_the_set(
    found: Labelled, rows: np.ndarray, own: int | None, spec: "DataSpec"
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training and of the validation split, as the set itself has them."""
    if own is None:
        expected = f"a share, as {spec.name} has no validation split of its own"
        raise UserError("data.validation_fraction", expected, None)
    first = len(found.labels) - own
    training = rows[rows < first]
    if len(training) < 2:
        raise UserError("data.name", f"at least 2 training samples in {spec.name}", len(training))
    return training, rows[rows >= first]


def _chosen(found: Labelled, rows: np.ndarray, spec: "DataSpec") -> np.ndarray:
    """`train_samples` of some rows, stratified; all of them where it is None."""
    if spec.train_samples is None:
        return rows
    if spec.train_samples > len(rows):
        raise UserError("data.train_samples", f"at most {len(rows)}, the training split", spec.train_samples)
    return rows[divide(found.labels[rows], spec.train_samples, spec.split_seed, SUBSET)[0]]


def _with_unlabelled(training: Part, spec: "DataSpec") -> Part:
    """The training part with the labels of a stratified share `labelled` of it; the others become -1."""
    if spec.labelled == 1:
        return training
    count = round(spec.labelled * len(training))
    if count < 2:
        expected = f"a share that leaves 2 labels or more of {len(training)} training samples"
        raise UserError("data.labelled", expected, spec.labelled)
    _, unlabelled = divide(training.labels[training.index], count, spec.split_seed, LABELLED)
    labels = training.labels.copy()
    labels[training.index[unlabelled]] = -1
    return replace(training, labels=labels)


def _evaluation(found: Labelled, rows: np.ndarray, spec: "DataSpec") -> Part:
    _refuse_more_than(len(rows), spec)  # the default means as many, or all there are
    order = stratified_order(found.labels[rows], spec.split_seed, EVALUATION)
    return _part(found, rows[order[: spec.eval_samples]])


def _everything(train: Labelled, test: Labelled | None, source: Source, spec: "DataSpec") -> Part:
    """All texts in the order of the files, the training split first, or the first `eval_samples` if that is set."""
    if source.kind != "text":
        raise UserError("data.eval_split", f"test, as the samples of {spec.name} are {source.kind}", spec.eval_split)
    found = train if test is None else _joined(train, test)
    asked = _refuse_more_than(len(found.labels), spec)
    return _part(found, np.arange(spec.eval_samples if asked else len(found.labels)))


def _joined(first: Labelled, second: Labelled) -> Labelled:
    """Two splits as one; both have the same fields."""
    pairs = {name: (array, getattr(second, name)) for name, array in vars(first).items() if array is not None}
    return Labelled(**{name: np.concatenate(pair) for name, pair in pairs.items()})


def _refuse_more_than(most: int, spec: "DataSpec") -> bool:
    """Whether `eval_samples` is set. Raises UserError where it is, and to more than there are."""
    asked = "eval_samples" in getattr(spec, "model_fields_set", {"eval_samples"})
    if asked and spec.eval_samples > most:
        raise UserError("data.eval_samples", f"at most {most}, the evaluation split", spec.eval_samples)
    return asked


def _unlabelled(source: Source, spec: "DataSpec") -> Data:
    """Images to explain, all of them, in the order of their names: nothing to train on and nothing to normalise by."""
    if source.test is None:
        raise ValueError("`source` without classes: expected its images in `test`, got None")
    found = _sized(source.test, source.kind, spec)
    nothing = _part(found, np.arange(0))
    mean, std = np.zeros(found.values.shape[1], np.float32), np.ones(found.values.shape[1], np.float32)
    return Data(
        train=nothing,
        validation=nothing,
        evaluation=_part(found, np.arange(len(found.labels))),
        classes=(),
        mean=mean,
        std=std,
        digest=digest(nothing, nothing, mean, std, ()),
    )


def _sized(found: Labelled, kind: Kind, spec: "DataSpec") -> Labelled:
    """Samples of `data.image_size`, or of `data.length` steps or words."""
    if kind == "images":
        return replace(found, values=resize(found.values, spec.image_size))
    return fitted(found, spec.length)


def _part(found: Labelled, rows: np.ndarray) -> Part:
    return Part(**vars(found), index=rows.astype(np.int64))


def _refuse_other_keys(source: Source, spec: "DataSpec") -> None:
    """Raise UserError for keys that say nothing of this kind of data, so that none is passed over in silence."""
    keys = {
        "images": ("length", "vectors", "tokenizer"),
        "series": ("image_size", "vectors", "tokenizer"),
        "text": ("image_size",),
    }
    for key in keys[source.kind]:
        if getattr(spec, key) is not None:
            raise UserError(f"data.{key}", f"null, as the samples of {spec.name} are {source.kind}", getattr(spec, key))
    if source.kind != "text" and not spec.cut:
        raise UserError("data.cut", f"true, as the samples of {spec.name} are {source.kind}", spec.cut)


def _refuse_different(train: Labelled, test: Labelled) -> None:
    if train.values.shape[1] != test.values.shape[1] or train.values.dtype != test.values.dtype:
        told = [f"{found.values.shape[1]} channels of {found.values.dtype}" for found in (train, test)]
        raise UserError("data.name", f"evaluation images with {told[0]}, like the training images", told[1])
    if train.values.shape[2:] != test.values.shape[2:]:
        found = f"{train.values.shape[2:]} and {test.values.shape[2:]}"
        raise UserError("data.image_size", "a size, because training and evaluation images differ in size", found)
