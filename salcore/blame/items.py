"""The work that parameter-space saliency consists of, and where each piece lies."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from salcore.blame.stored import Profiles
from salcore.layout import Range, blame_folder, part_file, profiles_folder, ranges, table_file
from salcore.seeds import derive
from salcore.spec.parameters import ParametersSpec

PART = 50
"""Mistakes of one work item: what a killed run loses at most."""

ALWAYS = ("filters", "layers")
"""What is made of every member's profiles, all of the held-out split, whatever experiments are asked for."""

WHOLE = (*ALWAYS, "neighbours")
"""Work that is not cut: it streams all profiles past."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A work item of one member: the profiles of a range of a split, or an experiment on a range of its mistakes."""

    member: int
    what: str
    range: Range

    @property
    def file(self) -> str:
        """Where what it makes lies in the run directory."""
        if self.what in ("validation", "evaluation"):
            return f"{profiles_folder(self.what, self.member)}/{part_file(self.range.part)}"
        return f"{blame_folder(self.what, self.member)}/{table_file(self.range.part)}"


def mistakes(profiles: Profiles, most: int | None, seed: int) -> np.ndarray:
    """The misclassified samples that are studied, by their places in the split, in an order drawn at random.

    At most so many; of more, the first ones are the same. A sample's rank depends on the seed and on its number alone,
    so members study the same ones of those that they both mistake.
    """
    found = np.flatnonzero(profiles.wrong)
    drawn = np.array([derive(seed, int(sample)) for sample in profiles.sample[found]], np.int64)
    return found[np.argsort(drawn, kind="stable")][:most]


def planned(member: int, profiles: Profiles, parameters: ParametersSpec) -> Iterator[tuple[Item, np.ndarray]]:
    """Every table of a member, with the mistakes that it is of, by their places: none for those of the whole split."""
    chosen = mistakes(profiles, parameters.mistakes, parameters.seed)
    for what in (*ALWAYS, *(parameters.experiments if len(chosen) else ())):
        for part in [Range(part=0, start=0, stop=len(chosen))] if what in WHOLE else ranges(len(chosen), PART):
            places = chosen[:0] if what in ALWAYS else chosen[part.start : part.stop]
            yield Item(member=member, what=what, range=part), places
