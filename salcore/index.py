"""What is known of the finished files of all members, in one file: ten thousand members are looked through in seconds.

An index repeats what manifests say, and vouches for a file only as long as that has the size and the time it had. One
that is missing, damaged or behind costs a look into the manifests and files themselves, and is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from salcore.layout import part_file, part_of
from salcore.sealed import read_sealed, sealed
from salcore.shards import CorruptShard, Entry, serialise
from salcore.storage import FileInfo, Store

_NUMBERS = {"member": np.int32, "part": np.int32, "rows": np.int32, "bytes": np.int64, "mtime_ns": np.int64}
_HASHES = "sha256", "fingerprint"
_HASH_BYTES = 32
_ROWS = 1 << 16
_MEMBERS_AS_ENTRIES = 256


class Index:
    """Entries by member of files named by the part they hold; columns in memory, 92 bytes a file.

    `mtime_ns` is when it was written (0: never): what is younger it knows nothing of.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        info = store.info(name)
        self.mtime_ns = 0 if info is None else info.mtime_ns
        self._columns = _read(store, name)
        self._changed: dict[int, dict[str, Entry]] = {}
        self._differs = False

    def of(self, member: int) -> dict[str, Entry]:
        """The entries of a member by path."""
        if member in self._changed:
            return self._changed[member]
        return {path: Entry(path, *row) for path, row in self._rows(member, *Entry._fields[1:]).items()}

    def column(self, member: int, name: str) -> dict[str, Any]:
        """One value of each entry of a member, by path."""
        return {path: value for path, (value,) in self._rows(member, name).items()}

    def standing(self, member: int, folder: str, files: Mapping[str, FileInfo], wanted: Mapping[str, str]) -> list[str]:
        """Those of the `wanted` files of a folder (fingerprints by path) that are as they are known, and as wanted.

        `files`: those that there are, by their full names. One whose time is not told has nobody to vouch for it.
        """
        known = self._rows(member, "bytes", "mtime_ns", "fingerprint")
        return [
            path
            for path, mark in wanted.items()
            if (info := files.get(f"{folder}/{path}")) and info.mtime_ns and known.get(path) == (*info, mark)
        ]

    def _rows(self, member: int, *names: str) -> dict[str, tuple]:
        """What these columns say of a member's files, by path; hashes as hexadecimal."""
        if member in self._changed:
            return {path: tuple(getattr(of, name) for name in names) for path, of in self._changed[member].items()}
        first, stop = self._columns["member"].searchsorted(np.array([member, member + 1], np.int32))
        parts = self._columns["part"][first:stop].tolist()
        columns = (self._columns[name][first:stop] for name in names)
        values = (_texts(each) if each.ndim == 2 else each.tolist() for each in columns)
        return dict(zip(map(part_file, parts), zip(*values, strict=True), strict=True))

    def enter(self, member: int, entries: Mapping[str, Entry]) -> None:
        """Put these in the place of what is known of a member."""
        if not entries and not self.of(member):
            return
        self._changed[member] = dict(entries)
        if len(self._changed) == _MEMBERS_AS_ENTRIES:
            self._pack()

    def write(self) -> None:
        """Put what is known on storage, if that differs from what is there."""
        self._pack()
        if self._differs:
            self._store.write(self._name, serialise(sealed(_table(self._columns)), _ROWS))
            pa.default_memory_pool().release_unused()  # else Arrow keeps as much as the file is long
        self._differs = False

    def _pack(self) -> None:
        """Bring what was entered into the columns: as entries it takes ten times the memory."""
        if not self._changed:
            return
        kept = ~np.isin(self._columns["member"], list(self._changed))
        new = _columns(self._changed)
        part, member = (np.concatenate([self._columns[name][kept], new[name]]) for name in ("part", "member"))
        order = np.lexsort((part, member))
        for name in self._columns:  # one after the other: at no time are there two of them all
            self._columns[name] = np.concatenate([self._columns[name][kept], new.pop(name)])[order]
        self._changed.clear()
        self._differs = True


def _read(store: Store, name: str) -> dict[str, np.ndarray]:
    """The columns of an index; empty ones where there is none that is whole."""
    try:
        table = read_sealed(store, name)
        columns = {key: table[key].to_numpy().astype(kind) for key, kind in _NUMBERS.items()}
        for key in _HASHES:
            columns[key] = table[key].combine_chunks().flatten().to_numpy().astype(np.uint8).reshape(-1, _HASH_BYTES)
    except (FileNotFoundError, CorruptShard, KeyError, ValueError, AttributeError):
        return _columns({})
    return columns


def _columns(entries: Mapping[int, Mapping[str, Entry]]) -> dict[str, np.ndarray]:
    rows = [(member, entry) for member, of in entries.items() for entry in of.values()]
    values = {
        "member": [member for member, _ in rows],
        "part": [part_of(entry.path) for _, entry in rows],
        **{name: [getattr(entry, name) for _, entry in rows] for name in ("rows", "bytes", "mtime_ns")},
    }
    columns = {name: np.array(values[name], kind) for name, kind in _NUMBERS.items()}
    for name in _HASHES:
        packed = b"".join(bytes.fromhex(getattr(entry, name)) for _, entry in rows)
        columns[name] = np.frombuffer(packed, np.uint8).reshape(-1, _HASH_BYTES)
    return columns


def _table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    arrays: dict[str, pa.Array] = {name: pa.array(columns[name]) for name in _NUMBERS}
    for name in _HASHES:
        arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(columns[name].reshape(-1)), _HASH_BYTES)
    return pa.table(arrays)


def _texts(hashes: np.ndarray) -> list[str]:
    """Hashes (n, 32) as hexadecimal."""
    text, width = hashes.tobytes().hex(), 2 * _HASH_BYTES
    return [text[start : start + width] for start in range(0, len(text), width)]
