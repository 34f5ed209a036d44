"""The samples that a run explained, found again in its data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.part import Kind
from salcore.errors import UserError
from salcore.figures.nouns import KINDS, NOUNS, Nouns
from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.data import Data
    from salcore.runs import Run


class _Changed(ValueError):
    """The data set found is not the one that was explained."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Evaluation samples in the order of the statistics, or no `data` and the reason why they are `missing`.

    What `kind` they are, and the `shape` of a map, (C, H, W), (F, T) or (T,), is known all the same.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: Sequence[str]
    data: "Data | None" = None
    missing: str = ""

    @property
    def nouns(self) -> Nouns:
        """What samples and the units of their maps are called."""
        return NOUNS[self.kind]

    def values(self, position: int) -> np.ndarray | None:
        """A sample's values without padding: `(C, H, W)`, `(F, T)`, or numbers of words `(T,)`."""
        return None if self.data is None else self._cut(self.data.evaluation.values, position)

    def informative(self, position: int) -> np.ndarray | None:
        """Which cells `(F, T)` were made to tell the class; None where that is not known."""
        known = None if self.data is None else self.data.evaluation.informative
        return None if known is None else self._cut(known, position)

    def words(self, position: int) -> list[str] | None:
        """The words of a text."""
        numbers = self.values(position)
        return None if numbers is None or self.data is None else [self.data.words[number] for number in numbers]

    def query(self, position: int) -> int:
        """How many words at the beginning of a text are the question asked of it."""
        known = None if self.data is None else self.data.evaluation.query
        return 0 if known is None else int(known[self._row(position)])

    def _cut(self, values: np.ndarray, position: int) -> np.ndarray:
        row = self._row(position)
        assert self.data is not None, "only data that were found are cut"
        lengths = self.data.evaluation.lengths
        return values[row] if lengths is None else values[row][..., : int(lengths[row])]

    def _row(self, position: int) -> int:
        assert self.data is not None, "only data that were found have rows"
        return int(self.data.evaluation.index[position])


def load_inputs(run: "Run") -> Inputs:
    """The samples of a run with statistics. A data set that is away, or another one by now, is told and not raised."""
    shape = map_shape(run, run.methods[0])
    kind = KINDS[len(shape)]
    classes = run.record(run.members[0])["classes"] if run.members else []
    try:
        data = run.data()
        index = data.evaluation.index
        for method in run.methods:
            samples = run.column(method, "sample")
            if not np.array_equal(samples, index[: len(samples)]):
                raise _Changed("the data set now holds other evaluation samples")
    except (UserError, _Changed, OSError, ImportError) as error:
        return Inputs(kind=kind, shape=shape, classes=classes, missing=str(error))
    return Inputs(kind=kind, shape=shape, classes=classes or data.classes, data=data)


def map_shape(run: "Run", method: str) -> tuple[int, ...]:
    """Shape of one map of a method, read from the head of its first statistics."""
    stats = read_stats(run.store, run.stats_files(method)[0]).stats
    return tuple(stats.schema.field("mean").type.shape)
