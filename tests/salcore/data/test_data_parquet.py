"""A user's own Parquet files: every form an image may have gives the same set."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from salcore.data import load
from salcore.errors import UserError

COUNT = 600  # more than two batches of rows
IMAGES = np.random.default_rng(5).integers(0, 256, (COUNT, 5, 6, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def column(form):
    if form == "bytes":
        return pa.array([png(image) for image in IMAGES])
    if form == "struct":
        return pa.array([{"bytes": png(image), "path": f"{row}.png"} for row, image in enumerate(IMAGES)])
    if form == "tensor":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES)
    if form == "list":
        return pa.array(IMAGES.tolist(), type=pa.list_(pa.list_(pa.list_(pa.uint8()))))
    return pa.array(IMAGES.tolist(), type=pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 6), 5))


@pytest.fixture
def write(tmp_path):
    def write(images, labels=LABELS, name="set.parquet", **columns):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table({"image": images, "label": labels, **columns}), path, row_group_size=250)
        return path

    return write


@pytest.mark.parametrize("form", ["bytes", "struct", "tensor", "list", "fixed list"])
@pytest.mark.parametrize("limit", [None, 0])
def test_every_form_gives_the_same_set(write, spec, form, limit, monkeypatch):
    if limit is not None:
        monkeypatch.setenv("SALCORE_MEMORY_LIMIT", str(limit))
    split = np.where(np.arange(COUNT) % 5 == 0, "test", "train")
    given = spec(f"parquet:{write(column(form), split=split)}", eval_samples=120)
    data = load(given)
    assert (len(data.train), len(data.validation), data.shape) == (384, 96, (3, 5, 6))
    np.testing.assert_array_equal(data.train.values.transpose(0, 2, 3, 1), IMAGES[split == "train"])
    np.testing.assert_array_equal(data.evaluation.values.transpose(0, 2, 3, 1), IMAGES[split == "test"])
    np.testing.assert_array_equal(data.evaluation.labels, LABELS[split == "test"])
    assert isinstance(data.train.values, np.memmap) == (limit == 0)
    assert load(given).digest == data.digest


def test_files_of_a_folder_are_split_by_their_names(write, spec, tmp_path):
    images = column("tensor")
    write(images[:200], LABELS[:200], "set/data/train-00000-of-00002.parquet")
    write(images[200:400], LABELS[200:400], "set/data/train-00001-of-00002.parquet")
    write(images[400:], LABELS[400:], "set/data/validation-00000-of-00001.parquet")
    data = load(spec(f"parquet:{tmp_path / 'set'}"))
    np.testing.assert_array_equal(data.train.values.transpose(0, 2, 3, 1), IMAGES[:400])
    np.testing.assert_array_equal(data.evaluation.values.transpose(0, 2, 3, 1), IMAGES[400:])


@pytest.mark.parametrize("name", ["values", "testimony", "valuation-2024", "trainees", "my_test"])
def test_a_file_whose_name_only_begins_like_a_split_is_all_of_the_set(write, spec, name):
    data = load(spec(f"parquet:{write(column('tensor'), name=f'{name}.parquet')}", eval_samples=120))
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (384, 96, 120)


@pytest.mark.parametrize("name", ["test", "val_2", "valid.v1", "validation-00000-of-1", "test0", "testset", "testing"])
def test_a_file_named_after_the_evaluation_split_is_it(write, spec, name, tmp_path):
    images = column("tensor")
    write(images[:400], LABELS[:400], "set/train.parquet")
    write(images[400:], LABELS[400:], f"set/{name}.parquet")
    data = load(spec(f"parquet:{tmp_path / 'set'}"))
    np.testing.assert_array_equal(data.evaluation.values.transpose(0, 2, 3, 1), IMAGES[400:])


def test_without_a_split_a_fifth_is_set_apart(write, spec):
    data = load(spec(f"parquet:{write(column('tensor'))}", eval_samples=120))
    assert (len(data.train), len(data.validation), len(data.evaluation)) == (384, 96, 120)


def test_class_names_are_read_from_the_metadata(write, spec):
    path = write(column("tensor"))
    names = {"info": {"features": {"label": {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}}}}
    table = pq.read_table(path).replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, path)
    assert load(spec(f"parquet:{path}")).classes == ("ant", "bee", "cow")


def test_floats_stay_floats_and_are_resized(write, spec):
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES.astype(np.float32) / 7)
    data = load(spec(f"parquet:{write(images)}", image_size=4))
    assert data.train.values.dtype == np.float32
    assert data.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": LABELS + 1}, "labels from 0 to 2"),
        ({"labels": LABELS / 1}, "`label` of integers"),
        ({"labels": pa.array([None, *LABELS[1:].tolist()])}, "1 missing"),
        ({"split": ["training"] * COUNT}, "`split` as one of.*got 'training'"),
        ({"split": ["test"] * COUNT}, "rows of the training split"),
        ({"images": pa.array([b"broken", *[png(IMAGES[0])] * (COUNT - 1)])}, "images that can be read.*row 0"),
        ({"images": pa.array([*[png(IMAGES[0])] * (COUNT - 1), None])}, f"images that can be read.*row {COUNT - 1}"),
        ({"images": pa.array([[[1, 2]], [[1]]] * (COUNT // 2))}, "images of one shape"),
        ({"images": pa.array([[[1, 2]], None] * (COUNT // 2))}, "an image in every row"),
        ({"images": pa.array([[1, 2]] * COUNT, type=pa.list_(pa.uint8()))}, "of shape"),
        ({"images": pa.array(["a.png"] * COUNT)}, "uint8 or floats|numbers"),
        ({"images": pa.array(IMAGES[:, :, :, 0].tolist(), type=pa.list_(pa.list_(pa.int32())))}, "uint8 or floats"),
        ({"images": pa.array([[[0.5, 1.0]], [[0.5, float("nan")]]] * (COUNT // 2))}, "finite"),
    ],
)
def test_bad_columns_are_refused_by_name(write, spec, changes, told):
    given = {"images": column("tensor")} | changes
    with pytest.raises(UserError, match=told) as caught:
        load(spec(f"parquet:{write(**given)}"))
    assert caught.value.key == "data.name"


def test_what_is_no_parquet_file_is_refused(spec, tmp_path):
    (tmp_path / "set.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="a readable Parquet file"):
        load(spec(f"parquet:{tmp_path / 'set.parquet'}"))
    with pytest.raises(UserError, match="parquet:PATH"):
        load(spec(f"parquet:{tmp_path / 'nowhere'}"))
    pq.write_table(pa.table({"picture": [1], "label": [0]}), tmp_path / "set.parquet")
    with pytest.raises(UserError, match=r"a column `image`.*got 'picture, label'"):
        load(spec(f"parquet:{tmp_path / 'set.parquet'}"))
