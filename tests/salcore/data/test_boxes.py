"""Boxes of objects from a table beside the images."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from salcore.data import Part, folder, load
from salcore.data.boxes import pixels, read_boxes
from salcore.errors import UserError


@pytest.fixture
def part():
    """Ten samples of 20 x 40 pixels."""
    values = np.zeros((10, 3, 20, 40), np.uint8)
    return Part(values=values, labels=np.zeros(10, np.int64), index=np.arange(10))


@pytest.fixture
def table(tmp_path):
    def write(text, name="boxes.csv"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_boxes_come_in_the_order_of_the_samples_that_are_asked_for(table, part):
    path = table("sample,left,top,right,bottom,width,height\n7,1,2,3,4,40,20\n0,5,6,40,20,40,20\n3,0,0,1,1,40,20\n")
    found = read_boxes(path, part, np.array([0, 3, 7, 0]))
    assert found.dtype == np.int64
    assert found.tolist() == [[5, 6, 40, 20], [0, 0, 1, 1], [1, 2, 3, 4], [5, 6, 40, 20]]


def test_pixels_of_the_original_picture_become_those_that_the_network_sees_each_rounded_outwards(table, part):
    """300 x 500 pixels as 40 x 20: each is 40/300 wide and 20/500 high."""
    path = table("sample,right,bottom,left,top,height,width\n0,299,499,1,1,500,300\n1,150,250,75,125,500,300\n")
    assert read_boxes(path, part, [0, 1]).tolist() == [[0, 0, 40, 20], [10, 5, 20, 10]]


def test_without_a_size_boxes_are_in_shares_of_the_picture(table, part):
    path = table("sample,left,top,right,bottom\n0,0.25,0.5,0.5,1\n1,0.1,0.3,0.7,0.9\n")
    assert read_boxes(path, part, [0, 1]).tolist() == [[10, 10, 20, 20], [4, 6, 28, 18]]


def test_the_smallest_box_is_one_pixel_of_the_picture(table, part):
    path = table("sample,left,top,right,bottom\n0,0.5,0.5,0.5000000001,0.5000000001\n1,0.9999999999,0,1,1\n")
    assert read_boxes(path, part, [0, 1]).tolist() == [[20, 10, 21, 11], [39, 0, 40, 20]]


def test_a_parquet_table_is_read_too(tmp_path, part):
    columns = {"sample": [2, 4], "left": [0.0, 0.5], "top": [0.0, 0.5], "right": [0.5, 1.0], "bottom": [0.5, 1.0]}
    pq.write_table(pa.table(columns), tmp_path / "boxes.parquet")
    assert read_boxes(str(tmp_path / "boxes.parquet"), part, [4]).tolist() == [[20, 10, 40, 20]]


def test_a_folders_pictures_are_named_by_their_files(pictures, spec, table):
    top = pictures({"train/a": 3, "train/b": 2, "val/a": 2, "val/b": 2})
    data = load(spec(f"folder:{top}", image_size=12, validation_fraction=0.0))
    files = folder.files(str(top))
    assert files["test"] == ["val/a/000.png", "val/a/001.png", "val/b/000.png", "val/b/001.png"]
    for split, part in (("train", data.train), ("test", data.evaluation)):
        for number in part.index:  # the name is that of the picture
            with Image.open(top / files[split][number]) as image:
                own = np.asarray(image.resize((12, 12), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
            assert np.abs(part.values[number].astype(int) - own).max() <= 1
    path = table("file,left,top,right,bottom\nval/b/000.png,0,0,0.5,0.5\nval/a/001.png,0.5,0,1,0.5\n")
    assert read_boxes(path, data.evaluation, [1, 2], files=files["test"]).tolist() == [[6, 0, 12, 6], [0, 0, 6, 6]]


def test_a_folder_without_splits_has_one_list_of_files(pictures):
    top = pictures({"a": 2, "b": 1})
    assert folder.files(str(top)) == {"train": ["a/000.png", "a/001.png", "b/000.png"]}


HEAD = "sample,left,top,right,bottom\n"
SIZED = "sample,left,top,right,bottom,width,height\n"
WRONG = {
    "no table": (None, "a table of boxes that can be read, .csv or .parquet, got .*boxes.csv: "),
    "columns": ("sample,left,top,right\n0,0,0,1\n", "columns sample or file, left, top, right, bottom, and width and"),
    "no key": ("left,top,right,bottom\n0,0,1,1\n", "columns sample or file, left"),
    "half a size": (
        "sample,left,top,right,bottom,width\n0,0,0,1,1,40\n",
        "width and height or neither, in .*boxes.csv",
    ),
    "a gap": (HEAD + "0,0,0,1,1\n1,0,,1,1\n", "a value in every row of .*boxes.csv, got 'none of `top` in row 2'"),
    "words": (HEAD + "0,0,0,right,1\n", "numbers in the column `right` of .*boxes.csv, got 'right'"),
    "turned": (
        HEAD + "0,0,0,1,1\n1,0.5,0,0.5,1\n",
        r"left < right and top < bottom in row 2 of .*, got \[0.5, 0.0, 0.5",
    ),
    "outside": (
        SIZED + "0,0,0,41,20,40,20\n",
        r"a box from 0 to width and height in row 1 of .*, got \[0.0, 0.0, 41.0",
    ),
    "negative": (SIZED + "0,-1,0,4,20,40,20\n", "a box from 0 to width and height in row 1"),
    "pixels without a size": (
        HEAD + "0,0,0,10,10\n",
        "a box from 0 to 1, as there are no columns width and height, in row",
    ),
    "missing": (HEAD + "1,0,0,1,1\n", "a row for every sample in .*boxes.csv, got 'none for 0'"),
    "twice": (
        HEAD + "0,0,0,1,1\n2,0,0,1,1\n0,0,0,1,1\n",
        "one row for each sample in .*boxes.csv, got '0 in rows 1 and 3'",
    ),
    "files of none": (
        "file,left,top,right,bottom\na.png,0,0,1,1\n",
        "a column `sample` in .*boxes.csv, as the samples",
    ),
    "nothing": (HEAD, "a row for every sample in .*boxes.csv, got 'none'"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_in_one_line_with_the_key_the_file_and_the_row(table, tmp_path, part, text, words):
    path = str(tmp_path / "boxes.csv") if text is None else table(text)
    with pytest.raises(UserError, match=f"^parameters.boxes: expected .*{words}") as error:
        read_boxes(path, part, [0])
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(table, part):
    path = table("file,left,top,right,bottom\na.png,0,0,1,1\n")
    with pytest.raises(UserError, match=r"got \"none for 'b\.png'\""):
        read_boxes(path, part, [1], files=["a.png", "b.png"])


def test_boxes_are_brought_to_another_size_outwards():
    boxes = np.array([[0, 0, 32, 32], [3, 5, 8, 9]])
    assert pixels(boxes / 32, 32, 32).tolist() == boxes.tolist()
    assert pixels(boxes / 32, 16, 64).tolist() == [[0, 0, 64, 16], [6, 2, 16, 5]]
