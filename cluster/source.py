"""Data as every worker of a run takes it."""

import platform
from dataclasses import dataclass

import ray

from salcore.data import Data, load
from salcore.errors import UserError
from salcore.spec import DataSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """Data as workers take it: one copy per node through the object store; memory-mapped sets travel as their path."""

    spec: DataSpec
    digest: str
    reference: ray.ObjectRef

    @classmethod
    def of(cls, data: Data, spec: DataSpec) -> "Source":
        """Put the data where workers find it."""
        return cls(spec=spec, digest=data.digest, reference=ray.put(data))

    def get(self) -> Data:
        """The data, without a copy; loaded anew where its memory map lies on another node's disk.

        Raises UserError where what lies there are other data.
        """
        try:
            return ray.get(self.reference)
        except (FileNotFoundError, ray.exceptions.RaySystemError):
            data = load(self.spec)
        if data.digest != self.digest:
            raise UserError("data.name", f"the same files on every node; {platform.node()} has others", self.spec.name)
        return data
