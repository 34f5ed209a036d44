"""What samples of each kind, and what a map has numbers for, are called: one place for all sentences of a page."""

from dataclasses import dataclass

from salcore.data.part import Kind


@dataclass(frozen=True, kw_only=True)
class Nouns:
    """A `sample` and what it is made of: a map has one number for each `unit`. `long` says what a unit is.

    `equal` is what of a map counts as one in a test of significance.
    """

    sample: str
    samples: str
    unit: str
    units: str
    long: str
    equal: str

    def told(self, text: str) -> str:
        """A sentence with its places, as {units}, filled.

        >>> NOUNS["text"].told("share of {units}")
        'share of words'
        """
        return text.format(**vars(self))


NOUNS: dict[Kind, Nouns] = {
    "images": Nouns(
        sample="image", samples="images", unit="pixel", units="pixels", long="pixels",
        equal="equal pixels, as in a superpixel,",
    ),
    "series": Nouns(
        sample="series", samples="series", unit="cell", units="cells", long="cells (feature, time)",
        equal="equal cells, as in a segment,",
    ),
    "text": Nouns(
        sample="text", samples="texts", unit="word", units="words", long="words", equal="words of equal values",
    ),
}  # fmt: skip
KINDS: dict[int, Kind] = {3: "images", 2: "series", 1: "text"}
"""Kind of a sample by the number of axes of its map."""
