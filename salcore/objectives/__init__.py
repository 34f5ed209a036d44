"""What a member is trained to minimise, by name.

An objective is `(model, inputs, labels, *, guidance, generator, valid=None, kind="images") -> Tensor`: inputs as `kind`
says, images (N, C, H, W), series (N, F, T) or embedded text (N, T, E), labels (N,), and of sequences the steps `valid`
(N, T) that are no padding; a scalar loss to call `backward` on. It calls the model with inputs alone, in the mode that
it finds.
"""

from collections.abc import Callable

from torch import Tensor

from salcore.objectives.fills import fill_for
from salcore.objectives.guided import guided
from salcore.objectives.standard import standard

__all__ = ["OBJECTIVES", "fill_for"]

OBJECTIVES: dict[str, Callable[..., Tensor]] = {"standard": standard, "guided": guided}
