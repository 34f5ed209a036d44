"""A user's own images as the members saw their training data: size, channels, normalisation, classes."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from salcore.data.assembly import normalisation
from salcore.data.own import as_evaluation
from salcore.data.part import Part
from salcore.data.source import Labelled, Source
from salcore.errors import UserError

MEAN, STD = np.array([0.25], np.float32), np.array([0.5], np.float32)


def source(images, labels=None, classes=None, test=None):
    count = len(images)
    found = Labelled(values=images, labels=np.arange(count) % 2 if labels is None else np.asarray(labels))
    return Source(train=found, test=test, classes=classes)


def seen(found, *, shape=(1, 4, 4), classes=("cat", "dog", "eel"), mean=MEAN, std=STD):
    return as_evaluation(found, shape=shape, classes=classes, mean=mean, std=std)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_every_image_is_an_evaluation_sample_in_order_and_nothing_else():
    images = pixels(5, 1, 4, 4)
    data = seen(source(images, [0, 1, 2, 1, 0]))
    np.testing.assert_array_equal(data.evaluation.values[data.evaluation.index], images)
    assert data.evaluation.index.tolist() == [0, 1, 2, 3, 4]
    assert data.evaluation.labels.tolist() == [0, 1, 2, 1, 0]
    assert len(data.train) == len(data.validation) == 0
    assert (data.shape, data.classes) == ((1, 4, 4), ("cat", "dog", "eel"))


def test_normalisation_is_the_ensembles_not_the_images():
    data = seen(source(pixels(5, 1, 4, 4)))
    assert data.mean is MEAN
    assert data.std is STD


def test_a_split_of_its_own_is_what_is_explained():
    own = Labelled(values=pixels(3, 1, 4, 4, seed=1), labels=np.array([2, 2, 0]))
    data = seen(source(pixels(5, 1, 4, 4), test=own))
    np.testing.assert_array_equal(data.evaluation.values, own.values)


def test_grey_is_repeated_and_colour_becomes_pillows_luminance():
    grey = pixels(2, 1, 4, 4)
    data = seen(source(grey), shape=(3, 4, 4))
    assert data.shape == (3, 4, 4)
    for channel in range(3):
        np.testing.assert_array_equal(data.evaluation.values[:, channel], grey[:, 0])
    colour = pixels(40, 3, 4, 4)
    found = seen(source(colour)).evaluation.values
    assert found.dtype == np.uint8
    expected = np.stack([np.asarray(Image.fromarray(each.transpose(1, 2, 0)).convert("L")) for each in colour])
    assert np.abs(found[:, 0].astype(int) - expected).max() <= 1  # Pillow rounds in fixed point


def test_colour_in_floats_stays_in_floats():
    colour = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    found = seen(source(colour)).evaluation.values
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], colour[:, 0] * 0.299 + colour[:, 1] * 0.587 + colour[:, 2] * 0.114, 1e-5)


def measured(images):
    """What a member's record tells of pixels that it was trained on."""
    labels = np.zeros(len(images), np.int64)
    mean, std = normalisation(Part(values=images, labels=labels, index=np.arange(len(images))))
    return {"mean": mean, "std": std}


ONE_WHITE = np.zeros((40, 1, 4, 4), np.uint8)
ONE_WHITE[7, 0, 1, 2] = 255


@pytest.mark.parametrize(
    "trained",
    [pixels(40, 1, 4, 4), pixels(40, 1, 4, 4) // 128 * 255, np.full((9, 1, 4, 4), 255, np.uint8), ONE_WHITE],
    ids=["grey", "black and white", "blank", "one white pixel"],
)
@pytest.mark.parametrize("trained_scale", [None, 255])
@pytest.mark.parametrize("own_scale", [None, 255])
def test_pixels_of_one_range_go_together_whatever_their_type(trained, trained_scale, own_scale):
    def typed(images, scale):
        return images if scale is None else (images / scale).astype(np.float32)

    own = typed(pixels(3, 1, 4, 4, seed=1), own_scale)
    assert len(seen(source(own), **measured(typed(trained, trained_scale))).evaluation) == 3


@pytest.mark.parametrize("trained", ["0 to 255", "standardised"])
def test_pictures_are_refused_where_the_training_data_were_floats_of_another_range(trained):
    floats = pixels(40, 1, 4, 4).astype(np.float32)
    prepared = floats if trained == "0 to 255" else (floats - floats.mean()) / floats.std()
    known = measured(prepared[:30])
    with pytest.raises(UserError, match=r"data\.name: expected floats prepared like .*mean.* npz.*got 'uint8 pixels"):
        seen(source(pixels(3, 1, 4, 4)), **known)


@pytest.mark.parametrize(("trained", "own"), [(1, 255), (1, 65535), (255, 1), (255, 65535), (65535, 1)])
def test_floats_are_refused_that_are_scaled_unlike_the_training_data(trained, own):
    unit = np.random.default_rng(0).random((40, 1, 4, 4), np.float32)
    known = measured(unit * np.float32(trained))
    assert len(seen(source(unit[:3] * np.float32(trained)), **known).evaluation) == 3
    with pytest.raises(UserError, match=r"data\.name: expected floats prepared like .*mean.*got 'values from"):
        seen(source(unit[:3] * np.float32(own)), **known)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(UserError, match="images of 3 channels"):
        seen(source(pixels(2, 4, 4, 4)), shape=(3, 4, 4))


def test_images_take_the_size_of_the_ensemble():
    assert seen(source(pixels(2, 1, 9, 9))).shape == (1, 4, 4)
    assert seen(source(pixels(2, 1, 4, 6)), shape=(1, 4, 6)).shape == (1, 4, 6)
    with pytest.raises(UserError, match="4 x 6 pixels"):
        seen(source(pixels(2, 1, 9, 9)), shape=(1, 4, 6))


def test_labels_are_matched_by_the_names_of_classes():
    data = seen(source(pixels(4, 1, 4, 4), [0, 1, 1, 0], classes=("eel", "cat")))
    assert data.evaluation.labels.tolist() == [2, 0, 0, 2]


def test_a_class_that_the_ensemble_does_not_know_is_named():
    with pytest.raises(UserError, match=r"cat, dog, eel.*'wolf'"):
        seen(source(pixels(4, 1, 4, 4), [0, 1, 1, 0], classes=("cat", "wolf")))


def test_images_in_no_class_folder_have_no_label():
    own = Labelled(values=pixels(3, 1, 4, 4), labels=np.zeros(3, np.int64))
    data = seen(Source(train=own, test=own, classes=()))
    assert data.evaluation.labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(("labels", "wrong"), [([0, 3], 3), ([0, -1], -1)])
def test_numbers_beyond_the_classes_are_refused_and_told(labels, wrong):
    with pytest.raises(UserError, match=rf"labels from 0 to 2.*got {wrong}$"):
        seen(source(pixels(2, 1, 4, 4), labels))


def test_an_unknown_label_beside_names_stays_unknown():
    data = seen(source(pixels(3, 1, 4, 4), [0, -1, 1], classes=("eel", "cat")))
    assert data.evaluation.labels.tolist() == [2, -1, 0]


@pytest.mark.parametrize("wrong", [2, 5, -2])
def test_numbers_beyond_the_names_are_refused_and_told(wrong):
    with pytest.raises(UserError, match=rf"labels from -1 to 1, .*got {wrong}$"):
        seen(source(pixels(3, 1, 4, 4), [0, wrong, 1], classes=("eel", "cat")))


def test_the_content_of_the_images_does_not_make_other_members():
    first, second = (seen(source(pixels(3, 1, 4, 4, seed=seed))) for seed in (0, 1))
    assert first.digest == second.digest


@pytest.mark.parametrize(
    ("kind", "shape"), [("series", (1, 4, 4)), ("text", (1, 4, 4)), ("images", (4, 4))], ids=["series", "text", "of it"]
)
def test_series_and_texts_are_refused_on_either_side(kind, shape):
    with pytest.raises(UserError, match=rf"data\.name: expected images, for an ensemble of images: .*got '{kind}'"):
        seen(replace(source(pixels(2, 1, 4, 4)), kind=kind), shape=shape)
