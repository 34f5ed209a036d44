"""A user's own folder of pictures."""

import shutil

import numpy as np
import pytest
from PIL import Image

from salcore.data import load
from salcore.errors import UserError


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_a_tree_with_its_own_evaluation_split(pictures, spec, name):
    top = pictures({"train/cat": 5, "train/dog": 5, f"{name}/cat": 2, f"{name}/dog": 2})
    data = load(spec(f"folder:{top}"))
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 6, 5)
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (8, 2, 4)
    files = sorted((top / name).rglob("*.png"))
    np.testing.assert_array_equal(data.evaluation.values, [pixels(path) for path in files])
    assert data.evaluation.labels.tolist() == [0, 0, 1, 1]


def test_a_single_tree_is_divided(pictures, spec):
    top = pictures({"cat": 10, "dog": 10, "emu": 10})
    data = load(spec(f"folder:{top}", eval_samples=6))
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (19, 5, 6)
    assert np.bincount(data.evaluation.labels[data.evaluation.index]).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(data.train.values, [pixels(path) for path in sorted(top.rglob("*.png"))])


def test_pictures_below_a_class_folder_count_and_hidden_or_other_files_do_not(pictures, spec):
    top = pictures({"cat/young": 5, "cat/old": 5, "dog": 10, ".trash": 3})
    (top / "dog" / "notes.txt").write_text("no picture")
    shutil.copy(top / "dog" / "000.png", top / "dog" / ".hidden.png")
    data = load(spec(f"folder:{top}"))
    assert data.classes == ("cat", "dog")
    assert np.bincount(data.train.labels).tolist() == [10, 10]


def test_a_flat_folder_is_all_evaluation(pictures, spec):
    top = pictures({"": 3})
    data = load(spec(f"folder:{top}", eval_samples=512))
    assert data.classes == ()
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (0, 0, 3)
    assert data.evaluation.labels.tolist() == [-1, -1, -1]
    assert data.evaluation.index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.evaluation.values, [pixels(path) for path in sorted(top.iterdir())])


def test_all_grey_stays_grey(pictures, spec):
    data = load(spec(f"folder:{pictures({'cat': 10, 'dog': 10}, mode='L')}"))
    assert data.shape == (1, 6, 5)


def test_one_colour_picture_makes_all_of_them_rgb(pictures, spec):
    top = pictures({"train/cat": 5, "train/dog": 5, "test/cat": 2, "test/dog": 2}, mode="L")
    Image.new("RGB", (5, 6), (255, 0, 0)).save(top / "test" / "cat" / "000.png")
    data = load(spec(f"folder:{top}"))
    assert data.shape == (3, 6, 5)
    assert (data.train.values[:, 0] == data.train.values[:, 2]).all()
    assert data.evaluation.values[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_usual_mode_is_read(pictures, spec, mode):
    top = pictures({"cat": 10, "dog": 10})
    colours = Image.open(top / "cat" / "000.png").convert("L").convert(mode)
    suffix = ".tif" if mode == "CMYK" else ".png"
    colours.save(top / "cat" / f"000_{mode}{suffix}")
    data = load(spec(f"folder:{top}"))
    grey = np.asarray(colours.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train.values[1], grey)


@pytest.mark.parametrize(("value", "level"), [(0, 0), (250, 1), (128 * 257, 128), (65535, 255)])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(pictures, spec, value, level):
    top = pictures({"cat": 10, "dog": 10}, mode="L")
    Image.fromarray(np.full((6, 5), value, dtype=np.uint16)).save(top / "cat" / "000.png")
    assert (load(spec(f"folder:{top}")).train.values[0] == level).all()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("most", "level"), [(65535, 128), (4095, 255)])
def test_sixteen_bit_pgm_is_scaled_by_what_white_is_in_it(pictures, spec, plain, most, level):
    top = pictures({"cat": 10, "dog": 10}, mode="L")
    value = min(most, 128 * 257)
    content = b" ".join([b"%d" % value] * 30) if plain else value.to_bytes(2, "big") * 30
    (top / "cat" / "000.pgm").write_bytes((b"P2" if plain else b"P5") + b" 5 6 %d\n" % most + content)
    data = load(spec(f"folder:{top}"))
    assert data.shape == (1, 6, 5)
    assert (data.train.values[0] == level).all()


def turned(path, orientation, **keys):
    """Writes a picture of 5 x 6 pixels that an EXIF orientation turns, lying if it swaps the sides; returns it upright.

    The pixels are what `path` holds: it is replaced.
    """
    upright = Image.open(path).copy()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # numbers of Pillow's transpositions
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif, **keys)
    return np.asarray(upright.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_pictures_stand_upright_as_their_exif_says(pictures, spec, orientation, suffix):
    top = pictures({"cat": 10, "dog": 10})
    path = (top / "cat" / "000.png").rename(top / "cat" / f"000{suffix}")
    keys = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    upright = turned(path, orientation, **keys)
    data = load(spec(f"folder:{top}"))
    assert data.shape == (3, 6, 5)
    np.testing.assert_array_equal(data.train.values[0], upright)


def test_a_photograph_stands_upright(pictures, spec):
    top = pictures({"cat": 10, "dog": 10}, size=(48, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    half = np.zeros((32, 48), np.uint8)
    half[:, :24] = 255
    Image.fromarray(half).save(top / "cat" / "000.jpg", exif=exif)
    upright = load(spec(f"folder:{top}")).train.values[0]
    assert upright.shape == (3, 48, 32)
    assert (upright[:, :20].min(), upright[:, 28:].max()) == (255, 0)


def test_a_picture_whose_exif_is_broken_is_read_as_it_lies(pictures, spec):
    top = pictures({"cat": 10, "dog": 10})
    path = top / "cat" / "000.png"
    lying = pixels(path)
    Image.open(path).copy().save(path, exif=b"Exif\0\0no such thing")
    np.testing.assert_array_equal(load(spec(f"folder:{top}")).train.values[0], lying)


def test_sizes_that_differ_need_image_size(pictures, spec):
    top = pictures({"cat": 10, "dog": 10})
    Image.new("RGB", (9, 7), (10, 20, 30)).save(top / "dog" / "000.png")
    with pytest.raises(UserError, match=r"data\.image_size: .*5x6 .*000\.png.* and 9x7 .*dog") as caught:
        load(spec(f"folder:{top}"))
    assert caught.value.key == "data.image_size"
    data = load(spec(f"folder:{top}", image_size=4))
    assert data.shape == (3, 4, 4)
    assert data.train.values[10, :, 2, 2].tolist() == [10, 20, 30]


def test_resized_photographs_are_near_pillows(imagenette, spec):
    data = load(spec(f"folder:{imagenette}", image_size=64, eval_samples=30))
    assert (len(data.train), len(data.validation)) == (80, 20)
    files = sorted((imagenette / "train").rglob("*.JPEG"))
    for row in (0, 50, 99):
        oracle = Image.open(files[row]).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        difference = data.train.values[row].astype(int) - np.asarray(oracle).transpose(2, 0, 1)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("content", [b"", b"no picture at all", "cut"])
@pytest.mark.parametrize("image_size", [None, 4])
def test_a_corrupt_picture_is_named(pictures, spec, content, image_size):
    top = pictures({"cat": 10, "dog": 10}, size=(60, 50))
    broken = top / "dog" / "003.png"
    broken.write_bytes(broken.read_bytes()[:900] if content == "cut" else content)
    with pytest.raises(UserError, match=r"data\.name: expected images that can be read, got .*dog/003\.png") as caught:
        load(spec(f"folder:{top}", image_size=image_size))
    assert "\n" not in str(caught.value)


def test_a_photograph_cut_short_is_named(imagenette, spec, tmp_path):
    top = tmp_path / "copy"
    shutil.copytree(imagenette, top)
    broken = sorted((top / "val").rglob("*.JPEG"))[7]
    broken.write_bytes(broken.read_bytes()[:-2000])
    with pytest.raises(UserError, match=broken.name):
        load(spec(f"folder:{top}", image_size=32))


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"cat": 0, "dog": 0}, "a folder with images"),
        ({"": 0}, "a folder with images"),
        ({"cat": 4, "dog": 0}, r"images in every class folder, got '.*dog'"),
        ({"cat": 10}, "at least 2 classes"),
        ({"cat": 3, "dog": 3, "": 1}, "one folder per class, or all of them in one folder"),
        ({"train/cat": 3, "train/dog": 3, "test": 3}, "a folder with images.*test"),
        ({"train/cat": 3, "train/dog": 3, "test/emu": 3}, "only the classes of the training folder, got 'emu'"),
        ({"test/cat": 3, "test/dog": 3}, "a folder train beside test"),
    ],
)
def test_trees_that_are_no_data_set_are_refused(pictures, spec, counts, told):
    with pytest.raises(UserError, match=told) as caught:
        load(spec(f"folder:{pictures(counts)}"))
    assert caught.value.key == "data.name"


def test_a_folder_that_is_not_there_is_refused(spec, tmp_path):
    with pytest.raises(UserError, match="a folder that exists"):
        load(spec(f"folder:{tmp_path / 'nowhere'}"))
