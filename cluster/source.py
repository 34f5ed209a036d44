"""Data as every worker of a run takes it."""

from dataclasses import dataclass

import ray

from salcore.data import Data, load
from salcore.spec import DataSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """Data as workers take it: one copy per node through the object store; memory-mapped sets travel as their path."""

    spec: DataSpec
    reference: ray.ObjectRef

    @classmethod
    def of(cls, data: Data, spec: DataSpec) -> "Source":
        """Put the data where workers find it."""
        return cls(spec=spec, reference=ray.put(data))

    def get(self) -> Data:
        """The data, without a copy; loaded anew where its memory map lies on another node's disk."""
        try:
            return ray.get(self.reference)
        except (FileNotFoundError, ray.exceptions.RaySystemError):
            return load(self.spec)
