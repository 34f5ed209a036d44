"""Accuracy as the most salient pixels are removed: does guided training make it drop faster? Fig. 3 of the paper."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from salcore.faithfulness import Measured, over_members
from salcore.figures import canvas, method_charts
from salcore.statistics import Estimate
from salcore.studies.guided import ADADELTA, GUIDED, STANDARD, accuracies, either_way, faithfulness, gained, own, told
from salcore.studies.networks import section
from salcore.studies.row import Picture, Row

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Accuracy drop of standard and guided training"
SOURCE = "Ismail et al. (NeurIPS 2021), Fig. 3"
ABOUT = (
    "The pixels of highest saliency are replaced by the image's own background (its top left pixel), at once and not "
    "re-ranked, as in the published code; saliency is |mean over channels| of the label's map. The area is the mean "
    "accuracy over the shares removed, 0 to 90 %: lower is steeper, and better. The paper draws its figure without "
    "numbers; those beside ours at 10, 20 and 30 % are of one run of the published code with 3 epochs (its SmoothGrad "
    "is the squared one, ours the signed mean). Guidance as in that code: gradients of the log-probability in "
    "evaluation mode, ranked with their sign. Members of equal seeds are compared in pairs."
)
SMALL: dict[str, Any] = {
    "network": {"name": "mnist_cnn"},
    "data": {"name": "mnist", "validation_fraction": 0.0},
    "members": 5,
    "epochs": 3,
    "batch_size": 128,
    "mask_fraction": 0.5,
    "weight": 1.0,
    "eval_samples": 10_000,
    "explained": 1_000,
}
FULL = SMALL | {"epochs": 30, "batch_size": 512, "explained": 10_000}
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"
DROP = "accuracy_drop"
WAYS = (STANDARD, GUIDED)
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "accuracy": {STANDARD: (0.9864,), GUIDED: (0.9809,)},
    "gradient": {STANDARD: (0.682, 0.443, 0.270), GUIDED: (0.469, 0.229, 0.170)},
    "smoothgrad": {STANDARD: (0.687, 0.474, 0.319), GUIDED: (0.395, 0.198, 0.133)},
}
"""One run of the published code: accuracy, and accuracy without the top 10, 20 and 30 % of the pixels."""
ONE_RUN = "beside it one run of the published code"


def ensembles(
    *,
    network: dict | str,
    data: dict | str,
    members: int,
    epochs: int,
    batch_size: int,
    mask_fraction: float,
    weight: float,
    eval_samples: int,
    explained: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of the ensemble trained either way; `explained` of the evaluation samples have maps."""
    values = {
        "data": {"eval_samples": eval_samples, **section(data)},
        "model": section(network),
        "ensemble": {"members": members},
        "training": {"epochs": epochs, "batch_size": batch_size, **ADADELTA},
        "attribution": {"methods": methods(explained)},
    }
    return either_way(values, {"mask_fraction": mask_fraction, "weight": weight})


def methods(explained: int) -> list[dict[str, Any]]:
    """The six methods of the figure, on the first so many samples."""
    asked: list[dict[str, Any]] = [
        {"name": "gradient"},
        {"name": "integrated_gradients", "num_steps": 16},
        {"name": "deeplift"},
        {"name": "smoothgrad", "num_samples": 16},
        {"name": "gradient_shap", "baselines": "uniform", "num_samples": 16},
        {"name": "deepshap", "baselines": "uniform", "num_baselines": 5},
    ]
    return [{**each, "samples": explained} for each in asked]


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Accuracy either way, then the area by each method, and what is left of the accuracy on the way there."""
    before, after = (accuracies(runs[way]) for way in WAYS)
    for way, values in zip(WAYS, (before, after), strict=True):
        yield told(f"{way}: accuracy", values, paper=PUBLISHED["accuracy"][way][0], note=ONE_RUN)
    yield gained("accuracy that guidance adds, at most 0.6 points less", before, after, above=-0.006)
    found = {way: faithfulness(runs[way], DROP, random=True) for way in WAYS}
    for method in runs[STANDARD].methods:
        drops = {way: found[way][method, DROP] for way in WAYS}
        yield gained(f"{method}: area that guidance takes off", *(own(drops[way]) for way in WAYS), sign=-1)
        for way, drop in drops.items():
            yield from _on_the_way(f"{method}, {way}", drop, PUBLISHED.get(method, {}).get(way, ()))
            yield told(f"{method}, {way}: area by the ensemble's mean map", drop.of_mean)
    for way in WAYS:
        yield told(f"random pixels, {way}: area", own(found[way][None, DROP]))


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """One chart per method, as in Fig. 3."""
    found = {way: faithfulness(runs[way], DROP, random=True) for way in WAYS}
    random = {f"random, {way}": found[way][None, DROP] for way in WAYS}
    for place, method in enumerate(runs[STANDARD].methods):
        drops = {way: found[way][method, DROP] for way in WAYS}
        series = {name: along(drop) for name, drop in (drops | random).items()}
        shares = [round(100 * share) for share in drops[STANDARD].results[0].fractions]
        figure = method_charts.lines(shares, series, "pixels removed (%)", dashed=random, y_label="accuracy")
        caption = f"{method}: accuracy on {drops[STANDARD].samples} images"
        yield Picture(caption=caption, content=canvas.svg(figure, f"drop-{place}"))


def along(drop: Measured) -> list[Estimate]:
    """The accuracy at each share removed, over members."""
    return [over_members(accuracy) for accuracy in zip(*(curve.accuracy for curve in drop.results), strict=True)]


def _on_the_way(what: str, drop: Measured, papers: Sequence[float]) -> Iterator[Row]:
    """Accuracy without the top 10, 20 and 30 % of the pixels."""
    for place, paper in zip_longest((1, 2, 3), papers):
        left = [curve.accuracy[place] for curve in drop.results]
        share = f"{drop.results[0].fractions[place]:.0%}"
        note = ONE_RUN if papers else ""
        yield told(f"{what}: accuracy without {share} of the pixels", left, paper=paper, note=note)
