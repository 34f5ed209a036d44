"""Comprehensiveness and sufficiency of explanations of texts, standard and guided: Table 1 of the paper."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from salcore.faithfulness import over_members
from salcore.figures import canvas, method_charts
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

TITLE = "Faithfulness of explanations of texts"
SOURCE = "Ismail et al. (NeurIPS 2021), Table 1"
ABOUT = (
    "AOPC over 1, 5, 10, 20 and 50 % of the words: how much of the predicted class's probability goes when the most "
    "salient words are deleted (comprehensiveness, more is better), and when all others are (sufficiency, less is "
    "better). A word's saliency is the sum of the map over its embedding, with its sign. The paper's vectors, sizes "
    "and k for texts are not published; ours are those of the specs. `study.data` names the sets that there are: FEVER "
    "takes its training part, and e-SNLI is not among the tests' data. Guidance has the network say the same of a text "
    "that lacks words, so its probability moves less whatever is deleted, random words too: both numbers shrink, which "
    "helps sufficiency and works against comprehensiveness."
)
SMALL: dict[str, Any] = {
    "data": {
        "movies": {"name": "eraser:movies.tar.gz", "vectors": "glove.txt", "length": 300},
        "sst5": {"name": "sst:sst5", "vectors": "glove.txt"},
    },
    "network": {"name": "bilstm", "hidden": 32, "pooling": "attention"},
    "members": 3,
    "epochs": 12,
    "mask_fraction": 0.5,
    "weight": 1.0,
    "eval_samples": 199,
}
FULL = SMALL | {
    "data": {
        "movies": {"name": "eraser:movies.tar.gz", "vectors": "glove.840B.300d.txt"},
        "fever": {"name": "eraser:fever.tar.gz", "vectors": "glove.840B.300d.txt"},
        "esnli": {"name": "eraser:esnli.tar.gz", "vectors": "glove.840B.300d.txt"},
        "sst5": {"name": "sst:sst5", "vectors": "glove.840B.300d.txt"},
    },
    "network": {"name": "bilstm", "hidden": 128, "pooling": "attention"},
    "members": 5,
    "epochs": 20,
    "eval_samples": 1_000,
}
PRESETS = {"small": SMALL, "full": FULL}
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "integrated_gradients": {"num_steps": 16},
    "smoothgrad": {"num_samples": 16},
}
COMPREHENSIVENESS, SUFFICIENCY = "comprehensiveness", "sufficiency"
MEASURES = {COMPREHENSIVENESS: 1, SUFFICIENCY: -1}
"""Measures, and whether more of one is better or less."""
PAPER = {
    ("movies", COMPREHENSIVENESS): (0.200, 0.240, 0.265, 0.306, 0.198, 0.256, 0.056),
    ("movies", SUFFICIENCY): (0.042, 0.013, 0.054, 0.002, 0.034, 0.008, 0.294),
    ("fever", COMPREHENSIVENESS): (0.007, 0.008, 0.008, 0.009, 0.007, 0.008, 0.001),
    ("fever", SUFFICIENCY): (0.012, 0.011, 0.005, 0.004, 0.006, 0.006, 0.003),
    ("esnli", COMPREHENSIVENESS): (0.117, 0.126, 0.099, 0.104, 0.117, 0.118, 0.058),
    ("esnli", SUFFICIENCY): (0.420, 0.387, 0.461, 0.419, 0.476, 0.455, 0.366),
}
"""Table 1: gradient, integrated gradients and SmoothGrad, each standard and guided, then random scores."""


def ensembles(
    *,
    data: dict,
    network: dict | str,
    members: int,
    epochs: int,
    mask_fraction: float,
    weight: float,
    eval_samples: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of the ensemble trained either way on every set of texts."""
    found: dict[str, dict[str, Any]] = {}
    for name, where in data.items():
        spec = {
            "data": {"eval_samples": eval_samples, **section(where)},
            "model": section(network),
            "ensemble": {"members": members},
            "training": {"epochs": epochs, "batch_size": 32, "learning_rate": 0.02},
            "attribution": {
                "batch_size": 32,
                "methods": [{"name": method, **settings} for method, settings in METHODS.items()],
            },
        }
        found |= named(name, either_way(spec, {"mask_fraction": mask_fraction, "weight": weight}))
    return found


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Every cell of the table beside the paper's, what guidance adds, and the cells that are not had."""
    for name, (standard, guided) in pairs(runs).items():
        for way, run in ((STANDARD, standard), (GUIDED, guided)):
            yield told(f"{name}, {way}: accuracy", accuracies(run))
        before, after = (faithfulness(run, *MEASURES, random=True) for run in (standard, guided))
        for measure, sign in MEASURES.items():
            papers = PAPER.get((name, measure), (None,) * 7)
            for place, method in enumerate(METHODS):
                cells = own(before[method, measure]), own(after[method, measure])
                both = papers[2 * place : 2 * place + 2]
                for way, values, paper in zip((STANDARD, GUIDED), cells, both, strict=True):
                    yield told(f"{name}, {measure}: {method}, {way}", values, paper=paper)
                better = f"{name}: {method}, {measure} guided {'above' if sign > 0 else 'below'} standard, by"
                yield gained(better, *cells, sign=sign, papers=None if both[0] is None else both)
            for way, found in ((STANDARD, before), (GUIDED, after)):
                yield told(f"{name}, {measure}: random, {way}", own(found[None, measure]), paper=papers[6])
    yield from _not_had(runs)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Both numbers by method and training, of every set."""
    for place, (name, both) in enumerate(pairs(runs).items()):
        found = dict(zip((STANDARD, GUIDED), (faithfulness(run, *MEASURES, random=True) for run in both), strict=True))
        for measure in MEASURES:
            groups = {
                way: [over_members(cells[method, measure].own) for method in (*METHODS, None)]
                for way, cells in found.items()
            }
            figure = method_charts.grouped([*METHODS, "random"], groups, label=measure)
            yield Picture(caption=f"{name}: {measure}", content=canvas.svg(figure, f"{measure}-{place}"))


def _not_had(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """The paper's cells of sets that no run is of."""
    cells = [*(f"{method}, {way}" for method, way in product(METHODS, (STANDARD, GUIDED))), "random"]
    for (name, measure), papers in PAPER.items():
        if name not in pairs(runs):
            for cell, paper in zip(cells, papers, strict=True):
                yield missing(f"{name}, {measure}: {cell}", paper, f"not had: no run is of {name} (study.data)")
