"""How far maps concentrate, against NumPy and maps of known spread."""

import math

import numpy as np
import pytest
import torch

from salcore.faithfulness import gradient_spread


def by_hand(image, top, near):
    """One map (C, H, W)."""
    magnitude = sorted(np.abs(image).mean(0).ravel().tolist(), reverse=True)
    values = image.mean(0).ravel()
    values = values / np.abs(values).max()
    first, third = np.percentile(values, [25, 75])
    low, high = first - 1.5 * (third - first), third + 1.5 * (third - first)
    outliers = [abs(value) for value in values if value < low or value > high]
    distance = abs(np.mean(outliers) - values.mean()) if outliers else math.nan
    share = sum(magnitude[: math.floor(top * len(magnitude) + 1e-9)]) / sum(magnitude)
    return share, distance, float(np.mean(np.abs(values) <= near))


def test_each_map_is_that_of_numpy():
    maps = np.random.default_rng(0).standard_t(2, (20, 3, 5, 6))
    found = gradient_spread(torch.from_numpy(maps), 0.2, near=0.1)
    expected = np.array([by_hand(image, 0.2, 0.1) for image in maps]).T
    for name, values in zip(("top_share", "outlier_distance", "near_zero"), expected, strict=True):
        np.testing.assert_allclose(getattr(found, name).numpy(), values, err_msg=name)


def test_equal_values_have_the_share_of_their_number_and_one_pixel_all_of_it():
    maps = torch.ones(2, 1, 10, 10)
    maps[1] = 0
    maps[1, 0, 4, 7] = -5
    found = gradient_spread(maps)
    assert found.top_share.tolist() == pytest.approx([0.1, 1])
    assert found.outlier_distance.isnan().tolist() == [True, False]
    assert found.outlier_distance[1].item() == pytest.approx(
        1 + 0.01
    )  # the mean is -1 / 100, the outlier 1 away from 0
    assert found.near_zero.tolist() == pytest.approx([0, 0.99])


def test_the_scale_of_a_map_does_not_tell_and_one_of_zeros_says_nothing():
    maps = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    maps[2] = 0
    small, large = gradient_spread(maps), gradient_spread(maps * 1e6)
    for name in ("top_share", "outlier_distance", "near_zero"):
        torch.testing.assert_close(getattr(small, name), getattr(large, name), equal_nan=True)
        assert getattr(small, name).isnan().tolist() == [False, False, True]


def test_a_map_too_short_for_a_top_position_has_no_share_of_it():
    maps = torch.zeros(3, 12, dtype=torch.float64)
    maps[:, 0] = 1
    valid = torch.arange(12) < torch.tensor([12, 10, 9])[:, None]
    found = gradient_spread(maps, kind="text", valid=valid)
    torch.testing.assert_close(found.top_share, torch.tensor([1, 1, torch.nan]).double(), equal_nan=True)
    assert not found.near_zero.isnan().any()


@pytest.mark.parametrize("kind", ["series", "text"])
def test_padding_is_no_part_of_a_map(kind):
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn((4, 3, 12) if kind == "series" else (4, 12), generator=draw, dtype=torch.float64) ** 3
    lengths = (12, 7, 4, 1)
    valid = torch.arange(12) < torch.tensor(lengths)[:, None]
    found = gradient_spread(whole, 0.3, kind=kind, valid=valid)
    for sample, length in enumerate(lengths):
        alone = gradient_spread(whole[sample : sample + 1, ..., :length], 0.3, kind=kind)
        for name in ("top_share", "outlier_distance", "near_zero"):
            torch.testing.assert_close(getattr(found, name)[sample], getattr(alone, name)[0], equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.zeros(2, 3, 4)}, "^`maps`"),
        ({"maps": torch.zeros(0, 1, 3, 4)}, "^`maps`"),
        ({"top": 1.5}, "^`top`"),
        ({"near": -0.1}, "^`near`"),
        ({"kind": "sound"}, "^`kind`"),
        ({"valid": torch.ones(2, 4, dtype=torch.bool)}, "^`valid`: expected None, as images"),
        ({"maps": torch.full((1, 1, 2, 2), math.nan)}, "^`maps`: expected finite values"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        gradient_spread(**{"maps": torch.ones(2, 1, 3, 4), **changes})
