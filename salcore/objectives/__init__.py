"""What a member is trained to minimise, by name.

An objective is `(model, inputs, labels, *, guidance, generator) -> Tensor`: inputs (N, C, H, W), labels (N,), a scalar
loss to call `backward` on. It runs the model in the mode that it finds.
"""

from collections.abc import Callable

from torch import Tensor

from salcore.objectives.guided import guided
from salcore.objectives.standard import standard

__all__ = ["OBJECTIVES"]

OBJECTIVES: dict[str, Callable[..., Tensor]] = {"standard": standard, "guided": guided}
