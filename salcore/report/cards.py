"""Samples as pictures: the image, what the ensemble agrees on, how sure that is, and two members that disagree."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.charts import class_name
from salcore.figures.choose import cosines, extremes
from salcore.figures.colour import LARGEST_SIDE, map_png, masked_png, positive_scale, signed_scale
from salcore.figures.images import Images
from salcore.figures.maps import summed, t_map
from salcore.figures.signs import PERCENT, ROOT_M, SIGMA, number, percent
from salcore.report import html
from salcore.report.facts import Facts, Samples
from salcore.summary import read_stats

if TYPE_CHECKING:
    from salcore.runs import Run

PANELS = 6
BUDGET = 1_800_000
"""Bytes that all maps of a page may take before they are encoded: more maps are drawn smaller."""


def cards(run: "Run", facts: Facts, images: Images, positions: Sequence[int]) -> Iterator[str]:
    """One card per sample: the main method's maps, the others' behind a tap."""
    samples = facts.samples
    assert samples is not None, "cards are made of reduced runs"
    names = [samples.method, *(method.name for method in facts.methods if method.name != samples.method)]
    sizes = {method.name: method.samples for method in facts.methods}
    side = panel_side(len(positions) * len(names) * PANELS)
    for position in positions:
        strips = {name: strip(run, name, position, side) for name in names if position < sizes[name]}
        main = strips.pop(samples.method)
        first = "" if (file := images.file(position)) is None else html.picture(file, "image")
        others = [
            html.details(_snr_title(run, name, position), _grid(pieces)) for name, pieces in strips.items() if pieces
        ]
        title = f"Sample {samples.sample[position]}: {class_name(images.classes, int(samples.label[position]))}"
        yield html.joined(
            [
                f'<article class="sample"><h3>{html.escape(title)}</h3>',
                html.paragraph(
                    f"{said(samples, images.classes, position)}. {_snr_title(run, samples.method, position)}."
                ),
                _grid([first, *main]),
                *others,
                "</article>",
            ]
        )


def strip(run: "Run", method: str, position: int, side: int = LARGEST_SIDE) -> list[str]:
    """Mean, standard deviation, t map and significant pixels of one sample by one method, and its two extreme members.

    Of the members whose map is finite; empty where there are none.
    """
    members, signed = run.finite_maps(method, position)
    if not members:
        return []
    maps = summed(signed)
    mean = maps.mean(axis=0)
    pieces = [_map(mean, "mean map", f"of {len(maps)} members", side)]
    if len(maps) > 1:
        sigma = maps.std(axis=0, ddof=1)
        scale = positive_scale(sigma)
        pieces.append(html.picture(map_png(sigma, scale, side), f"standard deviation {SIGMA}", "over members", scale))
        pieces.append(_map(t_map(maps), "t map", f"mean / ({SIGMA} / {ROOT_M})", side))
        pieces.append(_significant(run, method, position, mean, side))
        to_mean = cosines(maps.reshape(len(maps), -1), mean.ravel())
        for place in extremes(maps):
            note = f"cosine {number(float(to_mean[place]))} to the mean"
            pieces.append(_map(maps[place], f"member {members[place]}", note, side))
    return pieces


def thumbnails(samples: Samples, images: Images, positions: Sequence[int]) -> str:
    """Samples as a grid of small images with label, prediction and SNR; a table where there are no images."""
    if images.pixels is None:
        rows = [
            (int(samples.sample[p]), class_name(images.classes, int(samples.label[p])), float(samples.snr[p]))
            for p in positions
        ]
        return html.table(("sample", "class", "SNR"), rows)
    pieces = []
    for position in positions:
        name = class_name(images.classes, int(samples.label[position]))
        note = f"SNR {number(float(samples.snr[position]))}. {said(samples, images.classes, position)}"
        pieces.append(html.picture(images.file(position) or b"", f"{samples.sample[position]}: {name}", note))
    return f'<div class="thumbs">{html.joined(pieces)}</div>'


def said(samples: Samples, classes: Sequence[str], position: int) -> str:
    """What the ensemble says of a sample, in a few words."""
    label, prediction = int(samples.label[position]), int(samples.prediction[position])
    share = number(100 * float(samples.confidence[position]), 0) + PERCENT
    if label < 0:
        return f"Ensemble: {class_name(classes, prediction)} ({share})"
    if prediction == label:
        return f"Ensemble: right ({share})"
    return f"Ensemble: {class_name(classes, prediction)}, wrong ({share} for the label)"


def panel_side(panels: int) -> int:
    """Largest side in pixels at which so many maps stay within the page's budget.

    >>> panel_side(10), panel_side(400)
    (160, 67)
    """
    return max(16, min(LARGEST_SIDE, math.isqrt(BUDGET // max(1, panels))))


def _map(values: np.ndarray, caption: str, note: str, side: int) -> str:
    scale = signed_scale(values)
    return html.picture(map_png(values, scale, side), caption, note, scale)


def _significant(run: "Run", method: str, position: int, mean: np.ndarray, side: int) -> str:
    """The mean map `(H, W)` where any channel of a pixel differs from zero beyond training noise."""
    part, row = divmod(position, run.spec.attribution.shard_samples)
    stats = read_stats(run.store, run.stats_files(method)[part]).stats.slice(row, 1)
    mask = stats.column("significant").combine_chunks().to_numpy_ndarray()[0].astype(bool).any(axis=0)
    scale = signed_scale(mean)
    share = stats.column("significant_share")[0].as_py()
    note = f"{percent(share)} of the map" if share else "nothing in this map"
    return html.picture(masked_png(mean, mask, scale, side), "significant", note, scale)


def _grid(pieces: Sequence[str]) -> str:
    return f'<div class="strip">{html.joined(pieces)}</div>'


def _snr_title(run: "Run", method: str, position: int) -> str:
    return f"{method}: SNR {number(float(run.snr(method)[position]))}"
