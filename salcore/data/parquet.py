"""A user's own Parquet files."""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from salcore.data.mapped import held, kept
from salcore.data.pictures import Entry, Pictures, decode
from salcore.data.resize import resize
from salcore.data.root import decoded_root
from salcore.data.source import Labelled, Source, checked_images, checked_labels
from salcore.errors import UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec

Rows = dict[str, np.ndarray]
BATCH_ROWS = 256
SPLITS = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}
SPLIT_NAME = re.compile(rf"({'|'.join(SPLITS)})(set|ing|data)?(?![a-z])")
"""How the name of a file of one split starts: test-0 and testset are of one, testimony is of none."""


def read(spec: "DataSpec", argument: str) -> Source:
    """`parquet:PATH`: a file, or a folder of files, with columns `image`, `label` and optionally `split`.

    An image is encoded bytes, a struct with a field `bytes`, a fixed-shape tensor or a nested list. `split` is train
    or test (val, valid and validation count as test); without that column a file whose name starts with one of
    these words belongs to it, and otherwise a fixed stratified fifth of all rows is set apart.
    """
    files = _files(argument)
    labels, splits = _labels_and_splits(files)
    rows = {name: np.flatnonzero(splits == name) for name in ("train", "test") if (splits == name).any()}
    if "train" not in rows:
        raise UserError("data.name", "rows of the training split", f"none in {argument}")
    images = _encoded(files, rows, spec) if _is_encoded(files[0]) else _tensors(files, rows, spec)
    sets = {name: Labelled(values=images[name], labels=labels[rows[name]]) for name in rows}
    return Source(train=sets["train"], test=sets.get("test"), classes=_class_names(files[0]))


def _files(argument: str) -> list[Path]:
    top = expanded(argument)
    found = [top] if top.is_file() else sorted(top.rglob("*.parquet"))
    files = [path for path in found if not path.name.startswith((".", "_"))]
    if not files:
        raise UserError("data.name", "parquet:PATH of a Parquet file, or of a folder with some", argument)
    for path in files:
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError("data.name", "a readable Parquet file", f"{path}: {error}") from error
        missing = {"image", "label"} - set(names)
        if missing:
            raise UserError("data.name", f"a column `{sorted(missing)[0]}` in {path}", ", ".join(names))
    return files


def _labels_and_splits(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    labels: list[np.ndarray] = []
    splits: list[str] = []
    for path in files:
        table = pq.read_table(path, columns=[n for n in ("label", "split") if n in pq.read_schema(path).names])
        if table["label"].null_count:
            raise UserError("data.name", f"a `label` in every row of {path}", f"{table['label'].null_count} missing")
        labels.append(checked_labels(table["label"].to_numpy(), "label") if len(table) else np.empty(0, np.int64))
        words = table["split"].to_pylist() if "split" in table.column_names else [_split_of(path)] * len(table)
        unknown = [word for word in words if word not in SPLITS]
        if unknown:
            raise UserError("data.name", f"`split` as one of {', '.join(SPLITS)}", unknown[0])
        splits.extend(SPLITS[word] for word in words)
    return np.concatenate(labels), np.array(splits, dtype=object)


def _split_of(path: Path) -> str:
    found = SPLIT_NAME.match(path.stem)
    return found[1] if found else "train"


def _class_names(path: Path) -> tuple[str, ...] | None:
    """The names of a label column that Hugging Face `datasets` wrote, from the file's metadata."""
    metadata = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    features = json.loads(metadata).get("info", {}).get("features", {}) if metadata else {}
    names = features.get("label", {}).get("names")
    return tuple(names) if names else None


def _is_encoded(path: Path) -> bool:
    kind = pq.read_schema(path).field("image").type
    return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _stamp(files: list[Path]) -> str:
    status = [(path.name, path.stat()) for path in files]
    listing = "\n".join(f"{name}\0{found.st_size}\0{found.st_mtime_ns}" for name, found in status)
    return hashlib.sha256(listing.encode()).hexdigest()


def _columns(files: list[Path], chosen: np.ndarray) -> Iterator[tuple[Path, np.ndarray, pa.Array]]:
    """File, mask of chosen rows and image column, a batch of rows in memory at a time."""
    row = 0
    wanted = np.zeros(sum(pq.read_metadata(path).num_rows for path in files), dtype=bool)
    wanted[chosen] = True
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=["image"]):
            mask = wanted[row : row + len(batch)]
            row += len(batch)
            if mask.any():
                yield path, mask, batch.column("image")


def _encoded(files: list[Path], rows: Rows, spec: "DataSpec") -> dict[str, np.ndarray]:
    def entries(chosen: np.ndarray) -> Iterator[Entry]:
        places = iter(chosen)
        for path, mask, column in _columns(files, chosen):
            for cell in column.filter(pa.array(mask)).to_pylist():
                data = cell.get("bytes") if isinstance(cell, dict) else cell
                yield f"{path} row {next(places)}", data or b""

    stamp = _stamp(files)
    pictures = {
        name: Pictures(count=len(chosen), entries=partial(entries, chosen), stamp=stamp)
        for name, chosen in rows.items()
    }
    return decode(pictures, image_size=spec.image_size, cache=decoded_root(spec))


def _tensors(files: list[Path], rows: Rows, spec: "DataSpec") -> dict[str, np.ndarray]:
    folder, key = decoded_root(spec), hashlib.sha256(f"{_stamp(files)} {spec.image_size}".encode()).hexdigest()[:32]
    earlier = kept(list(rows), folder=folder, key=key)
    if earlier is not None:
        return earlier

    def pieces(name: str) -> Iterator[np.ndarray]:
        for path, mask, column in _columns(files, rows[name]):
            yield resize(checked_images(_numbers(column, path)[mask], "image"), spec.image_size)

    def fill(name: str, out: np.ndarray) -> None:
        start = 0
        for piece in pieces(name):
            _refuse_other(piece, out)
            out[start : start + len(piece)] = piece
            start += len(piece)

    first = next(pieces("train"))
    shapes = {name: (len(chosen), *first.shape[1:]) for name, chosen in rows.items()}
    return held(shapes, first.dtype, fill, folder=folder, key=key)


def _refuse_other(piece: np.ndarray, out: np.ndarray) -> None:
    if piece.shape[1:] != out.shape[1:] or piece.dtype != out.dtype:
        expected, got = (f"{array.dtype} {array.shape[1:]}" for array in (out, piece))
        raise UserError("data.name", f"images all alike in the column `image` ({expected})", got)


def _numbers(column: pa.Array, path: Path) -> np.ndarray:
    """An image column of tensors or nested lists as one array `(n, ...)`."""
    if column.null_count:
        raise UserError("data.name", f"an image in every row of {path}", f"{column.null_count} missing")
    if isinstance(column, pa.FixedShapeTensorArray):
        return column.to_numpy_ndarray()
    shape = [len(column)]
    while (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or column.null_count:
            raise UserError("data.name", f"images of one shape in {path}", f"rows of {lengths[:2]} values")
        shape.append(lengths[0])
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False).reshape(shape)
