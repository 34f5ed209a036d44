"""What a run still lacks, found on storage alone: nothing is remembered in a process that may die."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial

from salcore import manifests
from salcore.attribution import takes_statistics
from salcore.blame.marks import Marks
from salcore.data import Data
from salcore.explain import (
    Item,
    Made,
    logits_entry,
    maps_fingerprints,
    predictions_marks,
    read_predictions,
    within,
)
from salcore.index import Index
from salcore.layout import LOGITS_INDEX, Range, logits_folder, maps_folder, maps_index, part_file, ranges
from salcore.manifests import MANIFEST
from salcore.members import Member, fingerprint
from salcore.shards import Entry
from salcore.spec import MethodSpec, Spec
from salcore.storage import FileInfo, Store
from salcore.work import range_digest

Files = Mapping[str, FileInfo]
"""Size and time of the files that there are, by their full names."""

_MEMBERS_AT_ONCE = 64


class Inventory:
    """The maps and logits of a run: what is finished, which items are missing, and what was found wrong.

    `outdated` counts, by method, shards that are whole but of other settings or samples than the spec's.
    Made by `take`.
    """

    def __init__(self, store: Store, paths: Mapping[str, list[str]]) -> None:
        self.missing: list[Item] = []
        self.problems: list[str] = []
        self.outdated: Counter[str] = Counter()
        self._store, self._paths = store, paths
        self._maps = {method: Index(store, maps_index(method)) for method in paths}
        self._logits = Index(store, LOGITS_INDEX)
        self._unkept: dict[tuple[str, int], dict[str, str]] = {}
        self._unsettled: set[tuple[str, int]] = set()

    @property
    def shards_missing(self) -> int:
        """Number of shards to make."""
        return sum(len(item.methods) for item in self.missing)

    def entries(self, method: str, member: int) -> dict[str, Entry]:
        """Finished shards by path."""
        return self._maps[method].of(member)

    def paths(self, method: str) -> list[str]:
        """Paths of the shards that each member has of a method, in order."""
        return self._paths[method]

    def inputs(self, method: str, members: Sequence[int]) -> dict[str, str]:
        """What the statistics of each range come from, by path: a digest of the shards that all these members have.

        Of maps that are not kept it is one of their fingerprints.
        """
        if not members:
            return {}
        if (method, members[0]) in self._unkept:
            marks = [self._unkept[method, member] for member in members]
            return {path: fingerprint(members, "unkept", [of[path] for of in marks]) for path in self.paths(method)}
        hashes: dict[str, list[str]] = {path: [] for path in self.paths(method)}
        for member in members:
            of = self._maps[method].column(member, "sha256")
            for path, each in hashes.items():
                each.append(of[path])
        return {path: fingerprint(members, each) for path, each in hashes.items()}

    def enter(self, made: Iterable[Made]) -> None:
        """Files were made."""
        for each in made:
            index = self._logits if each.method is None else self._maps[each.method]
            known, entry = index.of(each.member), each.entry
            if each.method is not None:
                self._unsettled.add((each.method, each.member))
            elif entry.path in known:
                entry = self._as_stored(each.member, entry)
            index.enter(each.member, {**known, entry.path: entry})

    def _as_stored(self, member: int, entry: Entry) -> Entry:
        """The entry of logits that several slots wrote at once: only storage knows whose file came last."""
        info = self._store.info(f"{logits_folder(member)}/{entry.path}")
        return entry if info is None else entry._replace(mtime_ns=info.mtime_ns)

    def write_manifests(self) -> None:
        """Put every manifest in step with its folder."""
        for method, member in sorted(self._unsettled):
            manifests.write(self._store, maps_folder(method, member), self.entries(method, member))
        self._unsettled.clear()

    def write(self) -> None:
        """Put what is known of all members on storage, for a quick look. Manifests first: indexes vouch for them."""
        self.write_manifests()
        for index in (*self._maps.values(), self._logits):
            index.write()

    def leave_out(self, method: str, member: int, marks: Mapping[str, str]) -> None:
        """These maps (fingerprints by path) are made where they are reduced, and not kept."""
        self._unkept[method, member] = dict(marks)

    def look_at_maps(self, method: str, member: int, files: Files, wanted: Mapping[str, str]) -> list[str]:
        """Find which of the `wanted` shards (fingerprints by path) are finished; the paths of the others."""
        folder, index = maps_folder(method, member), self._maps[method]
        manifest = files.get(f"{folder}/{MANIFEST}")
        indexed = manifest is not None and manifest.mtime_ns <= index.mtime_ns
        if indexed and len(index.standing(member, folder, files, wanted)) == len(wanted):
            return []
        finished, problems = manifests.scan(self._store, folder)
        self.problems += problems
        entries = {path: finished[path] for path, mark in wanted.items() if _carries(finished.get(path), mark)}
        self.outdated[method] += len(finished.keys() & wanted.keys()) - len(entries)
        index.enter(member, entries)
        if not manifests.says(self._store, folder, entries):
            self._unsettled.add((method, member))
        return [path for path in wanted if path not in entries]

    def look_at_logits(self, member: int, files: Files, wanted: Mapping[str, str]) -> list[str]:
        """Find which of the `wanted` files of logits are finished; the paths of the others."""
        folder = logits_folder(member)
        standing = self._logits.standing(member, folder, files, wanted)
        if len(standing) == len(wanted):
            return []
        known = self._logits.of(member)
        entries = {path: known[path] for path in standing}
        for path in wanted.keys() - entries.keys():
            name, mark = f"{folder}/{path}", wanted[path]
            if name in files and (found := read_predictions(self._store, name, mark)) is not None:
                entries[path] = logits_entry(self._store, name, self._store.read(name), len(found.label), mark)
        self._logits.enter(member, entries)
        return [path for path in wanted if path not in entries]


def take(store: Store, spec: Spec, data: Data, members: Sequence[Member]) -> Inventory:
    """Look at every shard that the members' maps consist of.

    Damaged shards, and those made by other settings or of other samples than the spec's, count as missing. A range that
    lacks only a member's logits is an item without methods: accuracies are over all evaluation samples.
    """
    methods = spec.attribution.methods
    cut = {part_file(part.part): part for part in ranges(len(data.evaluation), spec.attribution.shard_samples)}
    digest = cache(partial(range_digest, data))
    shards = {
        method.folder: {path: digest(within(part, method)) for path, part in cut.items() if _covers(part, method)}
        for method in methods
    }
    logits = {path: digest(part) for path, part in cut.items()}
    found = Inventory(store, {folder: list(digests) if members else [] for folder, digests in shards.items()})
    standardised = any(takes_statistics(method.name, method.settings) for method in methods)
    marks = Marks(spec, data, members) if standardised and spec.parameters is not None else None
    kept = methods if spec.attribution.keep_maps else ()
    shared = cache(lambda *methods: methods)  # most items lack the same ones
    stored = {method.folder: shards[method.folder] for method in kept}
    for stretch, files in _with_files(store, members, stored, logits):
        for member in stretch:
            lacking: dict[str, list[str]] = {}
            for method in methods:
                mark = maps_fingerprints(member, method, spec, members, marks)
                wanted = {path: mark(digest) for path, digest in shards[method.folder].items()}
                if method not in kept:
                    found.leave_out(method.folder, member.index, wanted)
                    continue
                for path in found.look_at_maps(method.folder, member.index, files, wanted):
                    lacking.setdefault(path, []).append(method.folder)
            mark = predictions_marks(member)
            wanted = {path: mark(digest) for path, digest in logits.items()}
            lacking |= {path: lacking.get(path, []) for path in found.look_at_logits(member.index, files, wanted)}
            found.missing += [
                Item(member=member.index, range=part, methods=shared(*lacking[path]))
                for path, part in cut.items()
                if path in lacking
            ]
    return found


def _with_files(
    store: Store, members: Sequence[Member], shards: Mapping[str, Iterable[str]], logits: Iterable[str]
) -> Iterator[tuple[Sequence[Member], Files]]:
    """Some members at a time, with those files of them that there are.

    Files of this machine are asked for by name, of the next members while the caller works on these. Others are listed.
    """
    stretches = [members[start : start + _MEMBERS_AT_ONCE] for start in range(0, len(members), _MEMBERS_AT_ONCE)]
    if store.local is None:
        places = ["members", *(f"maps/{method}" for method in shards)]
        there = {name: info for place in places for name, info in store.files(place).items()}
        yield from ((stretch, there) for stretch in stretches)
        return

    def ask(stretch: Sequence[Member]) -> Files:
        folders = [(logits_folder(each.index), logits) for each in stretch]
        for method, paths in shards.items():
            folders += [(maps_folder(method, each.index), (*paths, MANIFEST)) for each in stretch]
        return store.infos([f"{folder}/{path}" for folder, paths in folders for path in paths])

    with ThreadPoolExecutor(1) as thread:
        asked = deque(thread.submit(ask, stretch) for stretch in stretches[:1])
        for number, stretch in enumerate(stretches, 1):
            asked.extend(thread.submit(ask, following) for following in stretches[number : number + 1])
            yield stretch, asked.popleft().result()


def _carries(entry: Entry | None, mark: str) -> bool:
    return entry is not None and entry.fingerprint == mark


def _covers(part: Range, method: MethodSpec) -> bool:
    return method.samples is None or part.start < method.samples


def by_method(items: Sequence[Item]) -> list[Item]:
    """The same work with one method an item, so that few members and ranges still keep every slot busy."""
    return [replace(item, methods=(method,)) for item in items for method in item.methods] + [
        item for item in items if not item.methods
    ]


def without_methods(items: Sequence[Item]) -> list[Item]:
    """The same ranges with no method: what computes logits only."""
    return [replace(item, methods=()) for item in items]
