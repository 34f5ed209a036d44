"""What the files of parameter-space saliency are made from: a file of another fingerprint is made again."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from salcore.blame.splits import part_of
from salcore.data import Data
from salcore.layout import Range, ranges
from salcore.members import Member, fingerprint
from salcore.spec import Spec
from salcore.spec.parameters import ParametersSpec
from salcore.work import padded_size, range_digest

READ_BY = {
    "filters": (),
    "layers": (),
    "neighbours": ("neighbours",),
    "pruning": ("pruned",),
    "finetuning": ("tuned", "step", "neighbours"),
    "masking": ("masked", "boosted", "boxes"),
}
"""The keys of `parameters` that an experiment reads, beside those that all do."""

SHARED = ("held_out", "independent", "linear", "seed")


class Marks:
    """The fingerprints of a run's profiles and of what is made of them."""

    def __init__(self, spec: Spec, data: Data, members: Sequence[Member]) -> None:
        if spec.parameters is None:
            raise ValueError("`spec`: expected one with the section parameters, got none")
        self._spec, self._data = spec, data
        self._members = {member.index: member.fingerprint for member in members}
        self.parameters: ParametersSpec = spec.parameters

    @cached_property
    def ranges(self) -> dict[str, tuple[Range, ...]]:
        """The ranges of both splits."""
        size = self._spec.attribution.shard_samples
        names = self.parameters.held_out, self.parameters.independent
        return {name: tuple(ranges(len(part_of(self._data, name)), size)) for name in names}

    @cached_property
    def _digests(self) -> dict[tuple[str, Range], str]:
        return {
            (split, part): range_digest(self._data, part, part_of(self._data, split))
            for split, parts in self.ranges.items()
            for part in parts
        }

    def profiles(self, member: int, split: str, part: Range) -> str:
        """Of the shard of one range of a split."""
        rows = padded_size(self._spec.attribution.batch_size)
        return fingerprint(self._members[member], "profiles", self.parameters.linear, rows, self._digests[split, part])

    def statistics(self, member: int) -> str:
        """Of the statistics over the held-out split."""
        split = self.parameters.held_out
        return fingerprint(*(self.profiles(member, split, part) for part in self.ranges[split]))

    @cached_property
    def _boxes(self) -> str:
        """Of the table of boxes."""
        file = self.parameters.boxes
        return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def experiment(self, member: int, name: str, samples: Sequence[int]) -> str:
        """Of the table of one experiment on some samples."""
        keys: dict[str, Any] = {key: getattr(self.parameters, key) for key in (*SHARED, *READ_BY[name])}
        split = self.parameters.independent
        searched = name in ("neighbours", "finetuning")
        others = [self.profiles(member, split, part) for part in self.ranges[split]] if searched else []
        if name == "masking":  # what a table holds counts, not where it lies
            keys["boxes"] = self._boxes
        return fingerprint(self.statistics(member), others, name, keys, list(samples))
