"""Series from the UEA archive's files and from MNIST."""

import gzip
import re

import numpy as np
import pytest

from salcore.data import load
from salcore.errors import UserError

HEADER = "# a comment: with, marks?\n@problemName Small\n@timeStamps false\n@classLabel true b a\n@data\n"
TRAIN = "1,2,3:10,20,30:b\n4,5,6:40,50,60:a\n" * 3
TEST = "1,1,1:2,2,2:a\n3,3,3:4,4,4:b\n"


@pytest.fixture
def pair(tmp_path, spec):
    """Writes a pair of `.ts` files and gives a spec of them."""

    def write(train=TRAIN, test=TEST, header=HEADER, **keys):
        (tmp_path / "pair").mkdir(exist_ok=True)
        (tmp_path / "pair" / "Small_TRAIN.ts").write_text(header + train)
        (tmp_path / "pair" / "Small_TEST.ts").write_text(header + test)
        given = {"eval_samples": 2, "validation_fraction": 0}
        return spec(f"uea:{tmp_path / 'pair' / 'Small'}", **(given | keys))

    return write


@pytest.fixture
def arrays(tmp_path, spec):
    """Writes an archive of arrays (case, time, channel) and gives a spec of it."""

    def write(**changes):
        draw = np.random.default_rng(0)
        found = {"x_train": draw.normal(size=(8, 5, 3)), "x_test": draw.normal(size=(4, 5, 3))}
        found |= {"y_train": np.arange(8) % 2 + 1, "y_test": np.arange(4) % 2 + 1} | changes
        np.savez(tmp_path / "set.npz", **{name: array for name, array in found.items() if array is not None})
        return found, spec(f"uea:{tmp_path / 'set.npz'}")

    return write


def read_slowly(path):
    """Cases as nested lists, and their labels."""
    rows = [line.split(":") for line in path.read_text().splitlines() if line and line[0] not in "#@"]
    return [[[float(v) for v in channel.split(",")] for channel in row[:-1]] for row in rows], [row[-1] for row in rows]


def test_a_pair_of_files(pair):
    data = load(pair())
    assert (data.kind, data.shape, data.classes) == ("series", (2, 3), ("b", "a"))
    assert data.train.values.dtype == np.float32
    np.testing.assert_array_equal(data.train.values[:2], [[[1, 2, 3], [10, 20, 30]], [[4, 5, 6], [40, 50, 60]]])
    assert data.train.labels.tolist() == [0, 1] * 3
    assert data.evaluation.labels.tolist() == [1, 0]
    assert data.train.lengths is None
    np.testing.assert_allclose(data.mean, [3.5, 35])
    np.testing.assert_allclose(data.std, [np.std(range(6)), 10 * np.std(range(6))], rtol=1e-6)


def test_every_way_to_name_a_pair(pair, spec):
    stem = pair().name.removeprefix("uea:")
    paths = [stem, stem.removesuffix("/Small"), f"{stem}_TRAIN.ts", f"{stem}_TEST.ts"]
    assert len({load(spec(f"uea:{path}", eval_samples=2)).digest for path in paths}) == 1


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("1,2,?:1,2,3:b\n" + TRAIN, r"all values of case 1 of Small_TRAIN\.ts, got 'a missing one"),
        (TRAIN + "1,2,3:1,NaN,3:b\n", r"finite values in case 7 of Small_TRAIN\.ts, got 'NaN'"),
        (TRAIN + "1,2,3:1,1e60,3:b\n", r"finite values in case 7 .*infinite"),
        (TRAIN + "1,2,3:b\n", r"2 features, as in case 1 of Small_TRAIN\.ts, in case 7 of Small_TRAIN\.ts, got 1"),
        (TRAIN + "1,2,3:1,2:b\n", r"channels of one length, and a class, in case 7"),
        (TRAIN + "b\n", r"channels of one length, and a class, in case 7"),
        (TRAIN + "1,2,3:1,x,3:b\n", r"numbers in case 7 of Small_TRAIN\.ts.*'x'"),
        (TRAIN + "(0,1),(1,2):(0,1),(1,2):b\n", "values without time stamps in case 7"),
        (TRAIN + "1,2,3:1,2,3:c\n", r"one of b, a as the class of case 7 of Small_TRAIN\.ts, got 'c'"),
        ("", r"cases in Small_TRAIN\.ts"),
    ],
)
def test_broken_cases_are_named(pair, train, told):
    with pytest.raises(UserError, match=told) as caught:
        load(pair(train))
    assert caught.value.key == "data.name"
    assert "\n" not in str(caught.value)


def test_broken_test_cases_are_named_too(pair):
    with pytest.raises(UserError, match=r"finite values in case 2 of Small_TEST\.ts"):
        load(pair(test="1,2,3:1,2,3:a\n1,2,3:nan,2,3:b\n"))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("@classLabel true a b\n", "a line @data in .*Small_TRAIN.ts"),
        ("@data\n", "a line @classLabel true, with the classes, in .*Small_TRAIN.ts"),
        ("@targetLabel true\n@classLabel false\n@data\n", "a line @classLabel true"),
    ],
)
def test_broken_headers_are_named(pair, header, told):
    with pytest.raises(UserError, match=told):
        load(pair(header=header))


def test_headers_in_any_case_are_understood(pair):
    assert load(pair(header="\n@CLASSLABEL True b a\n@DATA\n")).digest == load(pair()).digest


@pytest.mark.parametrize(("train", "test"), [(TRAIN + "1,2:1,2:b\n", TEST), (TRAIN, "1,2:1,2:b\n")])
def test_unequal_lengths_ask_for_a_length(pair, train, test):
    place = "case 7 of Small_TRAIN.ts" if train != TRAIN else "case 1 of Small_TEST.ts"
    told = rf"data\.length: expected a number of steps to pad or cut to.*with 3 steps, {re.escape(place)} with 2'"
    with pytest.raises(UserError, match=told):
        load(pair(train, test, eval_samples=1))
    data = load(pair(train, test, eval_samples=1, length=3))
    part, row = (data.train, 6) if train != TRAIN else (data.evaluation, 0)
    np.testing.assert_array_equal(part.values[row], [[1, 2, 0], [1, 2, 0]])
    assert part.lengths[row] == 2


def test_equal_series_are_cut_and_padded(pair):
    cut, longer = load(pair(length=2)), load(pair(length=5))
    assert (cut.shape, cut.train.lengths, longer.shape) == ((2, 2), None, (2, 5))
    np.testing.assert_array_equal(longer.train.values[0], [[1, 2, 3, 0, 0], [10, 20, 30, 0, 0]])
    assert set(longer.train.lengths) == {3}
    np.testing.assert_allclose(longer.mean, load(pair()).mean)
    assert len({cut.digest, longer.digest, load(pair()).digest}) == 3


@pytest.mark.parametrize("name", ["JapaneseVowels", "NATOPS"])
def test_files_of_the_archive_against_a_slow_reading(test_data, spec, name):
    stem = test_data / "uea_multivariate" / name
    longest = {"JapaneseVowels": 29, "NATOPS": None}[name]
    data = load(spec(f"uea:{stem}", length=longest, eval_samples=2, validation_fraction=0))
    for part, split in ((data.train, "TRAIN"), (data.evaluation, "TEST")):
        cases, labels = read_slowly(stem.parent / f"{name}_{split}.ts")
        assert [data.classes[label] for label in part.labels] == labels
        for number, case in enumerate(cases):
            length = len(case[0])
            np.testing.assert_array_equal(part.values[number, :, :length], np.array(case, np.float32))
            assert not part.values[number, :, length:].any()
            assert part.lengths is None or part.lengths[number] == length


def test_padding_takes_no_part_in_mean_and_deviation(test_data, spec):
    stem = test_data / "uea_multivariate" / "JapaneseVowels"
    data = load(spec(f"uea:{stem}", length=29))
    cases, _ = read_slowly(stem.parent / "JapaneseVowels_TRAIN.ts")
    assert (data.shape, len(data.classes)) == ((12, 29), 9)
    for feature in range(12):
        values = [value for row in data.train.index for value in cases[row][feature]]
        assert data.mean[feature] == pytest.approx(np.mean(values), rel=1e-5)
        assert data.std[feature] == pytest.approx(np.std(values), rel=1e-5)
    with pytest.raises(UserError, match=r"data\.length: .*JapaneseVowels_TRAIN\.ts with 20 steps, case 2"):
        load(spec(f"uea:{stem}"))


def test_a_cut_case_is_cut_at_its_end(test_data, spec):
    stem = test_data / "uea_multivariate" / "JapaneseVowels"
    whole, cut = (load(spec(f"uea:{stem}", length=length)) for length in (29, 10))
    np.testing.assert_array_equal(cut.train.values, whole.train.values[..., :10])
    np.testing.assert_array_equal(cut.train.lengths, np.minimum(whole.train.lengths, 10))


@pytest.mark.parametrize(("name", "shape"), [("Epilepsy", (3, 206)), ("ERing", (4, 65)), ("RacketSports", (6, 30))])
def test_arrays_of_the_archive(test_data, spec, name, shape):
    path = test_data / "uea_multivariate" / f"{name}.npz"
    data = load(spec(f"uea:{path}", validation_fraction=0))
    with np.load(path) as original:
        np.testing.assert_array_equal(data.train.values.transpose(0, 2, 1), original["x_train"])
        np.testing.assert_array_equal(data.evaluation.labels, original["y_test"])
    assert data.shape == shape


def test_classes_of_arrays_are_their_sorted_labels(arrays):
    _, given = arrays()
    assert load(given).classes == ("1", "2")
    _, given = arrays(y_train=np.array(["up", "down"] * 4), y_test=np.array(["up"] * 4))
    data = load(given)
    assert data.classes == ("down", "up")
    assert data.train.labels.tolist() == [1, 0] * 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x_test": None}, "with the arrays x_test, x_train, y_test, y_train, got 'no x_test'"),
        ({"x_train": np.zeros((8, 5))}, r"`x_train` of numbers \(case, time, channel\), got 'float64 \(8, 5\)'"),
        ({"x_train": np.zeros((0, 5, 3)), "y_train": np.zeros(0, int)}, "`x_train` of numbers"),
        ({"y_train": np.arange(7)}, r"`y_train` of shape \(8,\).*got \(7,\)"),
        ({"y_test": np.array([1, 2, 3, 1])}, "one of 1, 2 as the class of case 3 of x_test, got '3'"),
        ({"x_test": np.full((4, 5, 3), np.nan)}, "finite values in case 1 of x_test, got 'NaN'"),
        ({"x_test": np.zeros((4, 5, 2))}, "3 features, as in case 1 of x_train, in case 1 of x_test, got 2"),
        ({"x_train": np.full((8, 5, 3), None)}, "readable array `x_train`"),
    ],
)
def test_broken_arrays_are_told(arrays, changes, told):
    _, given = arrays(**changes)
    with pytest.raises(UserError, match=told) as caught:
        load(given)
    assert caught.value.key == "data.name"


def test_arrays_of_two_lengths_ask_for_a_length(arrays):
    _, given = arrays(x_test=np.zeros((4, 7, 3)))
    with pytest.raises(UserError, match=r"data\.length: .*case 1 of x_test with 7"):
        load(given)


@pytest.mark.parametrize("content", ["nothing", "two pairs", "half a pair", "no archive"])
def test_paths_that_name_no_set_are_refused(tmp_path, spec, content):
    names = {"two pairs": ("A_TRAIN.ts", "B_TRAIN.ts"), "half a pair": ("A_TRAIN.ts",), "no archive": ("A.npz",)}
    for name in names.get(content, ()):
        (tmp_path / name).write_text(HEADER + TRAIN)
    path = tmp_path / "A.npz" if content == "no archive" else tmp_path
    with pytest.raises(UserError, match=r"data\.name: expected uea:PATH of NAME for a pair"):
        load(spec(f"uea:{path}"))


def test_a_constant_feature_becomes_zero_whatever_its_value(arrays):
    values = np.random.default_rng(1).normal(size=(8, 5, 3))
    values[..., 1] = 0.1
    _, given = arrays(x_train=values)
    data = load(given)
    assert data.std[1] == 1
    assert data.mean[1] == np.float32(0.1)


@pytest.mark.parametrize("key", ["image_size", "vectors"])
def test_keys_of_other_kinds_are_refused(pair, key):
    value = {"image_size": 3, "vectors": "v.txt"}[key]
    with pytest.raises(UserError, match=rf"data\.{key}: expected null, as the samples of uea:.* are series"):
        load(pair(**{key: value}))


@pytest.mark.parametrize("key", ["length", "vectors"])
def test_keys_of_sequences_are_refused_for_images(spec, key):
    with pytest.raises(UserError, match=rf"data\.{key}: expected null, as the samples of digits are images"):
        load(spec("digits", **{key: {"length": 3, "vectors": "v.txt"}[key]}))


def test_mnist_columns_are_steps(test_data, spec):
    data = load(spec("mnist_series", mirror=str(test_data), train_samples=1000))
    assert (data.kind, data.shape, len(data.classes)) == ("series", (28, 28), 10)
    with gzip.open(test_data / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    row = data.evaluation.index[0]
    np.testing.assert_allclose(data.evaluation.values[row], pixels[row] / 255, rtol=1e-6)
    used = data.train.values[data.train.index].astype(np.float64)
    # One mean and one deviation for all: the margin's rows are nearly empty, and hardly vary.
    np.testing.assert_allclose(data.mean, np.full(28, used.mean()), rtol=1e-5)
    np.testing.assert_allclose(data.std, np.full(28, used.std()), rtol=1e-5)
