"""How images are cut into superpixels: grids, SLIC and a user's own labels."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salcore.attribution import superpixels as module
from salcore.attribution.superpixels import Segmentation, grid, segment


@pytest.fixture(autouse=True)
def _nothing_kept():
    module._KEPT.clear()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells(labels):
    """The numbers of rows and columns of a grid, from the labels of its edges."""
    return len(labels[:, 0].unique()), len(labels[0].unique())


@pytest.mark.parametrize(
    ("height", "width", "number", "expected"),
    [
        (28, 28, 64, (8, 8)),
        (28, 28, 8, (2, 4)),
        (28, 28, 1, (1, 1)),
        (28, 28, 62, (7, 9)),
        (32, 16, 8, (4, 2)),
        (16, 32, 8, (2, 4)),
        (30, 60, 50, (5, 10)),
        (9, 12, 12, (3, 4)),
        (7, 7, 64, (7, 7)),
        (4, 3, 1000, (4, 3)),
        (1, 100, 8, (1, 8)),
        (100, 2, 8, (8, 1)),
        (1, 1, 64, (1, 1)),
    ],
)
def test_the_grid_is_the_one_nearest_to_the_number(height, width, number, expected):
    assert cells(grid(height, width, number)) == expected


@given(height=st.integers(1, 40), width=st.integers(1, 40), number=st.integers(1, 200))
def test_a_grid_is_made_of_equal_rectangles(height, width, number):
    labels = grid(height, width, number)
    rows, columns = cells(labels)
    assert labels.shape == (height, width)
    assert torch.equal(labels.unique(), torch.arange(rows * columns))
    assert torch.equal(labels, labels[:, :1] + labels[:1] - labels[0, 0])
    for edge in (labels[:, 0], labels[0]):
        sizes = edge.unique(return_counts=True)[1]
        assert sizes.max() - sizes.min() <= 1
    assert rows * columns <= height * width
    if min(height, width) >= number:
        assert abs(rows * columns - number) <= max(1, number**0.5 / 2)


def test_all_images_of_a_grid_are_cut_alike_and_none_too():
    for count in (0, 3):
        segmentation = segment(torch.zeros(count, 3, 8, 8), "grid", 16)
        assert segmentation.labels.shape == (1, 8, 8)
        assert segmentation.counts == (16,)


def quarters(channels=3, count=2):
    """Four plain areas with a little noise, whose border is not that of any grid."""
    images = 0.01 * noise(count, channels, 20, 24)
    images[:, :, :7, :9] += 1
    images[:, 0, 7:, :9] -= 1
    images[:, -1, 7:, 9:] += 2
    area = torch.zeros(20, 24, dtype=torch.int64)
    area[:7, 9:], area[7:, :9], area[7:, 9:] = 1, 2, 3
    return images, area


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_slic_follows_edges_whatever_the_number_of_channels(channels):
    images, area = quarters(channels)
    segmentation = segment(images, "slic", 20)
    for labels, count in zip(segmentation.labels, segmentation.counts, strict=True):
        assert 4 <= count <= 20
        assert torch.equal(labels.unique(), torch.arange(count))
        crossing = sum(len(area[labels == label].unique()) > 1 for label in range(count))
        assert crossing <= 1


def test_the_test_of_edges_can_fail():
    _, area = quarters()
    labels = grid(20, 24, 20)
    assert sum(len(area[labels == label].unique()) > 1 for label in range(20)) > 3


def test_slic_cuts_each_image_by_itself_and_alike_in_every_scale_and_dtype():
    images, _ = quarters(count=5)
    images[1:] += noise(4, 3, 20, 24, seed=1) * torch.arange(1, 5)[:, None, None, None]
    together = segment(images, "slic", 20).labels
    for place in range(5):
        module._KEPT.clear()
        assert torch.equal(segment(images[place : place + 1] * 64 - 3, "slic", 20).labels[0], together[place])
    assert torch.equal(segment(images.float().double(), "slic", 20).labels, segment(images.float(), "slic", 20).labels)
    assert not torch.equal(together[1], together[2])


@pytest.mark.parametrize("image", [noise(1, 3, 32, 32), torch.zeros(1, 1, 9, 7), noise(1, 2, 1, 9), noise(1, 1, 1, 1)])
@pytest.mark.parametrize("number", [1, 8, 64, 1000])
def test_slic_never_makes_more_than_it_is_asked_for(image, number):
    (count,) = segment(image, "slic", number).counts
    assert 1 <= count <= min(number, image[0, 0].numel())


def test_an_image_that_is_not_finite_is_cut_too():
    images, _ = quarters()
    images[0, 0, 3, 3], images[0, 0, 4, 4], images[0, 1, 5, 5] = torch.nan, torch.inf, -torch.inf
    segmentation = segment(images, "slic", 20)
    assert torch.equal(segmentation.labels[1], segment(images[1:], "slic", 20).labels[0])


def test_the_same_image_is_cut_once_and_what_is_kept_is_bounded(monkeypatch):
    calls = []
    real = module._segments
    monkeypatch.setattr(module, "_segments", lambda image, number: calls.append(number) or real(image, number))
    images = noise(6, 1, 10, 10)
    first = segment(images, "slic", 8)
    again = segment(images.flip(0), "slic", 8)
    assert torch.equal(again.labels.flip(0), first.labels)
    assert len(calls) == 6
    segment(images, "slic", 9)
    assert len(calls) == 12
    monkeypatch.setattr(module, "_KEPT_PIXELS", 400)
    segment(images, "slic", 8)
    assert len(module._KEPT) == 4
    del calls[:]
    segment(images[2:], "slic", 8)
    assert not calls
    segment(images[5:].reshape(1, 1, 5, 20), "slic", 8)
    assert len(calls) == 1


def test_a_caller_who_writes_into_labels_does_not_change_what_is_kept():
    images = noise(2, 1, 10, 10)
    first = segment(images, "slic", 8).labels
    copy = first.clone()
    first.zero_()
    assert torch.equal(segment(images, "slic", 8).labels, copy)


def test_without_scikit_image_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ValueError, match=r"^`superpixels`.*`pip install scikit-image`, or superpixels=grid$"):
        segment(torch.zeros(1, 1, 8, 8), "slic", 4)
    assert segment(torch.zeros(1, 1, 8, 8), "grid", 4).counts == (4,)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int32])
def test_a_users_labels_are_taken_whatever_the_numbers(dtype):
    labels = torch.tensor([[3, 3, 200], [3, 7, 200]], dtype=dtype)
    shared = segment(torch.zeros(4, 1, 2, 3), labels, 64)
    assert shared.labels.tolist() == [[[0, 0, 2], [0, 1, 2]]]
    assert shared.counts == (3,)
    own = segment(torch.zeros(2, 1, 2, 3), torch.stack([labels, torch.full_like(labels, 7)]), 64)
    assert own.labels.tolist() == [[[0, 0, 2], [0, 1, 2]], [[0, 0, 0], [0, 0, 0]]]
    assert own.counts == (3, 1)


def test_negative_labels_are_labels():
    assert segment(torch.zeros(1, 1, 1, 3), torch.tensor([[-5, 10**15, -5]]), 64).labels.tolist() == [[[0, 1, 0]]]


@pytest.mark.parametrize(
    ("superpixels", "number", "words"),
    [
        ("quickshift", 64, "`superpixels`: expected 'grid' or 'slic' or integer labels, got 'quickshift'"),
        (torch.zeros(2, 3), 64, r"`superpixels`: expected integer labels \(2, 3\) or \(4, 2, 3\).*float32"),
        (torch.zeros(3, 2, dtype=torch.int64), 64, r"`superpixels`.*got \(3, 2\)"),
        (torch.zeros(3, 2, 3, dtype=torch.int64), 64, r"`superpixels`.*got \(3, 2, 3\)"),
        ("grid", 0, "`num_superpixels`: expected 1 or more, got 0"),
    ],
)
def test_what_is_no_cut_is_refused(superpixels, number, words):
    with pytest.raises(ValueError, match=words) as error:
        segment(torch.zeros(4, 1, 2, 3), superpixels, number)
    assert "\n" not in str(error.value)


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match=r"`inputs`: expected images \(N, C, H, W\).*, got \(4, 6\)"):
        segment(torch.zeros(4, 6), "grid", 4)


@pytest.mark.parametrize("shared", [True, False])
def test_painting_sizes_and_averages_are_those_of_loops(shared):
    labels = torch.randint(0, 5, (1 if shared else 3, 4, 6), generator=torch.Generator().manual_seed(0))
    labels[:, 0, :5] = torch.arange(5)
    segmentation = Segmentation(labels=labels, counts=(5,) * len(labels))
    images, coefficients = noise(3, 2, 4, 6), noise(3, 5)
    painted, averaged, sizes = segmentation.paint(coefficients), segmentation.averaged(images), segmentation.sizes()
    assert painted.shape == (3, 1, 4, 6)
    for sample, row, column in np.ndindex(3, 4, 6):
        own = labels[0 if shared else sample]
        members = own == own[row, column]
        assert painted[sample, 0, row, column] == coefficients[sample, own[row, column]]
        assert sizes[0 if shared else sample, row, column] == members.sum()
        for channel in range(2):
            mean = images[sample, channel][members].mean()
            assert averaged[sample, channel, row, column] == pytest.approx(mean.item(), abs=1e-14)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 64])
def test_noise_is_cut_into_segments_too(channels, side):
    draws = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    for images in (draws, draws.erfinv()):
        (count,) = segment(images, "slic", 64).counts
        assert 16 <= count <= 64
