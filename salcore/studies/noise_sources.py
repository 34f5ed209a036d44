"""Where does the noise come from: weights, order of batches, optimiser, normalisation? Section 4 of the paper."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from salcore.figures import canvas, method_charts
from salcore.statistics import Estimate
from salcore.studies.networks import section
from salcore.studies.row import Picture, Row, claimed, difference, measured
from salcore.studies.summaries import accuracy, at_30, debiased, rows_of

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Sources of the noise"
SOURCE = "Woerl et al. (CVPR 2023), sections 4.1 and 4.2"
ABOUT = (
    "SNR of the input gradient where one thing is changed. The paper's numbers are of ResNet18 on Imagenette at 128 "
    "pixels, and its reference here (0.694) is not that of its Table 1 (0.589): compare within pairs only. Below "
    "them, of a small CNN with dropout and augmentation, ensembles in which one purpose alone differs between "
    "members."
)
METHOD = "gradient"
SMALL_CNN = {"name": "small_cnn", "width": 16, "depth": 3, "norm": "batch"}
FASHION = {"name": "fashion_mnist", "train_samples": 10_000}
SMALL: dict[str, Any] = {
    "network": SMALL_CNN,
    "data": FASHION,
    "epochs": 4,
    "sgd": {"epochs": 8, "milestones": [4, 6]},
    "alone_data": FASHION,
    "alone_epochs": 4,
    "members": 6,
    "eval_samples": 500,
}
FULL = SMALL | {
    "network": {"name": "resnet18", "initialization": "he"},
    "data": {"name": "imagenette", "image_size": 128, "eval_samples": 3_925},
    "epochs": 30,
    "sgd": {"epochs": 30, "milestones": [15, 25]},
    "alone_data": {"name": "fashion_mnist", "train_samples": 60_000},
    "members": 30,
    "eval_samples": 10_000,
}
PRESETS = {"small": SMALL, "full": FULL}
PAPER = {"reference": 0.694, "fixed_init": 0.830, "sgd": 0.79, "instance_norm": 0.702}
"""Mean SNR of the paper. The reference of SGD is given as similar, and is not told apart from the others."""
PURPOSES = {"init": "initial weights", "order": "order of batches", "augment": "augmentation", "model": "dropout"}


def ensembles(
    *,
    network: dict | str,
    data: dict | str,
    epochs: int,
    sgd: dict,
    alone_data: dict | str,
    alone_epochs: int,
    members: int,
    eval_samples: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of the paper's pairs (reference, fixed_init, sgd, instance_norm) and of each purpose alone."""
    every = ["init", "order", "augment", "model", "masking"]
    training = {"epochs": epochs, "batch_size": 64, "learning_rate": 0.01}

    def spec(model: dict | str, where: dict | str, vary: list[str], training: dict) -> dict[str, Any]:
        return {
            "data": {"eval_samples": eval_samples, **section(where)},
            "model": section(model),
            "ensemble": {"members": members, "vary": vary},
            "training": training,
            "attribution": {"methods": [METHOD]},
        }

    steps = {**training, "optimizer": "sgd", "schedule": "step", "decay": 0.5, **sgd}
    without_init = [purpose for purpose in every if purpose != "init"]
    pairs = {
        "reference": spec(network, data, every, training),
        "fixed_init": spec(network, data, without_init, training),
        "sgd": spec(network, data, every, steps),
        "instance_norm": spec({**section(network), "norm": "instance"}, data, every, training),
    }
    noisy = {**SMALL_CNN, "dropout": 0.2}
    augmented = {**training, "epochs": alone_epochs, "augment": {"crop": 2, "flip": True}}
    alone = {f"only_{purpose}": spec(noisy, alone_data, [purpose], augmented) for purpose in PURPOSES}
    return {**pairs, "all": spec(noisy, alone_data, every, augmented), **alone}


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Every ensemble's SNR at 30 members, then the statements on pairs."""
    found = {name: rows_of(run)[METHOD] for name, run in runs.items()}
    for name, row in found.items():
        note = f"debiased {row['snr_debiased']:.3f}, raw {row['snr']:.3f}; members' accuracy {accuracy(runs[name]):.3f}"
        yield measured(_title(name), at_30(row), paper=PAPER.get(name), note=note)
    gains = {name: difference(at_30(found["reference"]), at_30(found[name])) for name in PAPER if name in found}
    told = {name: PAPER[name] - PAPER["reference"] for name in PAPER}
    if "fixed_init" in gains:
        yield claimed("fixed initial weights raise the SNR", gains["fixed_init"], paper=told["fixed_init"])
    for name, note in (("sgd", "0.79 against 0.59 or 0.694, called similar"), ("instance_norm", "minimal differences")):
        if name in gains:
            number = told[name] if name != "sgd" else None
            yield measured(f"{_title(name)} less the reference", gains[name], paper=number, note=f"the paper: {note}")
    for purpose, words in PURPOSES.items():
        if f"only_{purpose}" in found:
            gain = difference(debiased(found["all"]), debiased(found[f"only_{purpose}"]))
            yield claimed(
                f"with {words} alone there is less noise than with all (debiased)", gain, note="not in the paper"
            )


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Debiased SNR of every ensemble."""
    names = {"The paper's pairs": list(PAPER), "One source alone": ["all", *(f"only_{each}" for each in PURPOSES)]}
    for place, (caption, chosen) in enumerate(names.items()):
        there = [name for name in chosen if name in runs]
        values: list[Estimate] = [at_30(rows_of(runs[name])[METHOD]) for name in there]
        papers = {"paper": [PAPER.get(name) for name in there]} if place == 0 else None
        figure = method_charts.grouped([_title(name) for name in there], {"ours, at 30 members": values}, paper=papers)
        yield Picture(caption=caption, content=canvas.svg(figure, f"sources-{place}"))


def _title(name: str) -> str:
    titles = {
        "reference": "reference: all varies",
        "fixed_init": "fixed initial weights",
        "sgd": "SGD with steps",
        "instance_norm": "instance norm",
        "all": "all sources",
    }
    return titles.get(name) or f"only {PURPOSES[name.removeprefix('only_')]}"
