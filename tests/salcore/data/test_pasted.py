"""Pictures of objects beside clutter: where everything is, and with which class the clutter goes."""

import numpy as np
import pytest
from scipy import stats

from salcore.data import load
from salcore.data.pasted import CLASSES, GREY, NOISE, SAMPLES, pasted


@pytest.fixture(scope="module", params=["train", "test"])
def drawn(request):
    return request.param, pasted(request.param, 3)


def inside(boxes):
    """Which pixels (N, 32, 32) lie in the boxes, pixel by pixel."""
    left, top, right, bottom = boxes.T[:, :, None, None]
    y, x = np.indices((32, 32))
    return (left <= x) & (x < right) & (top <= y) & (y < bottom)


def test_boxes_lie_in_the_picture_and_apart(drawn):
    split, found = drawn
    assert found.images.shape == (SAMPLES[split], 3, 32, 32)
    for boxes, side in ((found.objects, 11), (found.patches, 9)):
        assert ((boxes[:, 2:] - boxes[:, :2]) == side).all()
        assert boxes.min() == 0
        assert boxes.max() == 32
    assert not (inside(found.objects) & inside(found.patches)).any()


def test_objects_are_everywhere_and_patches_too(drawn):
    _, found = drawn
    for axis in (0, 1):
        places = np.bincount(found.objects[:, axis], minlength=22)
        assert stats.chisquare(places).pvalue > 1e-3
    seen = inside(found.patches).mean(0)
    assert seen[2:-2, 2:-2].min() > 0.01


def test_what_is_outside_both_boxes_is_noise(drawn):
    _, found = drawn
    rest = ~(inside(found.objects) | inside(found.patches))
    noise = found.images.transpose(0, 2, 3, 1)[rest].astype(float)
    assert noise.mean() == pytest.approx(GREY, abs=0.1)
    assert noise.std() == pytest.approx(NOISE, rel=0.01)


def test_patches_agree_with_objects_in_9_of_10_pictures_or_every_second(drawn):
    split, found = drawn
    share = {"train": 0.9, "test": 0.5}[split]
    assert (found.patterns == found.labels).mean() == pytest.approx(share, abs=4 * np.sqrt(0.25 / len(found.labels)))
    assert stats.chisquare(np.bincount(found.labels)).pvalue > 1e-3
    others = (found.patterns - found.labels)[found.patterns != found.labels] % 4
    assert stats.chisquare(np.bincount(others)[1:]).pvalue > 1e-3


def crops(found, boxes):
    return np.stack(
        [
            image[:, top:bottom, left:right]
            for image, (left, top, right, bottom) in zip(found.images, boxes, strict=True)
        ]
    ).astype(float)


def test_patches_of_a_class_are_alike_and_those_of_two_are_not(drawn):
    _, found = drawn
    means = [crops(found, found.patches)[found.patterns == each].mean((0, 1)) - GREY for each in range(4)]
    for mean in means:
        np.testing.assert_allclose(np.abs(mean), 30, atol=6)  # CONTRAST, up to noise
    assert np.abs(np.corrcoef([mean.ravel() for mean in means])[np.triu_indices(4, 1)]).max() < 0.5


def test_the_shape_tells_the_class_and_the_colour_does_not(drawn):
    _, found = drawn
    deviations = np.abs(crops(found, found.objects) - GREY).mean(1)
    shapes = [deviations[found.labels == each].mean(0) > 45 for each in range(4)]
    assert len({shape.tobytes() for shape in shapes}) == 4
    assert [int(shape.sum()) for shape in shapes] == [89, 81, 57, 76]
    for channel in range(3):
        lighter = [
            crops(found, found.objects)[found.labels == each, channel][:, shapes[each]].mean(1) > GREY
            for each in range(4)
        ]
        assert all(0.38 < each.mean() < 0.62 for each in lighter)


def test_samples_follow_the_seed_and_differ():
    one = pasted("test", 0)
    np.testing.assert_array_equal(one.images, pasted("test", 0).images)
    assert len({image.tobytes() for image in one.images}) == 1000
    for other in (pasted("test", 1).images, pasted("train", 0).images[:1000]):
        assert abs(np.corrcoef(one.images.ravel(), other.ravel())[0, 1]) < 0.1


def test_parts_of_the_data_are_rows_of_what_was_drawn(spec):
    data = load(spec("pasted", split_seed=4, eval_samples=100))
    assert (data.shape, data.classes) == ((3, 32, 32), CLASSES)
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (1600, 400, 100)
    for part, split in ((data.train, "train"), (data.validation, "train"), (data.evaluation, "test")):
        found = pasted(split, 4)
        np.testing.assert_array_equal(part.values[part.index], found.images[part.index])
        np.testing.assert_array_equal(part.labels[part.index], found.labels[part.index])
