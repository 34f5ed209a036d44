"""Boxes around the objects in images, from a table beside the images."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from salcore.data.part import Part
from salcore.errors import UserError
from salcore.paths import expanded

KEY = "parameters.boxes"
SIDES = ("left", "top", "right", "bottom")
SIZE = ("width", "height")

_ROUNDING = 1e-9

Columns = dict[str, np.ndarray]


def read_boxes(
    path: str, part: Part, samples: Sequence[int] | np.ndarray, *, files: Sequence[str] | None = None
) -> np.ndarray:
    """The boxes of some samples of a part, (n, 4) int64: pixels [left, top, right, bottom) as the network sees them.

    The table, a CSV file with a header or a Parquet file, has a row for each sample. Its column `sample` numbers it as
    the part does, or `file` is one of `files`, which names all of them in order. `left`, `top`, `right` and `bottom`
    are in pixels of a picture of `width` and `height`, two more columns, or without these in shares of the picture,
    from 0 to 1: a picture's own size is not kept, and bringing it to another one stretches the whole of it. Pixels that
    a box covers in part belong to it.

    Raises UserError, with the row, for a table that cannot be read, samples that are not in it or twice, and boxes
    that are empty or reach beyond the picture. Rows are counted from 1, without the header.
    """
    columns = _read(path)
    shares = _shares(columns, path)
    height, width = part.values.shape[2:]
    return pixels(shares[_rows(columns, path, samples, files)], height, width)


def _read(path: str) -> Columns:
    """The columns of the table, none of them with gaps."""
    file = expanded(path)
    read = pyarrow.parquet.read_table if file.suffix == ".parquet" else pyarrow.csv.read_csv
    try:
        table = read(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(KEY, "a table of boxes that can be read, .csv or .parquet", f"{path}: {error}") from error
    names = set(table.column_names)
    if not (set(SIDES) < names and {"sample", "file"} & names and len(names & set(SIZE)) != 1):
        wanted = f"columns sample or file, {', '.join(SIDES)}, and width and height or neither, in {path}"
        raise UserError(KEY, wanted, ", ".join(table.column_names))
    if not len(table):
        raise UserError(KEY, f"a row for every sample in {path}", "none")
    for name in table.column_names:
        if table[name].null_count:
            row = 1 + table[name].is_null().to_pylist().index(True)
            raise UserError(KEY, f"a value in every row of {path}", f"none of `{name}` in row {row}")
    return {name: table[name].to_numpy() for name in table.column_names}


def _shares(columns: Columns, path: str) -> np.ndarray:
    """The boxes of all rows, (R, 4), in shares of the picture."""
    measured = "width" in columns
    for name in SIDES + SIZE if measured else SIDES:
        if columns[name].dtype.kind not in "iuf":
            raise UserError(KEY, f"numbers in the column `{name}` of {path}", str(columns[name][0]))
    sides = np.stack([columns[name] for name in SIDES], axis=1).astype(np.float64)
    extent = np.stack([columns[name] for name in SIZE], axis=1) if measured else np.ones((len(sides), 2))
    within = "width and height" if measured else "1, as there are no columns width and height,"
    _require(np.all(sides[:, :2] < sides[:, 2:], axis=1), "left < right and top < bottom", sides, path)
    _require(np.all((sides[:, :2] >= 0) & (sides[:, 2:] <= extent), axis=1), f"a box from 0 to {within}", sides, path)
    return sides / np.tile(extent, 2)


def _require(right: np.ndarray, expected: str, sides: np.ndarray, path: str) -> None:
    """Raise UserError for the first row that is not right."""
    if not right.all():
        row = int(np.flatnonzero(~right)[0])
        raise UserError(KEY, f"{expected} in row {row + 1} of {path}", sides[row].tolist())


def _rows(columns: Columns, path: str, samples: Sequence[int] | np.ndarray, files: Sequence[str] | None) -> list[int]:
    """The row of each sample."""
    numbered = "sample" in columns
    if not numbered and files is None:
        raise UserError(KEY, f"a column `sample` in {path}, as the samples have no files", "file")
    names = columns["sample" if numbered else "file"].tolist()
    rows = {name: row for row, name in reversed(list(enumerate(names)))}
    for row, name in enumerate(names):
        if rows[name] != row:
            raise UserError(
                KEY, f"one row for each sample in {path}", f"{name!r} in rows {rows[name] + 1} and {row + 1}"
            )
    wanted = [int(sample) if numbered or files is None else files[sample] for sample in samples]
    missing = next((name for name in wanted if name not in rows), None)
    if missing is not None:
        raise UserError(KEY, f"a row for every sample in {path}", f"none for {missing!r}")
    return [rows[name] for name in wanted]


def pixels(shares: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (n, 4) in shares of the picture as pixels of one of this size, rounded outwards, none of them empty."""
    extent = np.array([width, height])
    low = np.minimum(np.floor(shares[:, :2] * extent + _ROUNDING), extent - 1)
    high = np.maximum(np.ceil(shares[:, 2:] * extent - _ROUNDING), low + 1)
    return np.concatenate([low, high], axis=1).astype(np.int64)
