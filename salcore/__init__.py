"""Which parts of a neural network's explanation are real: the science, without Ray and without MLflow.

>>> import salcore
>>> salcore.open("runs/fashion")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from salcore.runs import Run

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(uri: "str | os.PathLike[str]") -> "Run":
    """A run directory, finished or growing, opened for reading. Raises UserError if it is none."""
    from salcore.runs import Run  # here, so that importing a leaf of this package stays light

    return Run(uri)
