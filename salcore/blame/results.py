"""What parameter-space saliency of a run came to, read from storage."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from salcore.blame.items import planned
from salcore.blame.splits import part_of
from salcore.blame.stored import Profiles, read_statistics, statistics_over
from salcore.data.part import Part
from salcore.parameter_space import FilterTable, ProfileStatistics
from salcore.spec.parameters import ParametersSpec

if TYPE_CHECKING:
    from salcore.data import Data
    from salcore.runs import Run


MAP = "map"
"""Column of the maps in the tables of `masking`."""


class Blame:
    """The profiles, statistics and tables of a run's members. Raises ValueError for a run without `parameters`."""

    def __init__(self, run: "Run") -> None:
        if run.spec.parameters is None:
            raise ValueError(f"`run`: expected one with the section parameters: python -m jobs.parameters {run.store}")
        self.run = run
        self.parameters: ParametersSpec = run.spec.parameters
        self.members = run.members
        self._profiles: dict[tuple[str, int], Profiles] = {}
        self._tables: dict[tuple[str, int], pa.Table] = {}

    @cached_property
    def data(self) -> Part:
        """The held-out part of the data."""
        return part_of(self._data, self.parameters.held_out)

    @cached_property
    def independent(self) -> Part:
        """The independent part of the data."""
        return part_of(self._data, self.parameters.independent)

    @property
    def has_boxes(self) -> bool:
        """Whether it is known where the objects of the held-out images are."""
        return self.parameters.boxes is not None or self.data.boxes is not None

    @property
    def mean(self) -> np.ndarray:
        """The mean of each channel of the training part, which inputs are normalised by."""
        return self._data.mean

    @cached_property
    def _data(self) -> "Data":
        return self.run.data()

    @cached_property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.run.record(self.members[0])["classes"]

    @cached_property
    def filters(self) -> FilterTable:
        """The filters of the members' networks."""
        return self.profiles(self.parameters.held_out, self.members[0]).table

    def profiles(self, split: str, member: int) -> Profiles:
        """A member's profiles of a split. Raises FileNotFoundError where there are none yet."""
        if (split, member) not in self._profiles:
            self._profiles[split, member] = Profiles(self.run.store, split, member)
        return self._profiles[split, member]

    def statistics(self, member: int) -> ProfileStatistics:
        """What a member's profiles are standardised by."""
        found = read_statistics(self.run.store, member)
        return statistics_over(self.profiles(self.parameters.held_out, member)) if found is None else found

    def table(self, what: str, member: int) -> pa.Table:
        """All rows of one member's `filters`, `layers` or an experiment, without maps.

        Raises FileNotFoundError where a part is missing, ValueError for what was not done.
        """
        if (what, member) not in self._tables:
            self._tables[what, member] = self._read(what, member)
        return self._tables[what, member]

    def _read(self, what: str, member: int) -> pa.Table:
        tables = (self.run.store.read_parquet(name) for name in self._files(what, member))
        return pa.concat_tables(table.drop_columns([MAP] if MAP in table.column_names else []) for table in tables)

    def maps(self, member: int, samples: Sequence[int] | np.ndarray) -> np.ndarray:
        """The maps (n, C, H, W) of `masking` of some of the member's mistakes, by their numbers; read part by part."""
        found: dict[int, np.ndarray] = {}
        wanted = {int(sample) for sample in samples}
        for name in self._files("masking", member):
            table = self.run.store.read_parquet(name)
            for row, sample in enumerate(column(table, "sample").tolist()):
                if sample in wanted:
                    found[sample] = column(table.slice(row, 1), MAP)[0].copy()
        return np.stack([found[int(sample)] for sample in samples])

    def _files(self, what: str, member: int) -> list[str]:
        held_out = self.profiles(self.parameters.held_out, member)
        names = [item.file for item, _ in planned(member, held_out, self.parameters) if item.what == what]
        if not names:
            raise ValueError(f"`what`: expected what member {member} has, got {what!r}: it makes no mistake, or see "
                             "parameters.experiments")  # fmt: skip
        return names

    def has(self, what: str) -> tuple[int, ...]:
        """The members that have tables of an experiment."""
        if what not in self.parameters.experiments:
            return ()
        return tuple(member for member in self.members if self.profiles(self.parameters.held_out, member).wrong.any())


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column as an array (N,), or (N, ...) where a value is a list of fixed length, or a tensor."""
    values = table[name].combine_chunks()
    if isinstance(values, pa.FixedShapeTensorArray):
        return values.to_numpy_ndarray()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)
