import io

import numpy as np
import pytest
from PIL import Image

from salcore.figures.colour import (
    BLANK,
    Scale,
    displayable,
    image_file,
    map_png,
    masked_png,
    positive_scale,
    shrink,
    signed_scale,
)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_zero_is_white_positive_is_red_and_negative_is_blue():
    values = np.array([[-1.0, 0.0, 1.0]])
    blue, white, red = pixels(map_png(values, signed_scale(values)))[0]
    assert blue[2] > blue[0] + 40
    assert red[0] > red[2] + 40
    assert white.min() > 240


def test_signed_scales_are_symmetric_whatever_the_values():
    scale = signed_scale(np.array([[5.0, -1.0, 2.0]]))
    assert scale.low == -scale.high
    assert positive_scale(np.array([[5.0, 1.0]])).low == 0


def test_one_outlier_does_not_wash_out_the_rest():
    values = np.random.default_rng(0).uniform(-1, 1, (40, 40))
    values[0, 0] = 1e6
    assert signed_scale(values).high <= 1


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(40) * (np.arange(40) == 3)])
def test_maps_of_nothing_have_a_scale(values):
    scale = signed_scale(values)
    assert scale.high > 0
    assert pixels(map_png(values, scale)).shape == (*values.shape, 3)


def test_a_map_is_one_pixel_per_value_and_keeps_its_orientation():
    values = np.zeros((4, 7))
    values[3, 0] = 1
    drawn = pixels(map_png(values, Scale(low=-1, high=1, palette="RdBu_r")))
    assert drawn.shape == (4, 7, 3)
    assert drawn[3, 0].tolist() != drawn[0, 6].tolist()


def test_maps_with_channels_are_refused():
    with pytest.raises(ValueError, match="`values`"):
        map_png(np.zeros((1, 4, 4)), signed_scale(np.zeros(1)))


def test_shrinking_keeps_the_mean_and_the_limit():
    values = np.random.default_rng(0).standard_normal((320, 480))
    small = shrink(values, 100)
    assert max(small.shape) <= 100
    assert small.mean() == pytest.approx(values.mean())
    assert shrink(values[:50, :50], 100) is not None
    assert shrink(np.ones((300, 1)), 100).shape == (100, 1)


def test_uint8_images_are_shown_as_they_are():
    colour = np.random.default_rng(0).integers(0, 256, (3, 5, 6), dtype=np.uint8)
    assert (pixels(image_file(colour)) == colour.transpose(1, 2, 0)).all()
    assert (displayable(colour[:1]) == colour[0]).all()


def test_float_images_are_stretched_and_other_channels_averaged():
    assert displayable(np.array([[[-2.0, 0.0, 2.0]]], np.float32)).tolist() == [[0, 128, 255]]
    assert displayable(np.array([[[0]], [[100]]], np.uint8)).tolist() == [[50]]
    assert displayable(np.zeros((1, 2, 2), np.float32)).tolist() == [[0, 0], [0, 0]]


def test_photographs_become_jpeg_of_a_bounded_size():
    photograph = np.random.default_rng(0).integers(0, 256, (3, 600, 300), dtype=np.uint8)
    assert image_file(photograph).startswith(b"\xff\xd8")
    assert pixels(image_file(photograph)).shape == (200, 100, 3)


def test_a_masked_map_is_grey_outside_and_the_same_inside():
    values = np.random.default_rng(0).standard_normal((6, 8))
    mask = values > 0.2
    scale = signed_scale(values)
    whole, drawn = pixels(map_png(values, scale)), pixels(masked_png(values, mask, scale))
    assert (drawn[~mask] == BLANK).all()
    assert (drawn[mask] == whole[mask]).all()
    assert (pixels(masked_png(values, np.ones_like(mask), scale)) != BLANK).any(axis=-1).all()


def test_where_pixels_are_averaged_down_the_mask_keeps_what_it_has_any_of():
    values, mask = np.array([[5.0, -9.0], [-9.0, -9.0]]), np.array([[True, False], [False, False]])
    scale = Scale(low=-9, high=9, palette="RdBu_r")
    assert pixels(masked_png(values, mask, scale, 1)).tolist() == pixels(map_png(np.array([[5.0]]), scale)).tolist()
    assert pixels(masked_png(values, ~mask & (values > 0), scale, 1)).tolist() == [[list(BLANK)]]


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="`mask`"):
        masked_png(np.zeros((4, 4)), np.ones((4, 5), bool), signed_scale(np.zeros(1)))
