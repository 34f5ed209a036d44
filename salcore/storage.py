"""A folder on any filesystem that pyarrow knows: local disk, NFS, S3, GCS.

Files appear whole or not at all: on a local filesystem they are written under a temporary name, flushed and renamed;
on an object store a single PUT is the commit. Every name is relative to the folder, with forward slashes.
"""

import json
import os
import stat
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from salcore.errors import Damaged, UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from pydantic import BaseModel

Kind = TypeVar("Kind", bound="BaseModel")

TEMPORARY = ".tmp-"
"""Start of the name of a file that is still being written. Whoever finds an old one may delete it."""


SEAL = "crc32"
"""Key of the checksum in a JSON file. A file without one, of an earlier version, is taken as it is."""


class FileInfo(NamedTuple):
    """Size in bytes and time of the last change in nanoseconds since 1970."""

    size: int
    mtime_ns: int


class Store:
    """A folder, given as a local path or a URI such as `s3://bucket/run`.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.write("members/0000/a.txt", b"whole or not at all")
    >>> sorted(store.files()), store.read("members/0000/a.txt")[:5]
    (['members/0000/a.txt'], b'whole')
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = _absolute(uri)
        try:
            self._fs, self._root = fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError("--run-dir", f"a folder or a URI that pyarrow opens ({error})", str(uri)) from None
        self._root = self._root.rstrip("/")
        self._local = isinstance(self._fs, fs.LocalFileSystem)
        if not self._root and not self._local:
            raise UserError("--run-dir", "a bucket and a folder in it, as s3://bucket/run", str(uri))

    def __repr__(self) -> str:
        return f"Store({str(self)!r})"

    def __str__(self) -> str:
        return self._root if self._local else self.uri

    def __reduce__(self) -> tuple:
        return Store, (self.uri,)

    @property
    def local(self) -> Path | None:
        """The folder's path if it is on a local (or mounted) filesystem, else None."""
        return Path(self._root) if self._local else None

    def child(self, name: str) -> "Store":
        """The folder `name` below this one."""
        return Store(f"{self.uri.rstrip('/')}/{quote(name)}")

    def path(self, name: str) -> str:
        """The full path or URI of `name`, as a message to a person would give it."""
        return f"{self}/{name}" if name else str(self)

    def read(self, name: str) -> bytes:
        """All bytes of a file. Raises FileNotFoundError."""
        with self._fs.open_input_stream(self._inside(name)) as stream:
            return stream.read()

    def open(self, name: str) -> pa.NativeFile:
        """Random access to a file: memory-mapped where it is local. Raises FileNotFoundError."""
        if self._local:
            return pa.memory_map(self._inside(name))
        return self._fs.open_input_file(self._inside(name))

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a whole file, visible only once it is complete; replaces an earlier one."""
        target = self._inside(name)
        if not self._local:
            with self._fs.open_output_stream(target) as stream:
                stream.write(data)
            return
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none, else return False. Exclusive on local filesystems only."""
        if not self._local:
            if self.exists(name):
                return False
            self.write(name, data)
            return True
        path = Path(self._inside(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
        try:
            temporary.write_bytes(data)
            os.link(temporary, path)  # fails where a rename would overwrite, and the file is whole at once
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def exists(self, name: str) -> bool:
        """Whether there is a file (or, on a local filesystem, a folder) of this name."""
        return self._fs.get_file_info(self._inside(name)).type != fs.FileType.NotFound

    def info(self, name: str) -> FileInfo | None:
        """Size and time of a file, None if there is none."""
        if self._local:
            return _local_info(self._inside(name))
        found = self._fs.get_file_info(self._inside(name))
        return _info(found) if found.type == fs.FileType.File else None

    def files(self, prefix: str = "") -> dict[str, FileInfo]:
        """Every file below `prefix`, recursively, in order of name. Empty if there is no such folder."""
        if self._local:
            return dict(sorted(_local_files(self._inside(prefix), f"{prefix}/" if prefix else "")))
        selector = fs.FileSelector(self._inside(prefix), recursive=True, allow_not_found=True)
        found = {
            entry.path[len(self._root) :].lstrip("/"): _info(entry)
            for entry in self._fs.get_file_info(selector)
            if entry.type == fs.FileType.File
        }
        return dict(sorted(found.items()))

    def infos(self, names: Sequence[str]) -> dict[str, FileInfo]:
        """Size and time of those of the files that there are: one question, during which other threads go on."""
        found = self._fs.get_file_info([self._inside(name) for name in names])
        return {name: _info(each) for name, each in zip(names, found, strict=True) if each.is_file}

    def snapshot(self, folder: str) -> "Store":
        """The store, for many questions about files below a folder: an object store is asked once, for all of them."""
        return self if self._local else _Snapshot(self, folder)

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        if self.exists(name):
            self._fs.delete_file(self._inside(name))

    def delete_folder(self, name: str) -> None:
        """Delete a folder and all in it; nothing happens if there is none."""
        if self.exists(name):
            self._fs.delete_dir(self._inside(name))

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON with sorted keys, a mapping with a checksum of the rest under `SEAL`."""
        if isinstance(value, dict):
            value = {**value, SEAL: _checksum(json.loads(json.dumps(value)))}
        self.write(name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """The value of a JSON file. Raises Damaged that names the file if it is not JSON, or its checksum is wrong."""
        content = self.read(name)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{self.path(name)} is not JSON ({error}): {_cure(name)}") from None
        if isinstance(value, dict) and SEAL in value and value.pop(SEAL) != _checksum(value):
            raise self.damaged(name, "it was altered after it was written")
        return value

    def read_as(self, name: str, kind: type[Kind]) -> Kind:
        """The value of a JSON file, of the kind that was written there. Raises Damaged for any other."""
        from pydantic import ValidationError  # here, as maps and statistics are read without it

        content = json.dumps(self.read_json(name))
        try:
            return kind.model_validate_json(content, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise self.damaged(name, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def damaged(self, name: str, why: object) -> Damaged:
        """The error for a file that is not as it was written, in one line."""
        told = " ".join(str(why).split())
        return Damaged(f"{self.path(name)} is damaged ({told[:200]}): {_cure(name)}")

    def write_parquet(self, name: str, table: pa.Table) -> None:
        """Write a table as one Parquet file, with checksums of its pages and of all its plain values."""
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), SEAL: str(_table_checksum(table))})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, write_page_checksum=True)
        self.write(name, sink.getvalue())

    def read_parquet(self, name: str, columns: Sequence[str] = ()) -> pa.Table:
        """The table of a Parquet file. Raises Damaged for one that is not whole, is another, or lacks the `columns`."""
        content = self.read(name)
        try:
            table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
            table.validate()
            metadata = table.schema.metadata or {}
            known = metadata.pop(SEAL.encode(), None)
            if known is not None and known != str(_table_checksum(table)).encode():
                raise ValueError("it was altered after it was written")
            if lacking := {*columns} - {*table.column_names}:
                raise ValueError(f"it lacks the columns {', '.join(sorted(lacking))}")
        except Exception as error:  # whatever pyarrow says of what is in memory: storage has no part in it any more
            raise self.damaged(name, error) from None
        return table.replace_schema_metadata(metadata)

    def _inside(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


class _Snapshot(Store):
    """A store that tells of the files below a folder as they stood when it was made."""

    def __init__(self, store: Store, folder: str) -> None:
        vars(self).update(vars(store))
        self._folder, self._known = f"{folder}/", store.files(folder)

    def exists(self, name: str) -> bool:
        """Whether there was a file of this name."""
        return name in self._known if name.startswith(self._folder) else super().exists(name)

    def info(self, name: str) -> FileInfo | None:
        """Size and time of a file, None if there was none."""
        return self._known.get(name) if name.startswith(self._folder) else super().info(name)


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Whether a run directory is given as a URI rather than as a path of this machine."""
    return "://" in os.fspath(uri)


def _cure(name: str) -> str:
    """What makes a file again: of a trained member, all of them."""
    whole = name.startswith("members/")
    return "delete the member's folder to have it trained again" if whole else "delete it to have it made again"


def _checksum(value: Any) -> int:
    """CRC-32 of a value that comes from JSON: its tuples are lists, and its keys text."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _table_checksum(table: pa.Table) -> int:
    """CRC-32 of names and numbers, words and truths; lists and tensors are left to the checksums of their pages."""
    plain = [each for each in table.schema if pa.types.is_primitive(each.type) or pa.types.is_string(each.type)]
    types = [(each.name, str(each.type)) for each in plain]
    values = table.select([each.name for each in plain]).to_pydict()
    return zlib.crc32(repr((table.schema.names, table.num_rows, types, values)).encode())


def _absolute(uri: str | os.PathLike[str]) -> str:
    text = os.fspath(uri)
    return text if is_remote(text) else expanded(text).absolute().as_uri()


def _info(entry: fs.FileInfo) -> FileInfo:
    return FileInfo(entry.size, entry.mtime_ns or 0)


def _local_info(place: "str | os.DirEntry") -> FileInfo | None:
    """Size and time of a file of this machine; None if there is none, or it is no plain file."""
    try:
        found = os.stat(place)  # noqa: PTH116 - a Path takes longer than the answer
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileInfo(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _local_files(folder: str, prefix: str) -> Iterator[tuple[str, FileInfo]]:
    """Every file below a folder of this machine. What vanishes meanwhile was not there."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from _local_files(entry.path, f"{prefix}{entry.name}/")
                elif (info := _local_info(entry)) is not None:
                    yield f"{prefix}{entry.name}", info
    except (FileNotFoundError, NotADirectoryError):
        return
