"""Reducing maps that are stored nowhere: they are made where they are reduced, each time that the reducer reads them.

The reducer reads a range's maps twice, member by member, and holds one member's at a time: so it takes twice the
passes, each network's loading for both, and memory that does not grow with the members (some 270 bytes for each of the
range's values). Samples with maps that are not finite are read again, by stretches of the same finite members.
Statistics are the same bits as those of stored float32 maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salcore.attribution import COMPLETE
from salcore.explain import Explainer
from salcore.layout import Range
from salcore.members import Member
from salcore.reduce import Reduced, reduce_range
from salcore.spec import MethodSpec


class Unkept:
    """What the reducer reads of one member: maps of a range, made anew each time.

    What it has in common with the `first` member is held once.
    """

    def __init__(
        self, explainer: Explainer, member: Member, method: MethodSpec, part: Range, first: "Unkept | None" = None
    ) -> None:
        self._explainer, self._member, self._method, self._part = explainer, member, method, part
        columns = {"sample": explainer.samples(part), "label": explainer.labels(part)}
        columns["target"] = explainer.targets(member, part)
        shared: dict[str, np.ndarray] = {} if first is None else first._columns
        self._columns: dict[str, np.ndarray] = {
            name: shared[name] if name in shared and np.array_equal(shared[name], values) else values
            for name, values in columns.items()
        }
        if method.name in COMPLETE:
            self._columns["residual"] = np.full(len(part), np.nan, np.float32)
        self.shape: tuple[int, ...] = self.maps(0, 1).shape[1:] if first is None else first.shape

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self._part)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns other than the map."""
        return tuple(self._columns)

    def column(self, name: str) -> np.ndarray:
        """Values `(rows,)` of a column; residuals are known of maps that were made."""
        return self._columns[name]

    def maps(self, start: int, stop: int) -> np.ndarray:
        """Maps `(stop - start, ...)` float32 of a range of rows."""
        positions = np.arange(self._part.start + start, self._part.start + stop)
        maps, residuals = self._explainer.maps(
            self._member, self._method, positions, self._columns["target"][start:stop]
        )
        if residuals is not None:
            self._columns["residual"][start:stop] = residuals
        return maps


def reduce_unkept(
    explainer: Explainer,
    members: Sequence[Member],
    method: MethodSpec,
    part: Range,
    *,
    inputs_digest: str,
    metadata: Mapping[str, Any],
) -> Reduced:
    """Statistics over the members' maps of a range, as `salcore.reduce.reduce_range` gives them of stored ones."""
    first = Unkept(explainer, members[0], method, part)
    others = [Unkept(explainer, member, method, part, first) for member in members[1:]]
    return reduce_range(
        [first, *others],
        members=[member.index for member in members],
        inputs_digest=inputs_digest,
        metadata=metadata,
        block_rows=len(part),
    )
