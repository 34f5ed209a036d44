"""How samples and their maps are shown on a page: one view for each kind of sample, behind one shape."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from salcore.data.part import Data, Kind
from salcore.figures.inputs import Inputs
from salcore.figures.maps import Shown
from salcore.report.image_view import ImageView
from salcore.report.series_view import SeriesView
from salcore.report.text_view import TextView


class View(Protocol):
    """The samples of a run as markup; a position is a sample's place in the statistics."""

    @property
    def inputs(self) -> Inputs:
        """The samples that are shown, and what they are called."""

    @property
    def style(self) -> str:
        """CSS that only this kind of sample needs."""

    def described(self, data: Data) -> str:
        """What the samples of a data set are, with their size, as "grey images of 8 x 8 pixels"."""

    def notes(self) -> Iterator[str]:
        """Sentences on how the pictures are read."""

    def sample(self, position: int) -> str:
        """The sample itself, to stand before its maps; nothing where it is missing."""

    def maps(self, position: int, found: Shown, room: int) -> Iterator[str]:
        """Its maps, each of about `room` bytes at the most."""

    def strip(self, pieces: Sequence[str]) -> str:
        """Samples and maps beside one another."""

    def thumbnails(self, positions: Sequence[int], captions: Sequence[tuple[str, str]]) -> str:
        """Samples in short, each with a caption and a note."""


VIEWS: dict[Kind, type[ImageView] | type[SeriesView] | type[TextView]] = {
    "images": ImageView, "series": SeriesView, "text": TextView,
}  # fmt: skip


def view_of(inputs: Inputs) -> View:
    """The view of a run's samples."""
    return VIEWS[inputs.kind](inputs)
