"""Precision and recall of explanations of series whose informative cells are known: Table 2 of the paper."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.errors import UserError
from salcore.faithfulness import over_members
from salcore.figures import canvas, method_charts
from salcore.statistics import Estimate
from salcore.studies.guided import (
    GUIDED,
    STANDARD,
    accuracies,
    either_way,
    faithfulness,
    gained,
    missing,
    named,
    own,
    pairs,
    told,
)
from salcore.studies.networks import section
from salcore.studies.row import Picture, Row

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Weighted precision and recall of explanations of series"
SOURCE = "Ismail et al. (NeurIPS 2021), Table 2"
ABOUT = (
    "Areas under weighted precision (AUP) and recall (AUR) of the informative cells, 10 to 90 % of the saliency, at "
    "most 0.8, less those of the same saliency in random order within each sample: Eq. 7 and 8. Saliency is the "
    "magnitude of the map of the label's logit, scaled per sample; the published code explains the probability. Mean "
    "over the data sets, then over members (the paper's five runs), which are paired by seed. The paper does not say "
    "which base process it used; ours is Gaussian noise, scaled per feature. Guidance as in the published code for "
    "images: gradients of the log-probability in evaluation mode."
)
SMALL: dict[str, Any] = {
    "sets": ["middle", "moving_small_middle"],
    "networks": ["tcn", "lstm"],
    "members": 3,
    "epochs": {"tcn": 40, "lstm": 100},
    "mask_fraction": 0.5,
    "weight": 1.0,
    "eval_samples": 100,
}
FULL = SMALL | {
    "sets": [
        "middle", "small_middle", "moving_middle", "moving_small_middle", "rare_time", "moving_rare_time",
        "rare_feature", "moving_rare_feature", "positional_time", "positional_feature",
    ],
    "networks": ["lstm", "input_cell_lstm", "tcn", "transformer"],
    "members": 5,
    "epochs": 200,
}  # fmt: skip
PRESETS = {"small": SMALL, "full": FULL}
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "integrated_gradients": {"num_steps": 32},
    "deeplift": {},
    "gradient_shap": {"baselines": "uniform", "num_samples": 16},
    "deepshap": {"baselines": "uniform", "num_baselines": 5},
    "smoothgrad": {"num_samples": 16},
}
MEASURES = {"aup_above_random": "Diff(AUP)", "aur_above_random": "Diff(AUR)"}
PAPER = {
    ("aup", "lstm"): (-0.113, -0.119, -0.083, -0.024, -0.097, -0.108, -0.088, -0.069, -0.098, -0.109, -0.110, -0.097),
    ("aup", "input_cell_lstm"): (
        0.060, 0.118, 0.188, 0.245, 0.202, 0.263, 0.198, 0.250, 0.214, 0.272, 0.040, 0.084,
    ),
    ("aup", "tcn"): (0.106, 0.168, 0.233, 0.291, 0.248, 0.270, 0.235, 0.288, 0.263, 0.280, 0.088, 0.155),
    ("aup", "transformer"): (
        -0.054, -0.062, 0.061, 0.044, -0.040, -0.032, 0.069, 0.023, -0.014, -0.055, -0.018, -0.046,
    ),
    ("aur", "lstm"): (-0.017, 0.019, 0.062, 0.121, 0.047, 0.089, 0.060, 0.102, 0.031, 0.075, 0.007, 0.004),
    ("aur", "input_cell_lstm"): (
        0.075, 0.136, 0.185, 0.198, 0.187, 0.204, 0.182, 0.196, 0.183, 0.201, 0.043, 0.111,
    ),
    ("aur", "tcn"): (0.125, 0.171, 0.191, 0.210, 0.202, 0.204, 0.185, 0.209, 0.196, 0.192, 0.046, 0.138),
    ("aur", "transformer"): (
        0.102, 0.104, 0.182, 0.176, 0.145, 0.146, 0.171, 0.162, 0.101, 0.065, 0.040, 0.018,
    ),
}  # fmt: skip
"""Table 2: for each method standard and guided; the methods in the order of `METHODS`."""


def ensembles(
    *,
    sets: list,
    networks: list,
    members: int,
    epochs: dict | int,
    mask_fraction: float,
    weight: float,
    eval_samples: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of every network trained either way on every set; `epochs` of all networks, or of each by name."""
    found: dict[str, dict[str, Any]] = {}
    for kind, network in product(sets, map(section, networks)):
        name = network["name"]
        if isinstance(epochs, dict) and name not in epochs:
            raise UserError("study.epochs", f"a number for {name} too, or one for all", epochs)
        spec = {
            "data": {"name": f"synthetic:{kind}", "eval_samples": eval_samples},
            "model": network,
            "ensemble": {"members": members},
            "training": {
                "epochs": epochs[name] if isinstance(epochs, dict) else epochs,
                "batch_size": 50,
                "schedule": "constant",
                "learning_rate": 0.001,
            },
            "attribution": {"methods": [{"name": method, **settings} for method, settings in METHODS.items()]},
        }
        pair = named(f"{kind}-{name}", either_way(spec, {"mask_fraction": mask_fraction, "weight": weight}))
        if found.keys() & pair.keys():
            raise UserError("study.networks", "networks of different names: one study for each setting", networks)
        found |= pair
    return found


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Accuracies, then every cell beside the paper's, and what guidance adds to it."""
    for name, run in runs.items():
        yield told(f"{name}: accuracy", accuracies(run))
    for network, (measure, words), (place, method) in product(_networks(runs), MEASURES.items(), enumerate(METHODS)):
        papers = PAPER.get((measure[:3], network), (None,) * 12)[2 * place : 2 * place + 2]
        what = f"{words}: {network}, {method}"
        before, after = (over_sets(runs, network, way, method, measure) for way in (STANDARD, GUIDED))
        if before is None or after is None:
            for way, paper in zip((STANDARD, GUIDED), papers, strict=True):
                yield missing(f"{what}, {way}", paper, f"{method} does not explain this network")
            continue
        for way, found, paper in ((STANDARD, before, papers[0]), (GUIDED, after, papers[1])):
            yield told(f"{what}, {way}", found, paper=paper)
        both = None if papers[0] is None else papers
        yield gained(f"{what}, guided less standard", before, after, papers=both)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Both areas by method, one chart per network."""
    for network, (measure, words) in product(_networks(runs), MEASURES.items()):
        groups: dict[str, list[Estimate]] = {STANDARD: [], GUIDED: []}
        known = []
        for method in METHODS:
            before, after = (over_sets(runs, network, way, method, measure) for way in groups)
            if before is not None and after is not None:
                known.append(method)
                groups[STANDARD].append(over_members(before.tolist()))
                groups[GUIDED].append(over_members(after.tolist()))
        figure = method_charts.grouped(known, groups, label=words)
        yield Picture(caption=f"{network}: {words}", content=canvas.svg(figure, f"{measure[:3]}-{network}"))


def over_sets(runs: "Mapping[str, Run]", network: str, way: str, method: str, measure: str) -> np.ndarray | None:
    """A measure's difference to random order `(M,)` of each member, mean over the sets; None where a set lacks it."""
    chosen = [run for name, run in runs.items() if name.endswith(f"-{network}-{way}")]
    if any(method not in run.methods for run in chosen):
        return None
    return np.mean([own(faithfulness(run, *MEASURES)[method, measure]) for run in chosen], axis=0)


def _networks(runs: "Mapping[str, Run]") -> list[str]:
    """Names of the networks, in order."""
    return list(dict.fromkeys(name.partition("-")[2] for name in pairs(runs)))
