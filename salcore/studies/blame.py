"""What the studies of parameter-space saliency share: one trained run that all of them read."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from salcore.blame.results import Blame
from salcore.studies.networks import section

if TYPE_CHECKING:
    from salcore.runs import Run

SMALL: dict[str, Any] = {
    "data": {"cifar10": {"name": "cifar10", "train_samples": 20_000}},
    "network": "resnet18",
    "members": 2,
    "epochs": 8,
    "eval_samples": 1_000,
    "mistakes": 300,
    "pruned": [1, 2, 5, 10, 20, 30, 50, 75, 100],
    "tuned": [1, 2, 5, 10, 25, 50],
    "step": 0.03,
}
"""Two ResNet18s on 16,000 images of CIFAR-10; 4,000 standardise, 1,000 of the test part are neighbours."""

FULL: dict[str, Any] = SMALL | {
    "data": {
        "cifar10": {"name": "cifar10"},
        "imagenette": {"name": "imagenette", "image_size": 224},
    },
    "network": "resnet50",
    "members": 5,
    "epochs": 30,
    "eval_samples": 3_925,
    "mistakes": None,
    "tuned": [1, 10, 25, 50, 100, 150, 200, 265],
}
"""Five ResNet50s on all of CIFAR-10 and of Imagenette; up to 1 % of the filters are tuned, as in the paper."""


def ensembles(
    *,
    data: dict,
    network: str | dict,
    members: int,
    epochs: int,
    eval_samples: int,
    mistakes: int | None,
    pruned: list,
    tuned: list,
    step: float,
) -> dict[str, dict[str, Any]]:
    """Spec values of an ensemble for each set in `data`, by its name, with every experiment on its mistakes.

    A fifth of the training part is held out: it standardises, and its mistakes are studied. Neighbours are searched in
    the test part.
    """
    return {
        name: {
            "data": {"eval_samples": eval_samples, "validation_fraction": 0.2, **section(where)},
            "model": section(network),
            "ensemble": {"members": members},
            "training": {
                "epochs": epochs,
                "batch_size": 128,
                "optimizer": "sgd",
                "learning_rate": 0.1,
                "weight_decay": 5e-4,
                "augment": {"flip": True, "crop": 4},
            },
            "attribution": {"methods": [{"name": "input_space_saliency", "samples": 100}]},
            "parameters": {"mistakes": mistakes, "pruned": pruned, "tuned": tuned, "step": step},
        }
        for name, where in data.items()
    }


def blamed(runs: "Mapping[str, Run]") -> Iterator[tuple[str, Blame]]:
    """What each run came to."""
    for name, run in runs.items():
        yield name, Blame(run)
