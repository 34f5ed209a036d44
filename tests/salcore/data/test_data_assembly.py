"""Parts, normalisation and digest of a loaded set, against slow re-derivations."""

import pickle

import numpy as np
import pytest

from salcore.data import Part, load
from salcore.data.part import CHUNK_BYTES
from salcore.errors import UserError


@pytest.fixture
def archive(tmp_path):
    """Writes an archive of random arrays: 90 training and 60 test images of 3 classes."""

    def write(dtype=np.uint8, **changes):
        draw = np.random.default_rng(3)
        images = {
            "train_images": draw.integers(0, 256, (90, 3, 7, 7)),
            "test_images": draw.integers(0, 256, (60, 3, 7, 7)),
        }
        arrays = {name: array.astype(dtype) for name, array in images.items()}
        arrays |= {"train_labels": np.arange(90) % 3, "test_labels": np.arange(60) % 3}
        np.savez(tmp_path / "set.npz", **(arrays | changes))
        return f"npz:{tmp_path / 'set.npz'}"

    return write


def test_validation_is_carved_stratified_from_the_training_split(archive, spec):
    data = load(spec(archive(), train_samples=60, validation_fraction=0.25))
    assert (len(data.train), len(data.validation)) == (45, 15)
    assert not set(data.train.index) & set(data.validation.index)
    assert data.train.values is data.validation.values
    for part in (data.train, data.validation):
        assert np.ptp(np.bincount(part.labels[part.index])) <= 1


def test_no_validation_is_an_empty_part(archive, spec):
    data = load(spec(archive(), validation_fraction=0))
    assert (len(data.train), len(data.validation)) == (90, 0)


def test_evaluation_samples_are_nested_and_stratified(archive, spec):
    name = archive()
    longest = load(spec(name, eval_samples=60)).evaluation
    assert sorted(longest.index) == list(range(60))
    for count in (1, 2, 17, 59):
        part = load(spec(name, eval_samples=count)).evaluation
        np.testing.assert_array_equal(part.index, longest.index[:count])
        assert np.ptp(np.bincount(part.labels[part.index], minlength=3)) <= 1


def test_split_seed_moves_every_choice(archive, spec):
    name = archive()
    first, second = (load(spec(name, split_seed=seed, train_samples=60, eval_samples=30)) for seed in (0, 1))
    for part in ("train", "validation", "evaluation"):
        assert set(getattr(first, part).index) != set(getattr(second, part).index)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_mean_and_std_are_those_of_the_training_part_alone(archive, spec, dtype):
    data = load(spec(archive(dtype)))
    pixels = data.train.values[data.train.index].astype(np.float64) / (255 if dtype == np.uint8 else 1)
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std((0, 2, 3)), rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32


def test_mean_and_std_over_many_chunks(archive, spec):
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 300, 300), dtype=np.uint8)
    assert images.nbytes > 3 * CHUNK_BYTES
    images[:20] //= 4  # chunks of different means
    name = archive(
        train_images=images, train_labels=np.arange(40) % 2, test_images=images, test_labels=np.arange(40) % 2
    )
    data = load(spec(name))
    pixels = data.train.values[data.train.index] / 255
    np.testing.assert_allclose([data.mean[0], data.std[0]], [pixels.mean(), pixels.std()], rtol=1e-6)


def test_a_constant_channel_has_a_std_of_one(archive, spec):
    images = np.random.default_rng(0).integers(0, 256, (90, 3, 7, 7), dtype=np.uint8)
    images[:, 1] = 9
    data = load(spec(archive(train_images=images)))
    assert data.std[1] == 1
    assert data.mean[1] == pytest.approx(9 / 255)
    assert data.std[0] < 1


def test_the_digest_is_over_what_members_see(archive, spec, tmp_path):
    name = archive()
    digest = load(spec(name)).digest
    assert load(spec(name, eval_samples=20)).digest == digest
    moved = (tmp_path / "set.npz").rename(tmp_path / "moved.npz")
    assert load(spec(f"npz:{moved}", root=str(tmp_path / "elsewhere"))).digest == digest
    others = [
        spec(f"npz:{moved}", **keys) for keys in ({"split_seed": 1}, {"validation_fraction": 0.1}, {"image_size": 6})
    ]
    assert len({digest, *(load(other).digest for other in others)}) == 4


@pytest.mark.parametrize("changed", ["train pixel", "validation pixel", "label", "classes", "order"])
def test_the_digest_notices(archive, spec, changed):
    data = load(spec(archive()))
    images, labels, extra = data.train.values.copy(), data.train.labels.copy(), {}
    first, second = data.train.index[:2]
    if changed == "train pixel":
        images[first, 0, 0, 0] ^= 1
    elif changed == "validation pixel":
        images[data.validation.index[0], 2, 6, 6] ^= 1
    elif changed == "label":
        same = data.train.index[labels[data.train.index] == 0]
        labels[same[:5]] = 1
    elif changed == "order":
        assert labels[first] != labels[second] or (images[first] != images[second]).any()
        images[[first, second]] = images[[second, first]]
    else:
        extra["classes"] = np.array(["a", "b", "c"])
    changed_set = load(spec(archive(train_images=images, train_labels=labels, **extra)))
    assert changed_set.digest != data.digest


def test_test_images_do_not_change_the_digest(archive, spec):
    digest = load(spec(archive())).digest
    assert load(spec(archive(test_images=np.zeros((60, 3, 7, 7), np.uint8)))).digest == digest


def test_a_part_survives_pickling(archive, spec):
    data = pickle.loads(pickle.dumps(load(spec(archive()))))
    assert data.train.values is not data.evaluation.values
    assert data.train.digest() == load(spec(archive())).train.digest()


def test_a_parts_digest_follows_its_rows():
    images, labels = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2), np.arange(6)
    forward = Part(values=images, labels=labels, index=np.arange(3))
    same = Part(values=images[:3].copy(), labels=labels[:3], index=np.arange(3))
    backward = Part(values=images, labels=labels, index=np.arange(3)[::-1])
    relabelled = Part(values=images, labels=labels[::-1], index=np.arange(3))
    assert forward.digest() == same.digest()
    assert len({part.digest() for part in (forward, backward, relabelled)}) == 3


@pytest.mark.parametrize(
    ("keys", "key", "told"),
    [
        ({"train_samples": 91}, "data.train_samples", "at most 90"),
        ({"eval_samples": 61}, "data.eval_samples", "at most 60"),
        ({"train_samples": 2, "validation_fraction": 0.9}, "data.train_samples", "at least 2"),
    ],
)
def test_more_samples_than_there_are_is_refused(archive, spec, keys, key, told):
    with pytest.raises(UserError, match=told) as caught:
        load(spec(archive(), **keys))
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train_labels": np.arange(90) % 3 + 1}, "labels from 0 to 2.*got 3"),
        ({"train_labels": np.arange(90) % 3 - 1}, "labels from 0 to 2.*got -1"),
        ({"test_labels": np.arange(60) % 4}, "labels from 0 to 2.*got 3"),
        ({"classes": np.array(["a", "b"])}, "labels from 0 to 1.*got 2"),
        ({"train_labels": np.zeros(90, int)}, "at least 2 classes, got 1"),
        ({"classes": np.array([], dtype=str)}, "`classes`.*at least 2"),
        ({"train_labels": np.arange(89) % 3}, r"`train_labels`.*`train_images` \(90\), got 89"),
        ({"train_labels": np.arange(90) % 3 / 1}, "`train_labels` of integers, got 'float64'"),
        ({"train_labels": np.array(["a", "b", "c"] * 30)}, "`train_labels` of integers"),
        ({"train_labels": np.zeros((90, 3), int)}, r"`train_labels` of shape \(N,\)"),
        ({"train_images": np.zeros((0, 3, 7, 7), np.uint8), "train_labels": np.zeros(0, int)}, "at least one image"),
        ({"test_images": np.zeros((0, 3, 7, 7), np.uint8), "test_labels": np.zeros(0, int)}, "at least one image"),
        ({"train_images": np.full((90, 3, 7, 7), np.nan)}, "finite `train_images`.*image 0"),
        ({"train_images": np.full((90, 3, 7, 7), 1e300)}, "finite `train_images`"),
        ({"train_images": np.zeros((90, 3, 7, 7), np.int64)}, "uint8 or floats, got 'int64'"),
        ({"train_images": np.full((90, 3, 7, 7), None)}, "Object arrays"),
        ({"train_images": np.zeros((90, 7), np.uint8)}, "of shape"),
        ({"train_images": np.zeros((90, 5, 7, 7), np.uint8)}, "1, 3 or 4 channels"),
        ({"train_images": np.zeros((90, 3, 3, 3), np.uint8)}, "1, 3 or 4 channels"),
        ({"test_images": np.zeros((60, 1, 7, 7), np.uint8)}, "evaluation images with 3 channels"),
        ({"test_images": np.zeros((60, 3, 7, 7), np.float32)}, "evaluation images with 3 channels of uint8"),
    ],
)
def test_bad_arrays_are_refused_by_name(archive, spec, changes, told):
    with pytest.raises(UserError, match=told) as caught:
        load(spec(archive(**changes)))
    assert caught.value.key == "data.name"
    assert "\n" not in str(caught.value)


def test_splits_of_different_sizes_need_image_size(archive, spec):
    name = archive(test_images=np.zeros((60, 3, 9, 9), np.uint8))
    with pytest.raises(UserError) as caught:
        load(spec(name))
    assert caught.value.key == "data.image_size"
    assert load(spec(name, image_size=7)).evaluation.values.shape == (60, 3, 7, 7)
