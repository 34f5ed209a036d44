"""What a run still lacks, found on storage alone: nothing is remembered in a process that may die."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from salcore import shards
from salcore.attribution import takes_statistics
from salcore.blame.marks import Marks
from salcore.data import Data
from salcore.explain import Item, maps_fingerprint, predictions_mark, read_predictions, within
from salcore.layout import LOGITS, Range, maps_folder, member_folder, part_file, ranges
from salcore.members import Member
from salcore.spec import MethodSpec, Spec
from salcore.storage import Store
from salcore.work import range_digest


@dataclass(kw_only=True)
class Inventory:
    """The maps of a run: finished shards by (method, member), items that are missing, and what was found wrong.

    `outdated` counts, by method, shards that are whole but of other settings or samples than the spec's.
    """

    entries: dict[tuple[str, int], dict[str, shards.Entry]] = field(default_factory=dict)
    missing: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    outdated: Counter[str] = field(default_factory=Counter)

    @property
    def shards_missing(self) -> int:
        """Number of shards to make."""
        return sum(len(item.methods) for item in self.missing)


def take(store: Store, spec: Spec, data: Data, members: Sequence[Member]) -> Inventory:
    """Look at every shard that the members' maps consist of. Manifests that differ from the files are put right.

    Damaged shards, and those made by other settings or of other samples than the spec's, count as missing. A range that
    lacks only a member's logits is an item without methods: accuracies are over all evaluation samples.
    """
    inventory = Inventory()
    cut = list(ranges(len(data.evaluation), spec.attribution.shard_samples))
    digests = {part: range_digest(data, part) for part in _all_ranges(cut, spec)}
    standardised = any(takes_statistics(method.name, method.settings) for method in spec.attribution.methods)
    marks = Marks(spec, data, members) if standardised and spec.parameters is not None else None
    for member in members:
        lacking: dict[int, list[str]] = {}
        for method in spec.attribution.methods:
            finished = _finished(store, method, member, inventory.problems)
            expected = {part_file(part.part): part for part in cut if _covers(part, method)}
            entries = {}
            for path, part in expected.items():
                wanted = maps_fingerprint(member, method, spec, digests[within(part, method)], members, marks)
                entry = finished.get(path)
                if entry is not None and entry.fingerprint == wanted:
                    entries[path] = entry
                else:
                    lacking.setdefault(part.part, []).append(method.folder)
                    inventory.outdated[method.folder] += entry is not None
            inventory.entries[method.folder, member.index] = entries
        inventory.missing += [
            Item(member=member.index, range=part, methods=tuple(lacking.get(part.part, ())))
            for part in cut
            if part.part in lacking or not _predicted(store, member, part, digests[part])
        ]
    return inventory


def _predicted(store: Store, member: Member, part: Range, digest: str) -> bool:
    name = f"{member_folder(member.index)}/{LOGITS}/{part_file(part.part)}"
    return read_predictions(store, name, predictions_mark(member, digest)) is not None


def _finished(store: Store, method: MethodSpec, member: Member, problems: list[str]) -> dict[str, shards.Entry]:
    folder = maps_folder(method.folder, member.index)
    entries, found = shards.scan(store, folder)
    problems += found
    return entries


def _covers(part: Range, method: MethodSpec) -> bool:
    return method.samples is None or part.start < method.samples


def _all_ranges(cut: Sequence[Range], spec: Spec) -> Iterator[Range]:
    yield from cut
    for method in spec.attribution.methods:
        yield from (within(part, method) for part in cut if _covers(part, method))


def by_method(items: Sequence[Item]) -> list[Item]:
    """The same work with one method an item, so that few members and ranges still keep every slot busy."""
    return [replace(item, methods=(method,)) for item in items for method in item.methods] + [
        item for item in items if not item.methods
    ]


def without_methods(items: Sequence[Item]) -> list[Item]:
    """The same ranges with no method: what computes logits only."""
    return [replace(item, methods=()) for item in items]
