"""What filter profiles are standardised by: their mean and deviation over a held-out set."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from salcore.moments import Moments
from salcore.parameter_space.filters import FilterTable, Layer

if TYPE_CHECKING:
    import pyarrow as pa  # attribution runs without it

SMALLEST = 1e-14
"""Deviations up to this count as zero, and divide by 1."""

Profiles = TypeVar("Profiles", np.ndarray, Tensor)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileStatistics:
    """Mean and deviation (P,), float64, of the profiles of `count` samples of one network, whose filters `table` names.

    The deviation has ddof 1, and is 1 where it is zero, up to 1e-14, or where there are fewer than two samples.
    """

    table: FilterTable
    mean: np.ndarray
    deviation: np.ndarray
    count: int

    @classmethod
    def of(cls, moments: Moments, table: FilterTable) -> ProfileStatistics:
        """Those of the profiles that were summed up. Raises ValueError for moments of another number of filters."""
        if np.shape(moments.mean) != (len(table),):
            raise ValueError(f"`moments`: expected those of {len(table)} filters, got {np.shape(moments.mean)}")
        deviation = np.sqrt(np.asarray(moments.variance()))
        varies = deviation > SMALLEST  # False for NaN
        mean = np.nan_to_num(np.asarray(moments.mean))
        return cls(table=table, mean=mean, deviation=np.where(varies, deviation, 1.0), count=moments.count)

    def standardise(self, profiles: Profiles) -> Profiles:
        """(profile - mean) / deviation of profiles (..., P), in their own dtype and on their device.

        Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), Eq. 2.

        Raises ValueError for profiles of another number of filters: those of another network.
        """
        if profiles.shape[-1] != len(self.table):
            got = f"{profiles.shape[-1]}"
            raise ValueError(
                f"`profiles`: expected those of the network of these statistics, {len(self.table)} filters, got {got}"
            )
        if isinstance(profiles, Tensor):
            mean, deviation = (
                torch.as_tensor(each).to(profiles.device, profiles.dtype) for each in (self.mean, self.deviation)
            )
            return (profiles - mean) / deviation
        return ((profiles - self.mean) / self.deviation).astype(profiles.dtype)

    def encode(self, metadata: dict[str, object] | None = None) -> pa.Buffer:
        """The bytes of an Arrow file: layer, filter, depth, mean and deviation, a row for each filter."""
        import pyarrow as pa

        from salcore.shards import METADATA, serialise

        columns = self.table.columns()
        arrays = {
            "layer": pa.array(columns["layer"], pa.string()),
            "filter": pa.array(columns["filter"], pa.int32()),
            "depth": pa.array(columns["depth"], pa.int32()),
            "mean": pa.array(self.mean, pa.float64()),
            "deviation": pa.array(self.deviation, pa.float64()),
        }
        layers = [asdict(layer) for layer in self.table.layers]
        head = {**(metadata or {}), "count": self.count, "layers": layers}
        table = pa.table(arrays).replace_schema_metadata({METADATA: json.dumps(head, sort_keys=True)})
        return serialise(table, max(1, len(table)))

    @classmethod
    def decode(cls, source: pa.NativeFile | pa.Buffer) -> tuple[ProfileStatistics, dict[str, object]]:
        """The statistics in an Arrow file, and the metadata that they were written with. Raises ValueError."""
        import pyarrow as pa
        from pyarrow import ipc

        from salcore.shards import METADATA

        try:
            table = ipc.open_file(source).read_all()
            head = json.loads(table.schema.metadata[METADATA])
            layers = tuple(Layer(**{**each, "shape": tuple(each["shape"])}) for each in head.pop("layers"))
            mean, deviation = (table[name].to_numpy().copy() for name in ("mean", "deviation"))
            statistics = cls(
                table=FilterTable(layers=layers), mean=mean, deviation=deviation, count=int(head.pop("count"))
            )
        except (pa.ArrowException, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"expected a file of profile statistics ({error})") from None
        return statistics, head
