"""How noisy is each method? Table 1 of the paper: eight methods, three networks, two data sets."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from salcore.figures import canvas, method_charts
from salcore.statistics import Estimate
from salcore.studies.networks import FULL, SMALL, ensembles
from salcore.studies.row import UNKNOWN, Picture, Row, claimed, difference, measured
from salcore.studies.summaries import accuracy, at_30, debiased, rows_of

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Noise of the methods"
SOURCE = "Woerl et al. (CVPR 2023), Table 1"
ABOUT = (
    "Mean SNR of each method's maps. The paper's ensembles have 30 members; ours is the SNR expected at 30 members, "
    "sqrt(debiased^2 + 1/30), with a jackknife interval over members. The paper does not say which SHAP it used: "
    "three stand beside its number."
)
PRESETS = {"small": SMALL, "full": FULL}

PAPER: dict[str, dict[str, tuple[float, ...]]] = {
    "cifar10": {
        "vgg19": (0.436, 0.612, 0.627, 0.816, 0.612, 0.252, 0.453, 0.609),
        "resnet18": (0.555, 0.742, 0.789, 1.593, 1.112, 0.365, 0.628, 0.772),
        "resnet101": (0.435, 0.744, 0.878, 1.373, 0.680, 0.308, 0.554, 0.826),
    },
    "imagenette": {
        "vgg19": (0.585, 0.725, 0.724, 1.370, 0.748, 0.418, 0.978, 0.919),
        "resnet18": (0.589, 0.695, 0.681, 2.363, 1.171, 0.386, 0.650, 0.997),
        "resnet101": (0.444, 0.577, 0.470, 3.171, 1.253, 0.327, 0.587, 0.982),
    },
}
"""Mean SNR of Table 1, in the order of COLUMNS."""
COLUMNS = (
    "gradient", "integrated_gradients", "smoothgrad_ig", "gradcam_top", "gradcam_intermediate", "shap", "deeplift",
    "lime",
)  # fmt: skip
SHAPS = ("deepshap", "gradient_shap", "kernel_shap")
NOTES = dict.fromkeys(
    ("kernel_shap", "lime"),
    "; one value a superpixel, and masks that all members share, so that Monte-Carlo error does not count as noise",
)
"""Where ours may differ from the paper's, which does not say how it segmented and drew."""


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Every method of every ensemble, then what the paper says of them all."""
    for name, run in runs.items():
        found = rows_of(run)
        for method in (each.folder for each in run.spec.attribution.methods):
            row = found.get(method)
            if row is not None:
                note = f"raw SNR {row['snr']:.3f} of {row['members']} members; {row['samples']} samples"
                note += f"; members' accuracy {accuracy(run):.3f}" if method == "gradient" else NOTES.get(method, "")
                yield measured(f"{name}: {method}", at_30(row), paper=paper(name, method), note=note)
        missing = [method for method in COLUMNS if method != "shap" and method not in found]
        for method in missing:
            note = "no map: this network has no such layer of more than one cell at this size"
            yield measured(f"{name}: {method}", UNKNOWN, paper=paper(name, method), note=note)
    for name, run in runs.items():
        yield from _claims(name, rows_of(run))


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """The table as a chart, the paper's numbers as crosses."""
    for name, run in runs.items():
        found = rows_of(run)
        numbers = [paper(name, method) for method in found]
        figure = method_charts.grouped(
            list(found), {"ours, at 30 members": [at_30(row) for row in found.values()]}, paper={"paper": numbers}
        )
        yield Picture(caption=f"{name}: SNR by method", content=canvas.svg(figure, f"table-{name}"))


def paper(ensemble: str, method: str) -> float | None:
    """The number of Table 1, None where it has none.

    >>> paper("cifar10-resnet18", "kernel_shap"), paper("digits-small_cnn", "gradient")
    (0.365, None)
    """
    data, _, network = ensemble.partition("-")
    column = "shap" if method in SHAPS else method
    values = PAPER.get(data, {}).get(network)
    return values[COLUMNS.index(column)] if values and column in COLUMNS else None


def _claims(name: str, found: Mapping[str, dict[str, Any]]) -> Iterator[Row]:
    """The gradient is more noise than signal; GradCAM at the top is the least noisy; SHAP is noisier than gradients."""
    if "gradient" in found:
        gradient = debiased(found["gradient"])
        yield claimed(
            f"{name}: noise outweighs the signal of raw gradients (1 - debiased SNR)",
            difference(gradient, Estimate(value=1.0, low=1.0, high=1.0)),
        )
    others = {method: at_30(row) for method, row in found.items() if not row["non_negative"]}
    top = others.pop("gradcam_top", None)
    if top is not None and others:
        best = max(others, key=lambda method: others[method].value)
        number, second = paper(name, "gradcam_top"), paper(name, best)
        told = None if number is None or second is None else number - second
        yield claimed(f"{name}: top GradCAM leads the next, {best}", difference(others[best], top), paper=told)
    for shap in SHAPS:
        if shap in found and "gradient" in found:
            number, raw = paper(name, shap), paper(name, "gradient")
            told = None if number is None or raw is None else raw - number
            lead = difference(at_30(found[shap]), at_30(found["gradient"]))
            samples = f"{found[shap]['samples']} and {found['gradient']['samples']} samples"
            note = f"on {samples}; which SHAP the paper ran is open"
            yield claimed(f"{name}: SHAP is noisier than raw gradients ({shap})", lead, paper=told, note=note)
