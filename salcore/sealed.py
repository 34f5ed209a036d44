"""Tables that carry their own checksum, in Arrow files that no manifest vouches for: statistics and logits."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from salcore.shards import CorruptShard, header, not_whole
from salcore.storage import FileInfo, Store

SEAL = b"salcore.crc32"
"""Schema metadata key of the checksum. A file without one, of an earlier version, is taken as it is."""


def sealed(table: pa.Table) -> pa.Table:
    """The table with a checksum of all that it holds in its schema's metadata."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), SEAL: json.dumps(_checksum(table))})


def read_sealed(store: Store, name: str) -> pa.Table:
    """A table as `sealed` gave it, memory-mapped where it is local. Raises CorruptShard, FileNotFoundError.

    The checksum is asked for once in a process: of a file of the same time and size it is known.
    """
    info = store.info(name)
    if info is None:
        raise FileNotFoundError(f"{store.path(name)} is not there")
    if info.size == 0:
        raise CorruptShard(f"{store.path(name)} is not a whole shard (it is empty)")  # such a file cannot be mapped
    try:
        table = ipc.open_file(store.open(name)).read_all()
        if (store.uri, name, info) not in _SEEN:
            table.validate()
            expected = header(table.schema, SEAL)
            if expected is not None and expected != _checksum(table):
                raise pa.ArrowInvalid("it does not have its checksum")
            _SEEN.add((store.uri, name, info))
    except (pa.ArrowException, OSError) as error:
        raise not_whole(store.path(name), error) from None
    return table


_SEEN: set[tuple[str, str, FileInfo]] = set()


def _checksum(table: pa.Table) -> int:
    """CRC-32 of names, types, metadata and values, however they are cut. Raises ArrowInvalid for columns with nulls."""
    found = zlib.crc32(repr(sorted(item for item in (table.schema.metadata or {}).items() if item[0] != SEAL)).encode())
    for field, column in zip(table.schema, table.columns, strict=True):
        about = field.name, tuple(getattr(field.type, "shape", ())), len(column)
        found = zlib.crc32(repr(about).encode(), found)
        chunks = [_numbers(chunk) for chunk in column.chunks if len(chunk)]
        if chunks:
            found = zlib.crc32(chunks[0].dtype.str.encode(), found)
        for numbers in chunks:
            found = zlib.crc32(numbers.data, found)
    return found


def _numbers(values: pa.Array) -> np.ndarray:
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    return values.to_numpy()
