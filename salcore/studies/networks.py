"""The ensembles of Woerl et al.'s Table 1, which several studies look at: networks, data sets, eight methods."""

import re
from collections.abc import Mapping
from typing import Any

from salcore.errors import UserError

INTERMEDIATE = {"resnet": "layer2", "wide_resnet": "layer2", "vgg19": "features.18", "small_cnn": "features.relu2"}
"""Layer of the intermediate GradCAM by network, or family of ResNets: in these the second of four blocks, as in the
paper; in VGG19 the third pooling, whose output is as large."""

SMALL: dict[str, Any] = {
    "networks": ["resnet18"],
    "data": {
        "cifar10": {"name": "cifar10", "train_samples": 10_000},
        "imagenette": {"name": "imagenette", "image_size": 128, "train_samples": 2_000, "eval_samples": 100},
    },
    "members": 6,
    "epochs": 5,
    "eval_samples": 200,
    "few": 10,
    "precision": "bfloat16",
    "perturbations": 256,
}
"""Six ResNet18s on a part of either set: two CPU cores, half an hour."""

FULL: dict[str, Any] = {
    "networks": ["vgg19", "resnet18", "resnet101"],
    "data": {
        "cifar10": {"name": "cifar10", "eval_samples": 10_000},
        "imagenette": {"name": "imagenette", "image_size": 128, "eval_samples": 3_925},
    },
    "members": 30,
    "epochs": 30,
    "eval_samples": 1_000,
    "few": 50,
    "precision": "float32",
    "perturbations": 1000,
}
"""The paper's own setting; the number of epochs is ours, as the paper gives none."""


def ensembles(
    *,
    networks: list,
    data: dict,
    members: int,
    epochs: int,
    eval_samples: int,
    few: int,
    precision: str,
    perturbations: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of every network on every data set, by `<data>-<network>`.

    `networks` are names or mappings of the spec's section `model`; `data` maps a name (the paper's are cifar10 and
    imagenette) to the spec's section `data`; `few` is the number of samples of the dearest methods and `perturbations`
    how often LIME and KernelSHAP ask. VGG19 has softplus on imagenette, as in the paper.
    """
    found: dict[str, dict[str, Any]] = {}
    for data_name, where in data.items():
        for network in networks:
            model = section(network)
            name = str(model["name"])
            if name.startswith("vgg") and data_name == "imagenette":
                model.setdefault("activation", "softplus")
            if not (name.startswith("small") or name.startswith("python:") or name == "mnist_cnn"):
                model.setdefault("initialization", "he")
            explained = {"eval_samples": eval_samples, **section(where)}
            key = f"{data_name}-{re.sub(r'[^A-Za-z0-9]+', '_', name)}"
            if key in found:
                raise UserError("study.networks", "networks of different names: one study for each setting", networks)
            found[key] = {
                "data": explained,
                "model": model,
                "ensemble": {"members": members},
                "training": {
                    "epochs": epochs,
                    "batch_size": 64,
                    # Without batch-norm VGG does not leave chance at the paper's rate.
                    "learning_rate": 0.001 if name.startswith("vgg") and "bn" not in name else 0.01,
                    "precision": precision,
                },
                "attribution": {"methods": methods(name, explained["eval_samples"], few, perturbations)},
            }
    return found


def section(value: Mapping[str, Any] | str) -> dict[str, Any]:
    """A section of a spec, of which a bare name may stand for the part of that name.

    >>> section("resnet18")
    {'name': 'resnet18'}
    """
    return dict(value) if isinstance(value, Mapping) else {"name": value}


def methods(network: str, eval_samples: int, few: int, perturbations: int) -> list[Any]:
    """The paper's eight methods; three of ours may stand for its SHAP, since it does not say which one it used.

    As in Table 1, integrated gradients see a tenth of the samples, SmoothGrad and LIME a few; the other two that ask
    the network many times are cut as well.
    """
    family = re.sub(r"\d.*", "", network) if "resnet" in network else network
    intermediate = INTERMEDIATE.get(family)
    dear = {"samples": min(few, eval_samples)}
    asked = {"num_samples": perturbations, "num_superpixels": 49, **dear}
    return [
        "gradient",
        {"name": "integrated_gradients", "num_steps": 16, "samples": max(dear["samples"], eval_samples // 10)},
        {"name": "smoothgrad", "as": "smoothgrad_ig", "of": "integrated_gradients", "num_samples": 8, "num_steps": 8}
        | dear,
        {"name": "gradcam", "as": "gradcam_top"},
        *([{"name": "gradcam", "as": "gradcam_intermediate", "layer": intermediate}] if intermediate else []),
        {"name": "deepshap", "baselines": "training", "num_baselines": 8} | dear,
        {"name": "gradient_shap", "baselines": "training", "num_samples": 16} | dear,
        {"name": "kernel_shap"} | asked,
        "deeplift",
        {"name": "lime"} | asked,
    ]
