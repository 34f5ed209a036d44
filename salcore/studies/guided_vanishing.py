"""Does an LSTM's saliency vanish over time, and does guidance bring it back? Fig. 6 of the paper."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.faithfulness import over_members
from salcore.figures import canvas, method_charts
from salcore.studies.guided import (
    GUIDED,
    STANDARD,
    accuracies,
    either_way,
    faithfulness,
    gained,
    named,
    own,
    pairs,
    told,
)
from salcore.studies.networks import section
from salcore.studies.row import Picture, Row

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Vanishing saliency of recurrent networks"
SOURCE = "Ismail et al. (NeurIPS 2021), Fig. 6"
ABOUT = (
    "Three sets of series whose informative cells lie early, in the middle and late. An LSTM with the standard loss is "
    "to find the late ones better than the early ones; trained guided, it is to find them wherever they are. Areas "
    "under weighted precision (AUP) and recall (AUR). The paper draws bars without numbers and does not give the "
    "boxes; ours are those of the LSTM paper it repeats (Ismail et al., 2019), whose learning rate is tripled here. "
    "The middle box covers 36 % of the cells and the others 24 %, so its AUP stands on another level. An accuracy near "
    "0.5 says that the box was never found: a network of five units forgets what lies so far back."
)
SMALL: dict[str, Any] = {
    "sets": ["earlier", "center", "later"],
    "network": {"name": "lstm"},
    "members": 3,
    "epochs": 40,
    "mask_fraction": 0.5,
    "weight": 1.0,
    "eval_samples": 300,
}
FULL = SMALL | {"members": 5, "epochs": 200}
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"
MEASURES = {"aup": "AUP", "aur": "AUR"}
EARLY, LATE = "earlier", "later"


def ensembles(
    *,
    sets: list,
    network: dict | str,
    members: int,
    epochs: int,
    mask_fraction: float,
    weight: float,
    eval_samples: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of the network trained either way on every set."""
    found: dict[str, dict[str, Any]] = {}
    for kind in sets:
        spec = {
            "data": {"name": f"synthetic:{kind}", "eval_samples": eval_samples},
            "model": section(network),
            "ensemble": {"members": members},
            "training": {"epochs": epochs, "batch_size": 50, "schedule": "constant", "learning_rate": 0.003},
            "attribution": {"methods": [METHOD]},
        }
        found |= named(kind, either_way(spec, {"mask_fraction": mask_fraction, "weight": weight}))
    return found


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Both areas on every set, what guidance adds, and how much better late cells are found than early ones."""
    for name, run in runs.items():
        yield told(f"{name}: accuracy", accuracies(run))
    found = {(name, measure): _areas(run, measure) for name, run in runs.items() for measure in MEASURES}
    for name, (measure, words) in product(pairs(runs), MEASURES.items()):
        before, after = (found[f"{name}-{way}", measure] for way in (STANDARD, GUIDED))
        yield told(f"{name}, {STANDARD}: {words}", before)
        yield told(f"{name}, {GUIDED}: {words}", after)
        yield gained(f"{name}: {words} that guidance adds", before, after)
    if {EARLY, LATE} <= pairs(runs).keys():
        for measure, words in MEASURES.items():
            early, late = ([found[f"{name}-{way}", measure] for way in (STANDARD, GUIDED)] for name in (EARLY, LATE))
            standard, guided = (after - before for before, after in zip(early, late, strict=True))
            bias, ends = f"{words} of late cells less that of early ones", (EARLY, LATE)
            yield gained(f"{bias}, {STANDARD}", early[0], late[0], names=ends)
            yield gained(f"{bias}, {GUIDED}", early[1], late[1], names=ends, above=None)
            yield gained(f"{words}: bias towards late cells that guidance takes off", standard, guided, sign=-1)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Both areas by set, standard and guided."""
    for measure, words in MEASURES.items():
        groups = {
            way: [over_members(_areas(both[place], measure).tolist()) for both in pairs(runs).values()]
            for place, way in enumerate((STANDARD, GUIDED))
        }
        figure = method_charts.grouped(list(pairs(runs)), groups, label=words)
        yield Picture(caption=f"{words} of the gradient", content=canvas.svg(figure, measure))


def _areas(run: "Run", measure: str) -> np.ndarray:
    return own(faithfulness(run, *MEASURES)[METHOD, measure])
