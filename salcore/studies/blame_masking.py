"""Do the pixels that drive salient filters drive the mistake? Section 3.4 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from salcore.blame import numbers
from salcore.blame.results import Blame, column
from salcore.blame.splits import boxes_of
from salcore.data.pasted import pasted
from salcore.figures import canvas, method_charts
from salcore.parameter_space.masking import most_salient_outside, outside
from salcore.statistics import Estimate
from salcore.studies.blame import blamed
from salcore.studies.networks import section
from salcore.studies.row import Picture, Row, claimed, measured

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Masking what drives salient filters"
SOURCE = "Levin et al. (NeurIPS 2022), section 3.4"
ABOUT = (
    "The 5 % most salient pixels of each mistake, outside the object's box, are set to the data's mean; so are as many "
    "random ones. The paper masks mistakes of ResNet-50 on ImageNet: the correct class's confidence rises and the "
    "incorrect one's falls (p < 0.05 each), while random pixels change neither (p = 0.854 and 0.695), without sizes. "
    "`pasted` is a generated set whose culprit is known: a patch of clutter beside the object, which in training goes "
    "with a class. There the share of the masked pixels that lie in the patch is measured too. Intervals are a "
    "bootstrap over samples, p is that of a paired t test."
)
SMALL: dict[str, Any] = {
    "data": {"pasted": {"name": "pasted", "eval_samples": 1_000}},
    "networks": {"pasted": "small_cnn"},
    "members": 3,
    "epochs": 10,
    "mistakes": 200,
    "boxes": {},
}
FULL: dict[str, Any] = SMALL | {
    "data": SMALL["data"] | {"imagenette": {"name": "imagenette", "image_size": 224, "eval_samples": 3_925}},
    "networks": {"pasted": "small_cnn", "imagenette": "resnet50"},
    "members": 5,
    "epochs": 30,
    "mistakes": None,
}
PRESETS = {"small": SMALL, "full": FULL}


def ensembles(
    *, data: dict, networks: dict, members: int, epochs: int, mistakes: int | None, boxes: dict
) -> dict[str, dict[str, Any]]:
    """Spec values of an ensemble for each set in `data`, by its name; its mistakes on the test part are masked.

    `networks` has one for each set, `boxes` a table of boxes for those that do not know their own.
    """
    return {
        name: {
            "data": {"validation_fraction": 0.2, **section(where)},
            "model": section(networks[name]),
            "ensemble": {"members": members},
            "training": {"epochs": epochs, "batch_size": 64},
            "attribution": {"methods": [{"name": "input_space_saliency", "samples": 100}]},
            "parameters": {
                "held_out": "evaluation",
                "independent": "validation",
                "mistakes": mistakes,
                "experiments": ["masking"],
                "boxes": boxes.get(name),
                "pruned": [1],
                "tuned": [1],
            },
        }
        for name, where in data.items()
    }


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Changes of both confidences by either kind of pixel, and where the salient ones lie."""
    for name, blame in blamed(runs):
        for kind, test in numbers.masking_tests(blame).items():
            found = (("true class's confidence rises", test.true, test.true_p, 1),
                     ("incorrect class's confidence falls", test.incorrect, test.incorrect_p, -1))  # fmt: skip
            for what, change, p, sign in found:
                told, paper = f"{name}, {kind} pixels: {what}, by", f"p = {p:.3g}"
                turned = change if sign > 0 else Estimate(value=-change.value, low=-change.high, high=-change.low)
                if kind == "salient":
                    yield claimed(told, turned, note=paper)
                else:
                    yield measured(told, turned, note=paper)
            yield measured(f"{name}, {kind} pixels: mistakes corrected", test.corrected)
            yield measured(f"{name}, {kind} pixels: change of the filters' saliency, in shares", test.salience)
        more = numbers.masking_contrast(blame)
        note = f"paired by mistake, p = {more.true_p:.3g}"
        yield claimed(f"{name}: true class's confidence rises more by salient pixels than by random ones", more.true,
                      note=note)  # fmt: skip
        low, high = -more.incorrect.high, -more.incorrect.low
        falls = Estimate(value=-more.incorrect.value, low=low, high=high)
        note = f"paired by mistake, p = {more.incorrect_p:.3g}"
        yield claimed(f"{name}: incorrect class's confidence falls more by salient pixels than by random ones", falls,
                      note=note)  # fmt: skip
        if blame.run.spec.data.name == "pasted":
            yield from _culprit(name, blame)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Changes of both confidences, by kind of pixel. Pictures are on the page of each run."""
    for name, blame in blamed(runs):
        tests = numbers.masking_tests(blame)
        groups = {kind: [test.true, test.incorrect, test.corrected] for kind, test in tests.items()}
        names = ["true class's confidence", "incorrect class's confidence", "share corrected"]
        figure = method_charts.grouped(names, groups, label="change when masked")
        yield Picture(caption=f"{name}: salient and random pixels", content=canvas.svg(figure, f"masking-{name}"))


def _culprit(name: str, blame: Blame) -> Iterator[Row]:
    """How often a salient pixel lies in the clutter, for mistakes towards the clutter's class, beside its area."""
    drawn = pasted("test", blame.run.spec.data.split_seed)
    samples, shares, areas = [], [], []
    for member in blame.has("masking"):
        table = blame.table("masking", member)
        misled = column(table, "prediction") == drawn.patterns[column(table, "sample")]
        sample = column(table, "sample")[misled]
        maps = torch.from_numpy(blame.maps(member, sample))
        boxes = boxes_of(blame.run.spec, blame.data, sample)
        salient = most_salient_outside(maps, boxes, blame.parameters.masked).numpy()
        inside = ~outside(drawn.patches[sample], salient.shape[1:])
        beside = outside(boxes, salient.shape[1:])
        samples.append(sample)
        shares.append((salient & inside).sum((1, 2)) / salient.sum((1, 2)))
        areas.append((inside & beside).sum((1, 2)) / beside.sum((1, 2)))
    (share,) = numbers.over_samples(np.concatenate(samples), np.concatenate(shares)[:, None])
    area = float(np.concatenate(areas).mean())
    what = f"{name}: share of the salient pixels in the clutter that misled"
    yield claimed(what, share, above=area, note=f"its share of the pixels outside the box is {area:.3f}")
