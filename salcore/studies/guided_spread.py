"""How gradients are spread over an image: a few large ones, or noise everywhere? Fig. 2 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from salcore.errors import UserError
from salcore.faithfulness import gradient_spread, over_members
from salcore.figures import canvas, method_charts
from salcore.studies import guided_mnist
from salcore.studies.guided import GUIDED, STANDARD, accuracies, gained, named, pairs, told
from salcore.studies.row import Picture, Row

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Spread of gradients after standard and guided training"
SOURCE = "Ismail et al. (NeurIPS 2021), Fig. 2"
ABOUT = (
    "Each gradient map is divided by its largest magnitude, as in the figure. After guided training most values are to "
    "lie near zero and the rest far from it: measured by the share of the magnitude in the top 10 % of the pixels, the "
    "share of pixels below a twentieth of the largest, and the distance from the mean to the mean of the outliers of a "
    "box plot. The last may fall where the first two rise: the more values are near zero the narrower the box, and the "
    "more small ones are outliers. The paper draws boxes and gives no numbers. Its third set, BIRD with a pretrained "
    "VGG-16, cannot be had here."
)
SMALL: dict[str, Any] = {
    **{key: value for key, value in guided_mnist.SMALL.items() if key not in ("network", "data")},
    "data": {"mnist": guided_mnist.SMALL["data"]},
    "networks": {"mnist": guided_mnist.SMALL["network"]},
}
FULL = SMALL | {
    "data": SMALL["data"] | {"cifar10": {"name": "cifar10", "validation_fraction": 0.0}},
    "networks": SMALL["networks"] | {"cifar10": {"name": "resnet18"}},
    "epochs": 30,
    "batch_size": 512,
    "explained": 10_000,
}
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"
MEASURES = {
    "top_share": "share of the magnitude in the top 10 % of the pixels",
    "near_zero": "share of the pixels below 5 % of the largest magnitude",
    "outlier_distance": "distance from the mean to the outliers",
}


def ensembles(
    *,
    data: dict,
    networks: dict,
    members: int,
    epochs: int,
    batch_size: int,
    mask_fraction: float,
    weight: float,
    eval_samples: int,
    explained: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of the ensemble trained either way on every set; `networks` has one for each name in `data`."""
    # The signature names them, since a user's settings are held against it.
    settings = {key: value for key, value in locals().items() if key not in ("data", "networks")}
    found: dict[str, dict[str, Any]] = {}
    for name, where in data.items():
        if name not in networks:
            raise UserError("study.networks", f"a network for {name} too", networks)
        found |= named(name, guided_mnist.ensembles(network=networks[name], data=where, **settings))
    return found


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Accuracy and the three measures either way, and what guidance adds to each."""
    for name, (standard, guided) in pairs(runs).items():
        yield gained(f"{name}: accuracy that guidance adds", accuracies(standard), accuracies(guided), above=None)
        before, after = _spread(standard), _spread(guided)
        for measure, words in MEASURES.items():
            for way, found in ((STANDARD, before), (GUIDED, after)):
                yield told(f"{name}, {way}: {words}", found[measure])
            yield gained(f"{name}: what guidance adds to the {words}", before[measure], after[measure])


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """The three measures either way."""
    for place, (name, (standard, guided)) in enumerate(pairs(runs).items()):
        before, after = _spread(standard), _spread(guided)
        groups = {
            way: [over_members(found[measure].tolist()) for measure in MEASURES]
            for way, found in ((STANDARD, before), (GUIDED, after))
        }
        figure = method_charts.grouped(["top 10 % of pixels", "near zero", "mean to outliers"], groups, label="share")
        yield Picture(caption=f"{name}: spread of the gradient", content=canvas.svg(figure, f"spread-{place}"))


def _spread(run: "Run") -> dict[str, np.ndarray]:
    """Each measure `(M,)`, mean over the samples of each member's gradient maps."""
    maps = run.maps(METHOD, range(len(run.column(METHOD, "sample"))))
    each = [gradient_spread(torch.from_numpy(of_member)) for of_member in maps]
    return {name: np.array([float(getattr(found, name).nanmean()) for found in each]) for name in MEASURES}
