"""Manifests: what is finished in a folder of shards, with sizes, hashes and times. The files are the truth."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

from salcore.errors import Damaged
from salcore.shards import CorruptShard, Entry, Shard, entry_of
from salcore.shards import read as read_shard
from salcore.storage import TEMPORARY, FileInfo, Store

MANIFEST = "manifest.json"
_TYPES = get_type_hints(Entry)


def read_finished(store: Store, folder: str, path: str) -> Shard:
    """Open a shard that is as its manifest says, by size and time or else by hash. Raises CorruptShard."""
    name = f"{folder}/{path}"
    known, info = read(store, folder).get(path), store.info(name)
    if info is not None and known is not None:
        _check(store, name, info, known)
    return read_shard(store, name)


def read(store: Store, folder: str) -> dict[str, Entry]:
    """Entries by path of a folder's manifest; empty if there is none. Raises Damaged if it cannot be understood."""
    name = f"{folder}/{MANIFEST}"
    if not store.exists(name):
        return {}
    try:
        entries = [_known(entry) for entry in store.read_json(name)["shards"]]
    except (TypeError, KeyError) as error:
        raise Damaged(f"{store.path(name)} is not a manifest ({error}): delete it to have it made again") from None
    return {entry.path: entry for entry in entries}


def _known(values: dict[str, Any]) -> Entry:
    """The entry of a manifest's values. Raises TypeError."""
    entry = Entry(**values)
    wrong = [key for key, kind in _TYPES.items() if type(getattr(entry, key)) is not kind]
    if wrong:
        raise TypeError(f"of another type: {', '.join(wrong)}")
    return entry


def write(store: Store, folder: str, entries: Mapping[str, Entry]) -> None:
    """Write a folder's manifest, sorted by path, in one piece."""
    store.write_json(f"{folder}/{MANIFEST}", {"shards": [entries[path]._asdict() for path in sorted(entries)]})


def says(store: Store, folder: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a folder's manifest says just this."""
    try:
        return read(store, folder) == entries
    except Damaged:
        return False


def scan(store: Store, folder: str) -> tuple[dict[str, Entry], list[str]]:
    """What is finished in a folder, from its files: entries by path, and one sentence for each thing that was wrong.

    A file as its manifest knows it (size and time) is trusted, one of another time is hashed again, one that the
    manifest does not know is opened and adopted. Leftover temporary files are deleted. What is returned may be written
    as the new manifest; the paths that it lacks are to be made again.
    """
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    try:
        known = read(store, folder)
    except Damaged as error:
        known = {}
        problems.append(f"{error}; it is made again from the shards.")
    files = {name.removeprefix(f"{folder}/"): info for name, info in store.files(folder).items()}
    for path, info in files.items():
        if path.startswith(TEMPORARY):
            store.delete(f"{folder}/{path}")
        elif re.fullmatch(r"[^/]+\.arrow", path):
            try:
                entries[path] = _check(store, f"{folder}/{path}", info, known.get(path))
            except CorruptShard as error:
                problems.append(f"{error}; it is to be made again.")
    problems += [
        f"{store.path(f'{folder}/{path}')} is in the manifest but not there; it is to be made again."
        for path in sorted(known.keys() - files.keys())
    ]
    return entries, problems


def _check(store: Store, name: str, info: FileInfo, known: Entry | None) -> Entry:
    if known is not None:
        if known.bytes != info.size:
            raise CorruptShard(f"{store.path(name)} has {info.size} bytes where its manifest says {known.bytes}")
        if known.mtime_ns == info.mtime_ns != 0:
            return known
    shard = read_shard(store, name)
    digest = hashlib.sha256(store.open(name).read_buffer()).hexdigest()
    if known is not None and known.sha256 != digest:
        raise CorruptShard(f"{store.path(name)} does not have the hash of its manifest")
    return entry_of(name, shard, digest, info)
