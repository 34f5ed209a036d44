"""One sample in one row: what two members say, and what the ensemble says."""

from typing import TYPE_CHECKING

import numpy as np

from salcore.figures.canvas import INK, MUTED, png
from salcore.figures.charts import class_name
from salcore.figures.choose import extremes, representative
from salcore.figures.colour import DIVERGING, displayable, signed_scale
from salcore.figures.images import load_images
from salcore.figures.maps import summed, t_map
from salcore.figures.signs import ROOT_M, SIGMA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from salcore.runs import Run


def hero(run: "Run", method: str | None = None, position: int | None = None) -> bytes:
    """A wide PNG: one sample's image, the maps of two members that disagree, the mean map and the t map.

    By default of the run's first method and its sample of highest SNR. Maps are summed over channels. Without the data
    set (it raises) there is no image.
    """
    method = method or run.methods[0]
    place = representative(run.snr(method), 1)[0] if position is None else position
    images = load_images(run)
    image = None if images.pixels is None else images.pixels[place]
    members, signed = run.finite_maps(method, place)
    maps = summed(signed)
    shown = extremes(maps)
    label = class_name(images.classes, int(run.column(method, "label")[place]))
    titles = (
        f"{label}\nthe image",
        *(f"member {members[m]} says\n{method} of one network" for m in (shown[0], shown[-1])),
        f"{len(maps)} members agree on\nmean map",
        f"how sure that is\nt map: mean / ({SIGMA} / {ROOT_M})",
    )
    return png(row(image, maps, (shown[0], shown[-1]), titles), dpi=120)


def row(image: np.ndarray | None, maps: np.ndarray, shown: tuple[int, int], titles: tuple[str, ...]) -> "Figure":
    """Image `(C, H, W)`, the maps of two members, the mean map and the t map of `maps` `(M, H, W)`.

    `shown` are positions along the first axis of `maps`; `titles` has one line for each panel after the image's. Each
    map has its own symmetric colours: the pattern is compared, not the scale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mean = maps.mean(axis=0)
    panels = [maps[shown[0]], maps[shown[1]], mean, t_map(maps)]
    first = 0 if image is None else 1
    figure = Figure(figsize=(2.35 * (len(panels) + first), 2.85), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels) + first)
    if image is not None:
        axes[0].imshow(displayable(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        _finish(axes[0], titles[0])
    for place, panel, title in zip(axes[first:], panels, titles[1:], strict=True):
        scale = signed_scale(panel)
        place.imshow(panel, cmap=DIVERGING, vmin=scale.low, vmax=scale.high, interpolation="nearest")
        _finish(place, title)
    return figure


def _finish(axes: "Axes", title: str) -> None:
    head, _, rest = title.partition("\n")
    axes.set_title(head, fontsize=12, color=INK, pad=6)
    axes.set_xlabel(rest, fontsize=9.5, color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
