"""How noisy is each method? Table 1 of the paper: eight methods, three networks, two data sets."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from salcore.figures import canvas, method_charts
from salcore.statistics import Estimate
from salcore.studies.networks import FULL, SMALL, ensembles
from salcore.studies.row import UNKNOWN, Picture, Row, claimed, difference, measured
from salcore.studies.summaries import accuracy, at_30, debiased, lead, rows_of

if TYPE_CHECKING:
    from salcore.runs import Run

__all__ = ["ABOUT", "PRESETS", "SOURCE", "TITLE", "ensembles", "figures", "rows"]

TITLE = "Noise of the methods"
SOURCE = "Woerl et al. (CVPR 2023), Table 1"
ABOUT = (
    "SNR of each method's maps. The paper's ensembles have 30 members and its number is the mean over samples; ours "
    "is the SNR expected at 30 members, sqrt(debiased^2 + 1/30), with a jackknife interval over members. It is pooled "
    "over samples (the root of a ratio of means), so it may lie above the raw mean where samples differ much; of an "
    "ensemble of 30 the raw mean itself stands here. The paper does not say which SHAP it used: three stand beside "
    "its number."
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
        for method, row in found.items():
            note = f"raw SNR {row['snr']:.3f} of {row['members']} members; {row['samples']} samples"
            note += f"; members' accuracy {accuracy(run):.3f}" if method == "gradient" else NOTES.get(method, "")
            yield measured(f"{name}: {method}", at_30(row), paper=_paper(name, run, method), note=note)
        for method in (each for each in COLUMNS if each != "shap" and each not in found):
            note = "not in this run: not asked for, or the network has no such layer of more than one cell"
            yield measured(f"{name}: {method}", UNKNOWN, paper=_paper(name, run, method), note=note)
    for name, run in runs.items():
        yield from _claims(name, run)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """The table as a chart, the paper's numbers as crosses."""
    for name, run in runs.items():
        found = rows_of(run)
        ours = {"ours, at 30 members": [at_30(row) for row in found.values()]}
        figure = method_charts.grouped(list(found), ours, paper={"paper": [_paper(name, run, each) for each in found]})
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


def _paper(name: str, run: "Run", method: str) -> float | None:
    """The paper's number, unless an override put another network or named data set under the ensemble's name.

    Data of the user's own is taken at its word.
    """
    data, _, network = name.partition("-")
    own = ":" in run.spec.data.name
    return paper(name, method) if run.spec.model.name == network and (own or run.spec.data.name == data) else None


def _claims(name: str, run: "Run") -> Iterator[Row]:
    """The gradient is more noise than signal; GradCAM at the top is the least noisy; SHAP is noisier than gradients."""
    found = rows_of(run)
    if "gradient" in found:
        what = f"{name}: noise outweighs the signal of raw gradients (1 - debiased SNR)"
        yield claimed(what, difference(debiased(found["gradient"]), Estimate(value=1.0, low=1.0, high=1.0)))
    others = [method for method, row in found.items() if not row["non_negative"] and method != "gradcam_top"]
    if "gradcam_top" in found and others:
        best = max(others, key=lambda method: found[method]["snr_debiased"])
        yield _led(f"{name}: top GradCAM leads the next, {best}", name, run, "gradcam_top", best)
    for shap in SHAPS:
        if shap in found and "gradient" in found:
            what = f"{name}: SHAP is noisier than raw gradients ({shap})"
            reason = "; which SHAP the paper ran is open" + NOTES.get(shap, "")
            yield _led(what, name, run, "gradient", shap, reason)


def _led(what: str, name: str, run: "Run", first: str, second: str, more: str = "") -> Row:
    """The claim that a method has the higher debiased SNR, paired over members, beside the paper's difference."""
    found, numbers = rows_of(run), [_paper(name, run, method) for method in (first, second)]
    told = None if None in numbers else numbers[0] - numbers[1]  # type: ignore[operator]
    note = f"debiased, paired over members; {found[first]['samples']} and {found[second]['samples']} samples{more}"
    return claimed(what, lead(run, first, second), paper=told, note=note)
