"""Case studies: a mistake, the pixels that drive its salient filters, and what becomes of it without them (Fig. 7)."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from salcore.blame import numbers
from salcore.blame.galleries import said
from salcore.blame.results import Blame, column
from salcore.blame.splits import boxes_of
from salcore.figures.colour import image_file, map_png, signed_scale
from salcore.figures.signs import chance, number, percent
from salcore.parameter_space.masking import most_salient_outside, random_outside
from salcore.report import html
from salcore.report.sections import interval

SHOWN = 6
"""Mistakes on the page."""

HEAD = (
    "masked", "incorrect class", "95 % interval", "p", "true class", "95 % interval", "p",
    "corrected", "filters' saliency",
)  # fmt: skip


def cases(blame: Blame) -> str:
    """The section of the page: the tests over all mistakes, and some of them."""
    rows = [
        (
            kind,
            number(test.incorrect.value, 3),
            interval(test.incorrect),
            chance(test.incorrect_p),
            number(test.true.value, 3),
            interval(test.true),
            chance(test.true_p),
            percent(test.corrected.value),
            percent(test.salience.value),
        )
        for kind, test in numbers.masking_tests(blame).items()
    ]
    kept = "outside the object's box" if blame.has_boxes else "of the whole image, as no boxes are given"
    note = (
        f"The {percent(blame.parameters.masked)} most salient pixels {kept} are set to the data's mean, and as many "
        "random ones. Changes of softmax probabilities, with a paired t test over samples; the last column is the "
        f"change of the mean saliency of the {blame.parameters.boosted} filters that were the most salient. Shown are "
        "the mistakes that masking mends the most. A map is the signed gradient of the cosine distance to the boosted "
        "profile, summed over channels."
    )
    drawn = list(_cases(blame)) if blame.data.values.ndim == 4 else []
    return html.section(
        "cases", "Which pixels drive the salient filters", html.paragraph(note, "muted"), html.table(HEAD, rows), *drawn
    )


def _cases(blame: Blame) -> Iterator[str]:
    """The mistakes of the first member of which the incorrect class loses the most, as pictures."""
    member = blame.has("masking")[0]
    table = blame.table("masking", member)
    chosen = np.argsort(column(table, "salient_incorrect"), kind="stable")[:SHOWN]
    table = table.take(pa.array(chosen))
    columns = {name: column(table, name) for name in table.column_names}
    samples, parameters = columns["sample"], blame.parameters
    if not len(samples):  # every object fills its image
        return
    boxes = boxes_of(blame.run.spec, blame.data, samples)
    maps = blame.maps(member, samples)
    salient = most_salient_outside(torch.from_numpy(maps), boxes, parameters.masked)
    counts = salient.flatten(1).sum(1)
    random = random_outside(
        boxes, (salient.shape[1], salient.shape[2]), counts, samples=samples.tolist(), seed=parameters.seed
    ).numpy()  # fmt: skip
    for row, sample in enumerate(samples):
        values, summed = blame.data.values[sample], maps[row].sum(0)
        scale = signed_scale(summed)
        label, prediction = int(columns["label"][row]), int(columns["prediction"][row])
        pictures = [html.picture(image_file(values), said(blame, label, prediction))]
        pictures.append(html.picture(map_png(summed, scale), "what drives the filters", scale=scale))
        for kind, mask in (("salient", salient[row].numpy()), ("random", random[row])):
            told = ", ".join(
                f"{blame.classes[name]} {number(columns[f'{kind}_{what}'][row], 2)}"
                for name, what in ((label, "true"), (prediction, "incorrect"))
            )
            caption = f"without {kind} pixels" + (": corrected" if columns[f"{kind}_corrected"][row] else "")
            pictures.append(html.picture(image_file(_without(blame, values, mask)), caption, told))
        yield f'<div class="thumbs">{html.joined(pictures)}</div>'


def _without(blame: Blame, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image (C, H, W) with the masked pixels at the data's mean."""
    mean = blame.mean * (255 if values.dtype == np.uint8 else 1)
    return np.where(mask, mean[:, None, None], values).astype(values.dtype)
