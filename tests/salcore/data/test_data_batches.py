"""Batches against one-by-one re-derivations."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import functional as vision

from salcore.data import Data, Part
from salcore.data.batches import augmentation, bounds, epoch_batches, normalise
from salcore.spec import AugmentSpec


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def data_of(count, dtype=np.uint8, shape=(3, 6, 5)):
    draw = np.random.default_rng(count)
    images = draw.integers(0, 256, (count + 4, *shape)).astype(dtype)
    images.setflags(write=False)  # as in Ray's object store: the warning of torch about it would be an error
    labels = np.arange(count + 4) % 3
    part = Part(values=images, labels=labels, index=draw.permutation(count + 4)[:count])
    mean, std = draw.random(3).astype(np.float32), 0.1 + draw.random(3).astype(np.float32)
    return part, Data(
        train=part, validation=part, evaluation=part, classes=("a", "b", "c"), mean=mean, std=std, digest=""
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalising_against_the_formula(dtype):
    part, data = data_of(7, dtype)
    found = normalise(torch.from_numpy(part.values.copy()), data.mean, data.std)
    scale = 255 if dtype == np.uint8 else 1
    mean, std = (value.astype(np.float64)[:, None, None] for value in (data.mean, data.std))
    np.testing.assert_allclose(found, (part.values / scale - mean) / std, rtol=2e-6, atol=2e-6)
    assert found.dtype == torch.float32


def test_normalising_leaves_its_argument_alone():
    pixels = torch.rand(2, 3, 4, 4)
    before = pixels.clone()
    normalise(pixels, np.ones(3), np.ones(3))
    assert torch.equal(pixels, before)


def test_the_training_part_is_normalised_to_zero_and_one(spec):
    from salcore.data import load

    data = load(spec("digits"))
    inputs = torch.cat([x for x, *_ in epoch_batches(data.train, data, batch_size=100, order=None)]).double()
    assert inputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_without_a_generator_batches_follow_the_index(dtype):
    part, data = data_of(11, dtype)
    found = list(epoch_batches(part, data, batch_size=4, order=None))
    assert [len(labels) for _, labels, *_ in found] == [4, 4, 3]
    expected = normalise(torch.from_numpy(part.values[part.index]), data.mean, data.std)
    assert torch.equal(torch.cat([inputs for inputs, *_ in found]), expected)
    assert torch.cat([labels for _, labels, *_ in found]).tolist() == part.labels[part.index].tolist()
    assert all(inputs.is_contiguous() and labels.dtype == torch.int64 for inputs, labels, *_ in found)


def test_an_epoch_in_random_order_holds_every_sample_once_with_its_label():
    part, data = data_of(50)
    found = list(epoch_batches(part, data, batch_size=8, order=seeded(1)))
    inputs, labels = (torch.cat([batch[place] for batch in found]) for place in (0, 1))
    expected = normalise(torch.from_numpy(part.values[part.index]), data.mean, data.std)
    row_of = {row.numpy().tobytes(): number for number, row in enumerate(expected)}
    rows = [row_of[row.numpy().tobytes()] for row in inputs]
    assert sorted(rows) == list(range(50))
    assert rows != list(range(50))
    assert labels.tolist() == part.labels[part.index[rows]].tolist()


def test_generators_alone_decide():
    part, data = data_of(40)

    def epoch(order, draws, crop=1):
        batches = epoch_batches(
            part,
            data,
            batch_size=8,
            order=seeded(order),
            augment=AugmentSpec(crop=crop, flip=True),
            augment_generator=seeded(draws),
        )
        return torch.cat([inputs for inputs, *_ in batches])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = epoch(1, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(epoch(1, 2), first)
    assert not torch.equal(epoch(3, 2), first)
    assert not torch.equal(epoch(1, 3), first)


def test_no_augmentation_draws_nothing():
    part, data = data_of(10)
    generator = seeded(0)
    plain = list(epoch_batches(part, data, batch_size=4, order=None))
    off = list(epoch_batches(part, data, batch_size=4, order=None, augment=AugmentSpec(), augment_generator=generator))
    assert all(torch.equal(a, b) for (a, *_), (b, *_) in zip(plain, off, strict=True))
    assert torch.equal(generator.get_state(), seeded(0).get_state())


def test_padding_is_black_before_normalising():
    part, data = data_of(64)
    white = Part(values=np.full_like(part.values, 255), labels=part.labels, index=part.index)
    batches = epoch_batches(
        white, data, batch_size=64, order=None, augment=AugmentSpec(crop=2), augment_generator=seeded(0)
    )
    inputs, *_ = next(iter(batches))
    for channel in range(3):
        black, bright = (-data.mean[channel] / data.std[channel], (1 - data.mean[channel]) / data.std[channel])
        values = np.unique(inputs[:, channel].numpy())
        np.testing.assert_allclose(values, [black, bright], rtol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_against_one_sample_at_a_time(crop, flip, dtype):
    pixels = torch.randint(0, 256, (20, 3, 6, 5), generator=seeded(3)).to(dtype)
    found = augmentation(pixels, crop=crop, flip=flip, generator=seeded(4))
    assert found.shape == pixels.shape
    assert found.dtype == dtype
    draws = seeded(4)
    offsets = torch.randint(0, 2 * crop + 1, (2, 20, 1), generator=draws) if crop else torch.zeros(2, 20, 1, dtype=int)
    flips = torch.randint(0, 2, (20, 1), generator=draws) if flip else torch.zeros(20, 1)
    for row in range(20):
        padded = vision.pad(pixels[row], [crop])
        slow = vision.crop(padded, int(offsets[0, row]), int(offsets[1, row]), 6, 5)
        slow = vision.hflip(slow) if flips[row] else slow
        assert torch.equal(found[row], slow)


def test_every_offset_and_side_is_equally_likely_and_samples_draw_their_own():
    pixels = torch.zeros(5000, 1, 5, 5, dtype=torch.uint8)
    pixels[:, 0, 2, 2] = 1
    places = augmentation(pixels, crop=1, flip=False, generator=seeded(0)).flatten(1).float()
    counts = places.sum(0).reshape(5, 5)
    assert (counts[1:4, 1:4] - 5000 / 9).abs().max() < 5 * (5000 * (1 / 9) * (8 / 9)) ** 0.5
    assert counts.sum() == counts[1:4, 1:4].sum() == 5000
    side = torch.arange(4, dtype=torch.uint8).expand(5000, 1, 4, 4)
    mirrored = augmentation(side, crop=0, flip=True, generator=seeded(0))[:, 0, 0, 0] == 3
    assert abs(mirrored.sum() - 2500) < 5 * 5000**0.5 / 2


@given(st.integers(0, 300), st.integers(1, 40))
def test_bounds_cover_all_samples_and_leave_none_alone(count, batch_size):
    found = bounds(count, batch_size)
    assert [row for start, stop in found for row in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in found]
    assert all(size == batch_size for size in sizes[:-1])
    assert all(size <= batch_size + 1 for size in sizes)
    if batch_size > 1 and count > 1:
        assert 1 not in sizes


def test_what_cannot_be_done_is_refused():
    part, data = data_of(4)
    with pytest.raises(ValueError, match="`batch_size`"):
        next(epoch_batches(part, data, batch_size=0, order=None))
    with pytest.raises(ValueError, match="`augment_generator`"):
        next(epoch_batches(part, data, batch_size=2, order=None, augment=AugmentSpec(flip=True)))


def test_an_empty_part_has_no_batches():
    part, data = data_of(4)
    empty = Part(values=part.values, labels=part.labels, index=np.arange(0))
    assert list(epoch_batches(empty, data, batch_size=2, order=None)) == []


def test_statistics_that_may_not_be_written_are_taken_without_a_warning():
    """As a worker has them from Ray's store; pytest makes an error of torch's warning."""
    mean, std = np.array([0.5], np.float32), np.array([0.25], np.float32)
    mean.flags.writeable = std.flags.writeable = False
    assert normalise(torch.ones(2, 1, 3, 3), mean, std).eq(2).all()
