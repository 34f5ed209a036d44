"""The images that a run explained, found again in its data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from salcore.errors import UserError
from salcore.figures.colour import image_file

if TYPE_CHECKING:
    from salcore.data import Data
    from salcore.runs import Run


class _Changed(ValueError):
    """The data set found is not the one that was explained."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Evaluation images `(N, C, H, W)` in the order of the samples, or None and the reason why they are `missing`."""

    pixels: np.ndarray | None
    classes: Sequence[str]
    data: "Data | None" = None
    missing: str = ""

    def file(self, position: int) -> bytes | None:
        """The image of a sample as PNG or JPEG."""
        return None if self.pixels is None else image_file(self.pixels[position])


def load_images(run: "Run") -> Images:
    """The images of a run's samples. A data set that is away, or is another one by now, is told and not raised."""
    classes = run.record(run.members[0])["classes"] if run.members else []
    try:
        data = run.data()
        index = data.evaluation.index
        for method in run.methods:
            samples = run.column(method, "sample")
            if not np.array_equal(samples, index[: len(samples)]):
                raise _Changed("the data set now holds other evaluation samples")
    except (UserError, _Changed, OSError, ImportError) as error:
        return Images(pixels=None, classes=classes, missing=str(error))
    return Images(pixels=data.evaluation.images[index], classes=classes or data.classes, data=data)
