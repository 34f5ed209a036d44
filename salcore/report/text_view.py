"""Texts on a page: the words themselves, on ground of their map's colours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from salcore.data.part import Data
from salcore.figures.colour import DIVERGING, Scale
from salcore.figures.excerpt import excerpt
from salcore.figures.inputs import Inputs
from salcore.figures.maps import Panel, Shown, panels
from salcore.figures.words import GAP, LEVELS, LIGHT, code, ground, ink_on, levels, shade
from salcore.report import html

MOST_WORDS, FEWEST_WORDS = 120, 40
"""Words of a long text that are shown in each map, and where there is little room."""
WORD_BYTES = 36
"""Of markup, on average."""
SHORT = 24
"""Words of a text that is only named."""
LEFT_OUT = f'<span class="gap">{GAP}</span>'


@dataclass(frozen=True)
class TextView:
    """`salcore.report.views.View` of texts: each map is the text once more, its words on coloured ground.

    Of long texts the beginning and the passages that the mean map weighs most. The words of a query stand apart. Where
    the words cannot be had, their places stand for them.
    """

    inputs: Inputs

    @property
    def style(self) -> str:
        """A class for every shade."""
        signed, spread = Scale(low=-1, high=1, palette=DIVERGING), Scale(low=0, high=1, palette=LIGHT)
        shades = [(scale, level) for scale in (signed, spread) for level in range(-LEVELS, LEVELS + 1) if level]
        return STYLE + "".join(shade_rule(scale, level) for scale, level in shades if scale.low or level > 0)

    def described(self, data: Data) -> str:
        """The `data` in words: tokens for a language model, words as vectors for other networks."""
        length, size = data.shape
        lengths = data.evaluation.lengths
        usual = "" if lengths is None else f" (median {np.median(lengths[data.evaluation.index]):.0f})"
        if data.vectors is None:
            return f"texts of up to {length:,} tokens{usual} of a vocabulary of {size:,}"
        return f"texts of up to {length:,} words{usual}, as word vectors of {size} numbers"

    def notes(self) -> Iterator[str]:
        """How words are coloured, and which are left out."""
        yield (
            "Every map is the text once more, each word on ground of its value's colour; words without one are close "
            f"to zero. Of a text of more than {MOST_WORDS} words its beginning and those passages are shown that the "
            "mean map weighs most."
        )
        if self.inputs.data is not None and self.inputs.data.evaluation.query is not None:
            yield "The words beside the bar are the query asked of the text: they are always kept and never ranked."
        if self.inputs.data is None:
            yield "Numbers stand for the words: their places in the text."

    def sample(self, position: int) -> str:
        """Nothing: a text is read in its maps."""
        return ""

    def maps(self, position: int, found: Shown, room: int) -> Iterator[str]:
        """The words once for each map, fewer of them where there is little room."""
        length, query = found.maps.shape[-1], self.inputs.query(position)
        words = self.inputs.words(position) or list(map(str, range(1, length + 1)))
        most = max(FEWEST_WORDS, min(MOST_WORDS, room // WORD_BYTES))
        places = excerpt(np.abs(found.maps.mean(axis=0)), query, most)
        if -1 in places:
            shown = sum(place >= 0 for place in places)
            yield html.paragraph(f"{shown} of {length - query:,} words are shown.", "muted whole")
        for panel in panels(found):
            yield _words(panel, words, query, places)

    def strip(self, pieces: Sequence[str]) -> str:
        """Two of the `pieces` beside one another."""
        return f'<div class="strip text">{html.joined(pieces)}</div>'

    def thumbnails(self, positions: Sequence[int], captions: Sequence[tuple[str, str]]) -> str:
        """The first words of the texts at these `positions` with their `captions`."""
        pairs = zip(positions, captions, strict=True)
        pieces = (_short(words, *told) for p, told in pairs if (words := self.inputs.words(p)) is not None)
        return f'<div class="thumbs text">{html.joined(pieces)}</div>'


def _short(words: Sequence[str], caption: str, note: str) -> str:
    told = " ".join(words[:SHORT]) + " …" * (len(words) > SHORT)
    return html.figure(f"<p>{html.escape(told)}</p>", caption, note)


def _words(panel: Panel, words: Sequence[str], query: int, places: Sequence[int]) -> str:
    """One map as words: those of the query apart, then those of the text at `places`; -1 is what is left out."""
    scale = ground(panel.scale)
    shades = levels(panel.values, scale)
    sure = np.zeros(len(shades), bool) if panel.mask is None else panel.mask
    if panel.mask is not None:
        shades = np.where(sure, shades, 0)
    kind = "p" if scale.palette == DIVERGING else "s"
    marked = [
        word(each, int(level), sure=bool(s), kind=kind) for each, level, s in zip(words, shades, sure, strict=True)
    ]
    asked = f'<p class="query">{" ".join(marked[:query])}</p>' if query else ""
    marked.append(LEFT_OUT)
    text = " ".join(marked[place] for place in places)
    told = f"<p{' class=masked' * (panel.mask is not None)}>{text}</p>"
    return html.figure(asked + told, panel.caption, panel.note, scale)


def word(written: str, level: int, *, sure: bool = False, kind: str = "s") -> str:
    """A word as plain text, or marked where it has a shade, a class of that `kind`, or is significant."""
    name = f"{'n' if level < 0 else kind}{abs(level)}" if level else ""
    classes = " ".join(filter(None, (name, "sure" * sure)))
    return f'<mark class="{classes}">{html.escape(written)}</mark>' if classes else html.escape(written)


def shade_rule(scale: Scale, level: int) -> str:
    """The class of one shade of a scale."""
    colour = shade(level, scale)
    name = "s" if scale.palette == LIGHT else "p" if level > 0 else "n"
    return f".{name}{abs(level)}{{background:{code(colour)};color:{ink_on(colour)}}}"


STYLE = """
.text{grid-template-columns:repeat(2,minmax(0,1fr));gap:16px 28px}
.thumbs.text{grid-template-columns:repeat(4,minmax(0,1fr))}
.text figure{display:flex;flex-direction:column}
.text figure p{order:1;margin:4px 0 6px;line-height:1.75;font-size:.95rem;overflow-wrap:anywhere}
.text figcaption{font-size:.84rem;line-height:1.35;color:var(--ink)}
.text .bar,.text .ticks{order:2;max-width:180px}
.text .ticks{width:180px}
.thumbs.text p{font-size:.88rem;line-height:1.5}
mark{background:none;color:inherit;padding:1px 3px 2px;border-radius:3px;box-decoration-break:clone;
-webkit-box-decoration-break:clone}
.sure{text-decoration:underline 1.5px;text-underline-offset:2px}
.masked,.gap{color:var(--muted)}
.query{border-left:3px solid var(--line);padding-left:10px}
.whole{grid-column:1/-1;margin:0;font-size:.9rem}
@media (max-width:720px){.strip.text{grid-template-columns:minmax(0,1fr)}
.thumbs.text{grid-template-columns:repeat(2,minmax(0,1fr))}}
""".replace("\n", "")
