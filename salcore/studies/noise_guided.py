"""Does saliency guided training lower the noise of training? In no paper: two of them put together."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from salcore.figures import canvas, method_charts
from salcore.report.compare import compare
from salcore.studies.networks import section
from salcore.studies.row import Picture, Row, measured
from salcore.studies.summaries import accuracy, debiased, rows_of

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Does saliency guided training lower training noise?"
SOURCE = "asked by neither Woerl et al. (CVPR 2023) nor Ismail et al. (NeurIPS 2021)"
ABOUT = (
    "Debiased SNR of the input gradient, and accuracy, of ensembles trained with the standard loss and with saliency "
    "guided training, over k (the share of an input that is masked) and lambda (the weight of the divergence). The "
    "same seeds throughout; differences with a jackknife interval over members, on the same samples."
)
SMALL: dict[str, Any] = {
    "network": {"name": "small_cnn", "width": 16, "depth": 2},
    "data": {"name": "fashion_mnist"},
    "mask_fractions": [0.25, 0.5, 0.75],
    "weights": [1.0],
    "members": 6,
    "epochs": 3,
    "train_samples": 10_000,
    "eval_samples": 500,
}
FULL = SMALL | {
    "mask_fractions": [0.1, 0.3, 0.5, 0.7, 0.9],
    "weights": [0.3, 1.0, 3.0],
    "members": 20,
    "epochs": 10,
    "train_samples": 60_000,
    "eval_samples": 10_000,
}
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"
STANDARD = "standard"


def ensembles(
    *,
    network: dict | str,
    data: dict | str,
    mask_fractions: list,
    weights: list,
    members: int,
    epochs: int,
    train_samples: int,
    eval_samples: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of the standard ensemble and of a guided one for each k and lambda."""

    def spec(**training: Any) -> dict[str, Any]:
        return {
            "data": {"train_samples": train_samples, "eval_samples": eval_samples, **section(data)},
            "model": section(network),
            "ensemble": {"members": members},
            "training": {"epochs": epochs, "batch_size": 128, "learning_rate": 0.01, **training},
            "attribution": {"methods": [METHOD]},
        }

    guided = {
        f"k{fraction:g}-lambda{weight:g}": spec(
            objective="guided", guidance={"mask_fraction": float(fraction), "weight": float(weight)}
        )
        for fraction in mask_fractions
        for weight in weights
    }
    return {STANDARD: spec(), **guided}


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """SNR and accuracy of every ensemble, and what guidance changes."""
    for name, run in runs.items():
        yield measured(f"{name}: debiased SNR", debiased(rows_of(run)[METHOD]), note=f"accuracy {accuracy(run):.3f}")
    for name, run in runs.items():
        if name == STANDARD:
            continue
        for found in compare([runs[STANDARD], run]).differences:
            note = f"from {found.values[0]:.3f} to {found.values[1]:.3f}"
            yield measured(f"{name}: {found.quantity.lower()}, guided less standard", found.members, note=note)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Debiased SNR of every ensemble."""
    values = [debiased(rows_of(run)[METHOD]) for run in runs.values()]
    figure = method_charts.grouped(list(runs), {"debiased SNR": values})
    yield Picture(caption="Debiased SNR of the input gradient", content=canvas.svg(figure, "guided"))
