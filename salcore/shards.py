"""Map shards: one Arrow IPC file holds a range of samples for one member and one method.

The files are uncompressed, so that they memory-map, and their bytes are a function of their content alone.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from salcore.errors import Damaged
from salcore.finite import finite_rows
from salcore.storage import FileInfo, Store

METADATA = b"salcore"
BLOCK_BYTES = 1 << 18
"""Bytes of float32 maps that a reducer takes from one shard at a time: with their statistics they stay in cache."""
_COLUMNS = {"sample": pa.int64(), "label": pa.int32(), "target": pa.int32(), "prediction": pa.int32()}
_DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


class CorruptShard(Damaged):
    """A file that is not a whole shard: truncated, altered, or of another format. The message names it."""


class Entry(NamedTuple):
    """A finished shard in a manifest: `path` in its folder, rows, size, hash, and the time of the file so hashed."""

    path: str
    rows: int
    bytes: int
    sha256: str
    mtime_ns: int
    fingerprint: str


class Shard:
    """An open shard: its columns, and its maps by range. Local float32 maps are views of the memory-mapped file.

    Made by `open_shard`. Reading raises CorruptShard where the values do not go with what the file says of them.
    Holds at most one record batch (a few MB) of a file that is not memory-mapped.
    """

    def __init__(
        self, source: pa.NativeFile | pa.Buffer, reader: ipc.RecordBatchFileReader, starts: list[int], name: str
    ) -> None:
        self._source, self._name = source, name
        self._reader = reader
        self._schema = reader.schema
        self._starts = starts
        self._batch: tuple[int, np.ndarray] | None = None

    @property
    def rows(self) -> int:
        """Number of samples."""
        return self._starts[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one map, such as `(C, H, W)`."""
        return tuple(self._schema.field("map").type.shape)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the writer recorded: member, seeds, method, settings, fingerprints, code version."""
        return header(self._schema)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns other than the map."""
        return tuple(name for name in self._schema.names if name != "map")

    def column(self, name: str) -> np.ndarray:
        """All values `(rows,)` of a column other than the map; the maps are not read."""
        if name not in self.columns:
            raise ValueError(f"`name`: expected one of {', '.join(self.columns)}, got {name!r}")
        options = ipc.IpcReadOptions(included_fields=[self._schema.get_field_index(name)])
        with self._whole():
            table = ipc.open_file(self._source, options=options).read_all()
            table.validate()
            return table.column(name).to_numpy()

    def maps(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Maps of the rows `start..stop`, `(stop - start, *shape)` float32; not copied inside a float32 batch."""
        stop = self.rows if stop is None else stop
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"`start`, `stop`: expected 0 <= start <= stop <= {self.rows}, got {start} and {stop}")
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, *self.shape), np.float32)

    def non_finite(self) -> tuple[int, ...]:
        """Numbers of the samples whose map holds NaN or infinity."""
        finite = [good for maps in self._pieces(0, self.rows) for good in finite_rows(maps).tolist()]
        return tuple(number for number, good in zip(self.column("sample").tolist(), finite, strict=True) if not good)

    def _pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        while start < stop:
            index = bisect_right(self._starts, start) - 1
            first, end = self._starts[index], min(stop, self._starts[index + 1])
            yield self._values(index)[start - first : end - first]
            start = end

    def _values(self, index: int) -> np.ndarray:
        if self._batch is None or self._batch[0] != index:
            with self._whole():
                batch = self._reader.get_batch(index)
                batch.validate()
                values = batch.column("map").to_numpy_ndarray()
            if values.dtype == np.float16:
                exponents = batch.column("exponent").to_numpy().astype(np.int32)
                values = np.ldexp(values.astype(np.float32), along_rows(exponents, values.ndim))
            self._batch = index, values
        return self._batch[1]

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise not_whole(self._name, error) from None


def encode(
    *,
    sample: np.ndarray,
    label: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    maps: np.ndarray,
    metadata: Mapping[str, Any],
    dtype: str = "float32",
    residual: np.ndarray | None = None,
    length: np.ndarray | None = None,
    batch_rows: int | None = None,
) -> pa.Buffer:
    """The bytes of one shard.

    `maps` is `(n, C, H, W)`, or any `(n, ...)`, signed; the other columns are `(n,)`. `residual` is the completeness
    residual of methods that promise one, `length` the number of steps of padded sequences. With `dtype` "float16" a map
    is stored as `map * 2**-exponent`, its largest finite magnitude in `[2^14, 2^15)`, so none overflows and as few as
    possible are subnormal. NaN and infinities are
    stored as they are. Raises ValueError for lengths that differ and an unknown dtype.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"`dtype`: expected one of {', '.join(_DTYPES)}, got {dtype!r}")
    maps = np.ascontiguousarray(maps, np.float32)
    exponent, values = _halve(maps) if dtype == "float16" else (np.zeros(len(maps), np.int16), maps)
    columns = dict(zip(_COLUMNS, (sample, label, target, prediction), strict=True))
    arrays = {name: pa.array(np.asarray(column), _COLUMNS[name]) for name, column in columns.items()}
    arrays["exponent"] = pa.array(exponent)
    if residual is not None:
        arrays["residual"] = pa.array(np.asarray(residual), pa.float32())
    if length is not None:
        arrays["length"] = pa.array(np.asarray(length), pa.int32())
    arrays["map"] = tensors(values, _DTYPES[dtype])
    for name, array in arrays.items():
        if len(array) != len(maps):
            raise ValueError(f"`{name}`: expected {len(maps)} values, one per map, got {len(array)}")
    header = {METADATA: json.dumps(metadata, sort_keys=True).encode()}
    schema = pa.schema([pa.field(name, array.type) for name, array in arrays.items()], metadata=header)
    return serialise(pa.table(arrays, schema=schema), batch_rows or default_batch_rows(maps.shape[1:]))


def default_batch_rows(shape: tuple[int, ...]) -> int:
    """Rows of a record batch: a whole number of blocks, 2 MB of float32 maps, and one map at least."""
    return 8 * block_rows(shape)


def block_rows(shape: tuple[int, ...]) -> int:
    """Rows of the largest block of maps of this shape that stays within `BLOCK_BYTES`; at least 1."""
    return max(1, BLOCK_BYTES // (4 * max(1, int(np.prod(shape)))))


def write(store: Store, name: str, data: pa.Buffer) -> Entry:
    """Write the bytes of a shard under `name` and return its manifest entry."""
    store.write(name, data)
    info = store.info(name)
    if info is None:
        raise FileNotFoundError(f"{store.path(name)} disappeared while it was written")
    shard = open_shard(data, store.path(name))
    return entry_of(name, shard, hashlib.sha256(data).hexdigest(), info)


def read(store: Store, name: str) -> Shard:
    """Open the shard `name` of a store. Raises CorruptShard, FileNotFoundError."""
    if (info := store.info(name)) is not None and info.size == 0:
        raise CorruptShard(f"{store.path(name)} is not a whole shard (it is empty)")  # an empty file cannot be mapped
    return open_shard(store.open(name), store.path(name))


def open_shard(source: pa.NativeFile | pa.Buffer, name: str = "shard") -> Shard:
    """Open a shard from a (memory-mapped) file or its bytes; `name` is what messages call it. Raises CorruptShard."""
    try:
        reader = ipc.open_file(source)
        narrow = ipc.open_file(source, options=ipc.IpcReadOptions(included_fields=[0]))  # the maps stay unread
        rows = [narrow.get_batch(i).num_rows for i in range(narrow.num_record_batches)]
    except (pa.ArrowException, OSError) as error:
        raise not_whole(name, error) from None
    if wrong := _not_of_a_shard(reader.schema):
        raise CorruptShard(f"{name} is an Arrow file but no map shard: missing or of another type: {', '.join(wrong)}")
    return Shard(source, reader, [0, *accumulate(rows)], name)


def not_whole(name: str, error: Exception) -> CorruptShard:
    """The error for a file that pyarrow cannot read, in one line."""
    return CorruptShard(f"{name} is not a whole shard ({' '.join(str(error).split())})")


def _not_of_a_shard(schema: pa.Schema) -> list[str]:
    """The columns that a shard has and this file has not, or has of another type."""
    expected = {**_COLUMNS, "exponent": pa.int16()}
    wrong = [key for key, kind in expected.items() if schema.names.count(key) != 1 or schema.field(key).type != kind]
    tensor = schema.field("map").type if schema.names.count("map") == 1 else None
    if not isinstance(tensor, pa.FixedShapeTensorType) or tensor.value_type not in _DTYPES.values():
        wrong.append("map")
    if not isinstance(header(schema), dict):
        wrong.append("metadata")
    return wrong


def header(schema: pa.Schema, key: bytes = METADATA) -> Any:
    """The JSON value that a file of this project has in its schema's metadata; None if there is none."""
    try:
        return json.loads((schema.metadata or {}).get(key, b"null"))
    except (ValueError, RecursionError):
        return None


def entry_of(name: str, shard: Shard, digest: str, info: FileInfo) -> Entry:
    """What a manifest says of a shard."""
    path, mark = name.rpartition("/")[2], str(shard.metadata.get("fingerprint", ""))
    return Entry(path=path, rows=shard.rows, bytes=info.size, sha256=digest, mtime_ns=info.mtime_ns, fingerprint=mark)


def _halve(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exponent `(n,)` int16 and scaled maps float16; the exponent of a map without a finite value but 0 is 0."""
    magnitudes = np.where(np.isfinite(maps), np.abs(maps), 0)
    largest = magnitudes.max(axis=tuple(range(1, maps.ndim)), initial=0)
    exponent = np.where(largest > 0, np.frexp(largest)[1] - 15, 0).astype(np.int32)
    scaled = np.ldexp(maps, along_rows(-exponent, maps.ndim))
    with np.errstate(under="ignore"):
        return exponent.astype(np.int16), scaled.astype(np.float16)


def along_rows(values: np.ndarray, ndim: int) -> np.ndarray:
    """One value per row, `(n,)`, shaped to broadcast over arrays `(n, ...)` of `ndim` axes."""
    return values.reshape(-1, *[1] * (ndim - 1))


def tensors(values: np.ndarray, dtype: pa.DataType) -> pa.Array:
    """`(n, ...)` as an array of the canonical extension type `arrow.fixed_shape_tensor`, without a copy."""
    shape = values.shape[1:]
    storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), dtype), int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(dtype, shape), storage)


def serialise(table: pa.Table, batch_rows: int) -> pa.Buffer:
    """The bytes of an uncompressed Arrow IPC file with record batches of `batch_rows`."""
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return sink.getvalue()
