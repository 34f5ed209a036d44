"""What parameter-space saliency of a run still lacks, found on storage alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import parquet

from salcore import manifests, shards
from salcore.blame.items import Item, planned
from salcore.blame.marks import Marks
from salcore.blame.stored import Profiles
from salcore.layout import part_file, profiles_folder
from salcore.members import Member
from salcore.storage import Store


@dataclass(kw_only=True)
class Found:
    """Profiles of a run: finished shards by (split, member), items that are missing, and what was found wrong."""

    entries: dict[tuple[str, int], dict[str, shards.Entry]] = field(default_factory=dict)
    missing: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shards: int = 0


def profiles(store: Store, marks: Marks, members: Sequence[Member]) -> Found:
    """Look at every shard of the members' profiles; damaged ones and those of other samples count as missing."""
    found = Found()
    for member in members:
        for split, parts in marks.ranges.items():
            finished, problems = manifests.scan(store, profiles_folder(split, member.index))
            found.problems += problems
            found.shards += len(parts)
            entries = found.entries[split, member.index] = {}
            for part in parts:
                entry = finished.get(part_file(part.part))
                if entry is not None and entry.fingerprint == marks.profiles(member.index, split, part):
                    entries[entry.path] = entry
                else:
                    found.missing.append(Item(member=member.index, what=split, range=part))
    return found


def lacking(store: Store, marks: Marks, members: Sequence[Member]) -> list[Item]:
    """The experiments whose tables are missing, or of other profiles, settings or mistakes."""
    return [
        item
        for member in members
        for item, mark in _wanted(store, marks, member)
        if read_mark(store, item.file) != mark
    ]


def read_mark(store: Store, name: str) -> str | None:
    """The fingerprint that a table carries; None if there is none, or it is damaged."""
    if not store.exists(name):
        return None
    try:
        metadata = parquet.read_schema(store.open(name)).metadata or {}
        return json.loads(metadata[shards.METADATA])["fingerprint"]
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


def _wanted(store: Store, marks: Marks, member: Member) -> Iterator[tuple[Item, str]]:
    """Every table of a member, with its fingerprint."""
    held_out = Profiles(store, marks.parameters.held_out, member.index, marks)
    for item, places in planned(member.index, held_out, marks.parameters):
        yield item, marks.experiment(member.index, item.what, held_out.sample[places].tolist())
