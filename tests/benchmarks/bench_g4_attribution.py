"""G4: attribution against Captum 0.9, the same maps of the same batch by both.

`python -m tests.benchmarks g4`, ten minutes, one thread, float32, batches of 64 images of 3 x 32 x 32. Captum runs
twice: as published (its defaults: all steps of a method in one batch, LIME and KernelSHAP image by image and mask by
mask) and tuned (passes of 64 rows where it has a setting for that). Steps, draws and masks are as many for both.

- gradient family (gradient, input x gradient, integrated gradients, SmoothGrad, GradCAM, GradientSHAP): at least 1.3;
- DeepLIFT, on networks that Captum is right on (a module for each activation, no max-pooling beside it): at least 1.8;
- LIME and KernelSHAP: at least 10 against its defaults and 2 against its tuned setting;
- all nine together: at least 3.

`small_cnn` for all of them, LIME and KernelSHAP also at 1 x 28 x 28; ResNet-18, where convolutions leave no room,
beside it for the gradient family.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cached_property, partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: one thread, as a slot has

import torch
from torch import Tensor, nn

from salcore import seeds
from salcore.attribution import METHODS
from salcore.device import pin
from salcore.models import build
from salcore.models.quick import quick
from salcore.spec import ModelSpec
from tests.benchmarks import harness

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum import attr

BATCH, CLASSES, ROWS = 64, 10, 64
STEPS, DRAWS, SET, MASKS, CELLS = 32, 16, 4, 64, 16
SETTINGS: dict[str, dict[str, object]] = {
    "gradient": {},
    "input_x_gradient": {},
    "integrated_gradients": {"num_steps": STEPS},
    "smoothgrad": {"num_samples": DRAWS},
    "gradcam": {},
    "gradient_shap": {"num_samples": DRAWS},
    "deeplift": {},
    "lime": {"num_superpixels": CELLS, "num_samples": MASKS, "penalty": "lasso", "alpha": 0.01},
    "kernel_shap": {"num_superpixels": CELLS, "num_samples": MASKS},
}
TUNABLE = {"integrated_gradients", "smoothgrad", "gradient_shap", "lime", "kernel_shap"}
FAMILY = ("gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "gradcam", "gradient_shap")


class Case:
    """A network, a batch, and every method by both libraries."""

    def __init__(self, network: ModelSpec, layer: str, shape: tuple[int, int, int] = (3, 32, 32)) -> None:
        self.layer, self.shape = layer, shape
        with seeds.forked(0):
            self.model = build(network, input_shape=shape, classes=CLASSES).eval()
        self.quick = quick(deepcopy(self.model), network)
        self.inputs = torch.randn(BATCH, *shape, generator=seeds.generator(1))
        self.targets = torch.arange(BATCH) % CLASSES
        self.baselines = torch.randn(SET, *shape, generator=seeds.generator(2))

    def ours(self, *names: str) -> Callable[[], list[Tensor]]:
        """The methods one after the other, as the explain stage runs them."""
        return lambda: [
            METHODS[name](self.quick, self.inputs, self.targets, **SETTINGS[name], **self._given(name))
            for name in names
        ]

    def captum(self, *names: str, tuned: bool = False) -> Callable[[], list[Tensor]]:
        """The same by Captum, each call by an object of its own, as its tutorials have it."""
        return lambda: [self._captum(name, tuned) for name in names]

    def _given(self, name: str) -> dict[str, object]:
        return {"gradcam": {"layer": self.layer}, "gradient_shap": {"baselines": self.baselines}}.get(name, {})

    @cached_property
    def _cells(self) -> Tensor:
        """Labels (1, 1, H, W) of a grid of 4 x 4 superpixels."""
        places = torch.arange(self.shape[1]) * 4 // self.shape[1]
        return (4 * places[:, None] + places)[None, None]

    def _captum(self, name: str, tuned: bool) -> Tensor:
        model, common = self.model, {"target": self.targets}
        pixels = self.inputs.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of hooks, and of inputs that ask for no gradient
            if name == "gradient":
                return attr.Saliency(model).attribute(pixels, abs=False, **common)
            if name == "input_x_gradient":
                return attr.InputXGradient(model).attribute(pixels, **common)
            if name == "integrated_gradients":
                size = ROWS if tuned else None
                method = attr.IntegratedGradients(model)
                return method.attribute(self.inputs, n_steps=STEPS, internal_batch_size=size, **common)
            if name == "smoothgrad":
                size = 1 if tuned else None
                method = attr.NoiseTunnel(attr.Saliency(model))
                settings = {"nt_samples": DRAWS, "nt_samples_batch_size": size, "abs": False}
                return method.attribute(self.inputs, **settings, **common)
            if name == "gradient_shap":
                return self._captum_gradient_shap(tuned)
            if name == "gradcam":
                module = dict(model.named_modules())[self.layer]
                small = attr.LayerGradCam(model, module).attribute(self.inputs, **common)
                return attr.LayerAttribution.interpolate(small, self.shape[1:], "bilinear")
            if name == "deeplift":
                return attr.DeepLift(model).attribute(self.inputs, **common)
            return self._captum_masks(name, tuned)

    def _captum_gradient_shap(self, tuned: bool) -> Tensor:
        method = attr.GradientShap(self.model)
        if not tuned:
            return method.attribute(self.inputs, self.baselines, n_samples=DRAWS, target=self.targets)
        one = [method.attribute(self.inputs, self.baselines, n_samples=1, target=self.targets) for _ in range(DRAWS)]
        return torch.stack(one).mean(0)

    def _captum_masks(self, name: str, tuned: bool) -> Tensor:
        """One image at a time: it takes no more, since the masks of a batch would share one regression."""
        method = attr.Lime(self.model) if name == "lime" else attr.KernelShap(self.model)
        settings = {"n_samples": MASKS, "perturbations_per_eval": MASKS if tuned else 1, "feature_mask": self._cells}
        return torch.cat(
            [
                method.attribute(self.inputs[place : place + 1], target=target, **settings)
                for place, target in enumerate(self.targets.tolist())
            ]
        )

    def check(self, *names: str) -> None:
        """Raise unless both make the same maps; of methods that draw, unless they are near as they converge."""
        for name in names:
            if name in ("smoothgrad", "gradient_shap", "lime", "kernel_shap"):
                continue  # what they draw differs: `check_draws` compares them
            mine, theirs = self.ours(name)()[0], self.captum(name)()[0].detach()
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def check_draws(case: Case) -> None:
    """Raise unless the methods that draw agree where their draws do not matter, or on average where they do."""
    model, inputs, targets = case.model, case.inputs[:8], case.targets[:8]
    mine = METHODS["smoothgrad"](model, inputs, targets, noise_level=0.0, num_samples=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tunnel = attr.NoiseTunnel(attr.Saliency(model))
        theirs = tunnel.attribute(inputs, nt_samples=2, stdevs=0.0, abs=False, target=targets)
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
        shap = attr.GradientShap(model).attribute(inputs, case.baselines, n_samples=512, target=targets)
    _near(METHODS["gradient_shap"](model, inputs, targets, baselines=case.baselines, num_samples=512), shap, 0.3)
    linear = Case(ModelSpec(name="small_cnn"), "")
    linear.model = linear.quick = nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES))
    linear.inputs, linear.targets = inputs, targets
    for name, share in (("lime", 0.3), ("kernel_shap", 1e-2)):
        _near(linear.ours(name)()[0].expand_as(inputs), linear.captum(name)()[0], share)


def _near(mine: Tensor, theirs: Tensor, share: float) -> None:
    distance = float((mine - theirs).norm() / theirs.norm())
    assert distance < share, f"the maps differ by {distance:.2f} of their norm"


def rows() -> Iterator[harness.Row]:
    """Both networks, each method group against both settings of Captum."""
    small, resnet = ModelSpec(name="small_cnn"), ModelSpec(name="resnet18")
    cases = {
        "small CNN": Case(small, "features.relu2"),
        "small CNN at 1 x 28 x 28": Case(small, "features.relu2", (1, 28, 28)),
        "ResNet-18": Case(resnet, "layer3"),
    }
    first = cases["small CNN"]
    check_draws(first)
    groups: list[tuple[str, str, tuple[str, ...], float, float | None]] = [
        ("gradient family", "small CNN", FAMILY, 1.3, None),
        ("gradient family", "ResNet-18", FAMILY, 1.3, None),
        ("DeepLIFT", "small CNN", ("deeplift",), 1.8, None),
        *(("LIME", name, ("lime",), 10, 2) for name in ("small CNN", "small CNN at 1 x 28 x 28")),
        *(("KernelSHAP", name, ("kernel_shap",), 10, 2) for name in ("small CNN", "small CNN at 1 x 28 x 28")),
        ("all methods", "small CNN", tuple(SETTINGS), 3, None),
    ]
    for what, network, names, published, tuned in groups:
        case = cases[network]
        settings = {"as published": published} | ({"tuned": tuned} if set(names) & TUNABLE else {})
        for setting, goal in settings.items():
            yield harness.compare(
                f"G4 {what}, {network}, against Captum {setting}",
                case.ours(*names),
                case.captum(*names, tuned=setting == "tuned"),
                check=partial(case.check, *names),
                at_least=goal,
                detail=f"{BATCH} images, {STEPS} steps, {DRAWS} draws, {MASKS} masks of {CELLS} cells, one thread",
            )
    for name in FAMILY:
        yield harness.compare(
            f"G4 {name}, small CNN, against Captum as published",
            first.ours(name),
            first.captum(name),
            check=partial(first.check, name),
            detail=f"{BATCH} images, one thread",
        )


if __name__ == "__main__":
    pin(1)
    harness.record(list(rows()))
