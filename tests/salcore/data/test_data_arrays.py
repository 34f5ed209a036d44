"""Sets of arrays: NumPy archives and users' functions."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from salcore.data import ARGUMENTS, SOURCES, load
from salcore.data.resize import resize
from salcore.data.source import checked_images, checked_labels, from_arrays
from salcore.errors import UserError
from salcore.spec import DataSpec

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8, 9), (5, 1, 8, 9)),
        ((5, 8, 9, 3), (5, 3, 8, 9)),
        ((5, 4, 8, 9), (5, 4, 8, 9)),
        ((5, 1, 4, 4), (5, 1, 4, 4)),
        ((5, 3, 3, 1), (5, 1, 3, 3)),
    ],
)
def test_every_layout_becomes_channels_first(shape, expected):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = checked_images(images, "images")
    assert found.shape == expected
    assert found.flags.c_contiguous
    last = len(shape) == 4 and shape[3] == expected[1] and shape[1] != expected[1]
    np.testing.assert_array_equal(found.transpose(0, 2, 3, 1) if last else found.reshape(shape), images)


def test_labels_of_one_column_are_flattened():
    np.testing.assert_array_equal(checked_labels(np.array([[1], [2]], dtype=np.uint8), "labels"), [1, 2])


def test_cifar10_from_an_archive(cifar10, spec):
    data = load(spec(f"npz:{cifar10}", eval_samples=100))
    with np.load(cifar10) as arrays:
        original, truth = arrays["test_images"], arrays["test_labels"]
    assert data.shape == (3, 32, 32)
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    index = data.evaluation.index
    np.testing.assert_array_equal(data.evaluation.values[index].transpose(0, 2, 3, 1), original[index])
    np.testing.assert_array_equal(data.evaluation.labels[index], truth[index])
    assert (len(data.train), len(data.validation)) == (1600, 400)


@pytest.mark.parametrize("names", [("x_train", "y_train", "x_test", "y_test"), ("images", "labels")])
def test_other_names_of_arrays(names, tmp_path, spec):
    draw = np.random.default_rng(0)
    arrays = [draw.random((50, 6, 6)), np.arange(50) % 5] * (len(names) // 2)
    np.savez_compressed(tmp_path / "set.npz", **dict(zip(names, arrays, strict=True)))
    data = load(spec(f"npz:{tmp_path / 'set.npz'}", eval_samples=10))
    assert data.train.values.dtype == np.float32
    assert data.classes == ("0", "1", "2", "3", "4")
    if names == ("images", "labels"):
        parts = [data.train.index, data.validation.index, data.evaluation.index]
        assert [len(part) for part in parts] == [32, 8, 10]
        assert sorted(np.concatenate(parts)) == list(range(50))
        assert np.bincount(data.evaluation.labels[data.evaluation.index]).tolist() == [2] * 5


def test_a_carved_evaluation_split_does_not_depend_on_the_split_seed(tmp_path, spec):
    np.savez(tmp_path / "set.npz", images=np.zeros((50, 6, 6), np.uint8), labels=np.arange(50) % 5)
    parts = [load(spec(f"npz:{tmp_path / 'set.npz'}", eval_samples=10, split_seed=s)).evaluation for s in (0, 1)]
    assert set(parts[0].index) == set(parts[1].index)
    assert parts[0].index.tolist() != parts[1].index.tolist()


ARRAYS = {"images": np.zeros((40, 6, 6), np.uint8), "labels": np.arange(40) % 2}


@pytest.mark.parametrize("names", [["Küche", "dog"], ["Küche".encode(), b"dog"]], ids=["text", "bytes"])
@pytest.mark.parametrize("container", [list, tuple, np.array])
def test_names_of_classes_may_be_text_or_its_bytes(names, container):
    assert from_arrays(ARRAYS | {"classes": container(names)}, "it").classes == ("Küche", "dog")


def test_numbers_as_names_of_classes_are_told_as_text():
    assert from_arrays(ARRAYS | {"classes": np.array([0.1, 20], np.float32)}, "it").classes == ("0.1", "20.0")


@pytest.mark.parametrize("classes", ["cat", 2, np.array(b"cat"), np.array([["cat"], ["dog"]])])
def test_classes_that_are_no_list_of_names_are_refused(classes):
    with pytest.raises(UserError, match=r"data\.name: expected `classes` of it as a list of names, got "):
        from_arrays(ARRAYS | {"classes": classes}, "it")


def test_bytes_that_are_no_text_are_refused_as_names():
    with pytest.raises(UserError, match=r"`classes` of it in UTF-8, got b'\\xff'"):
        from_arrays(ARRAYS | {"classes": [b"cat", b"\xff"]}, "it")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x04K\x01."])
def test_what_is_no_archive_is_refused(content, tmp_path, spec):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.name: expected npz:PATH"):
        load(spec(f"npz:{tmp_path / 'set.npz'}"))


def test_an_altered_archive_is_refused(tmp_path, spec):
    path = tmp_path / "set.npz"
    np.savez(path, images=np.full((50, 6, 6), 7, np.uint8), labels=np.arange(50) % 5)
    content = bytearray(path.read_bytes())
    content[content.find(b"\x07" * 100) + 50] = 8
    path.write_bytes(content)
    with pytest.raises(UserError, match="readable array `images`"):
        load(spec(f"npz:{path}"))


def test_an_archive_without_the_arrays_says_which(tmp_path, spec):
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 6, 6), np.uint8))
    with pytest.raises(UserError, match=r"train_images, train_labels.*got 'images'"):
        load(spec(f"npz:{tmp_path / 'set.npz'}"))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user into the working directory, and forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "a_users_data.py").write_text(
        "import numpy as np\n"
        "images, labels = np.arange(40 * 64).reshape(40, 8, 8) % 256, np.arange(40) % 2\n"
        "arrays = images.astype('uint8'), labels, images[:10].astype('float32'), labels[:10]\n"
        "def four(): return arrays[0], labels, arrays[0][:10], labels[:10]\n"
        "def named(): return {'images': arrays[0], 'labels': labels, 'classes': ['even', 'odd']}\n"
        "def ragged(): return {'images': [[1], [1, 2]], 'labels': labels}\n"
        "def objects(): return {'images': np.array([None] * 40), 'labels': labels}\n"
        "def nothing(): return None\n"
        "number = 3\n"
    )
    yield "a_users_data"
    sys.modules.pop("a_users_data", None)


def test_a_users_function_in_the_working_directory(module, spec):
    path = list(sys.path)
    assert load(spec(f"python:{module}:four")).classes == ("0", "1")
    data = load(spec(f"python:{module}:named"))
    assert data.classes == ("even", "odd")
    assert data.train.values[3, 0, 0, :3].tolist() == [192, 193, 194]
    assert sys.path == path


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("ragged", "`images` as one array"),
        ("objects", "`images` of numbers"),
        ("nothing", "a dict or a tuple of four arrays.*NoneType"),
        ("number", "a function of the module"),
        ("missing", "a function of the module"),
        ("", "python:package.module:function"),
    ],
)
def test_a_function_that_returns_no_set_is_refused(module, spec, function, told):
    with pytest.raises(UserError, match=told):
        load(spec(f"python:{module}:{function}"))


def test_a_module_that_is_not_there_is_refused(module, spec):
    with pytest.raises(UserError, match="No module named 'no_such_module'"):
        load(spec("python:no_such_module:f"))


@pytest.mark.parametrize("name", ["mnits", "folder", "folder:", "npz", "digits:8", "", "digits:"])
def test_unknown_names_are_refused_with_the_known_ones(name, spec):
    with pytest.raises(UserError, match=r"data\.name: expected one of digits, mnist.*folder:PATH") as caught:
        load(spec(name))
    assert caught.value.key == "data.name"


def test_a_misspelt_name_is_put_right(spec):
    with pytest.raises(UserError, match="did you mean fashion_mnist"):
        load(spec("fashion_minst"))


def test_every_source_is_documented_by_its_name():
    told = DataSpec.model_fields["name"].description
    for name in SOURCES:
        assert re.search(rf"\b{name}:{ARGUMENTS[name]}" if name in ARGUMENTS else rf"\b{name}\b", told), name


def test_resizing_keeps_constants_linear_ramps_and_the_type():
    constant = np.full((2, 3, 9, 12), 77, np.uint8)
    assert (resize(constant, 5) == 77).all()
    assert resize(constant, 5).shape == (2, 3, 5, 5)
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32), (1, 1, 16, 16))
    half = resize(ramp, 8)  # antialiased bilinear: a triangle of width 4, so interior pixels stay on the ramp
    np.testing.assert_allclose(half[0, 0, 0, 1:-1], np.arange(8)[1:-1] * 2 + 0.5, rtol=1e-6)
    assert resize(ramp, 16) is ramp
    assert resize(ramp, None) is ramp


def test_resizing_in_chunks_equals_one_by_one(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 10, 10), dtype=np.uint8)
    whole = resize(images, 6)
    monkeypatch.setattr("salcore.data.resize.CHUNK_VALUES", 200)
    np.testing.assert_array_equal(resize(images, 6), whole)
    np.testing.assert_array_equal(np.concatenate([resize(image[None], 6) for image in images]), whole)


def test_importing_the_room_leaves_heavy_libraries_alone():
    heavy = "torchvision", "sklearn", "matplotlib", "ray", "mlflow", "psutil"
    code = f"import sys, salcore.data; print([name for name in {heavy} if name in sys.modules])"
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"
