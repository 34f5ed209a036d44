"""Ensembles that agree on nothing, to hold a signal-to-noise ratio against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from salcore.reduce import Maps


@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """A member's maps dealt out to other samples of their shard: the null of an ensemble that agrees on nothing."""

    shard: Maps
    order: np.ndarray

    def __post_init__(self) -> None:
        if sorted(self.order.tolist()) != list(range(self.shard.rows)):
            raise ValueError(f"`order`: expected a permutation of the {self.shard.rows} rows")

    @property
    def rows(self) -> int:
        """Number of samples."""
        return self.shard.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one map."""
        return self.shard.shape

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, which are not shuffled."""
        return self.shard.columns

    def column(self, name: str) -> np.ndarray:
        """Values of a column, which is not shuffled."""
        return self.shard.column(name)

    def maps(self, start: int, stop: int) -> np.ndarray:
        """Maps of the rows `order[start:stop]`."""
        return np.concatenate([self.shard.maps(row, row + 1) for row in self.order[start:stop].tolist()])
