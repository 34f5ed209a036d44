"""Pictures of an ensemble: charts of its numbers, maps as coloured pixels, and one row that shows what it is about."""

from typing import TYPE_CHECKING

from salcore.figures.canvas import png, svg
from salcore.figures.hero import hero

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

__all__ = ["hero", "png", "svg"]
