"""Attribution methods by name, under one contract.

A method is `(model, inputs, targets, *, settings) -> Tensor`: inputs (N, ...), targets (N,) integers, maps of the
inputs' shape, signed where the method is. Inputs are images (N, C, H, W), series (N, F, T) or embedded texts (N, T, E);
methods in `FOR_IMAGES` take images alone and may give one map for all channels, (N, 1, H, W). A method explains logits
(`input_space_saliency` the filters behind a loss), follows the model's dtype and device, works in evaluation mode,
leaves the model and the caller's tensors as they were, and gives a sample the same map in whatever batch.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
>>> METHODS["gradient"](model, torch.zeros(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)).shape
torch.Size([5, 1, 2, 2])
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

from torch import Tensor, nn

from salcore.attribution.attention_rollout import attention_rollout
from salcore.attribution.baseline import Baselines
from salcore.attribution.completeness import residual, residual_over_set
from salcore.attribution.deeplift import deeplift
from salcore.attribution.deepshap import deepshap
from salcore.attribution.generic_attention import generic_attention
from salcore.attribution.gradcam import gradcam
from salcore.attribution.gradient import gradient
from salcore.attribution.gradient_shap import gradient_shap
from salcore.attribution.input_x_gradient import input_x_gradient
from salcore.attribution.integrated_gradients import integrated_gradients
from salcore.attribution.kernel_shap import kernel_shap, superpixel_residual
from salcore.attribution.lime import lime
from salcore.attribution.smoothgrad import smoothgrad
from salcore.errors import UserError
from salcore.parameter_space.input_space import input_space_saliency
from salcore.parameter_space.statistics import ProfileStatistics
from salcore.seeds import derive
from salcore.settings import Within, find_mistake, nearest, settings_of

__all__ = [
    "COMPLETE",
    "FOR_IMAGES",
    "METHODS",
    "check_settings",
    "inner_method",
    "inner_seed",
    "non_negative",
    "residual",
    "takes_statistics",
    "with_statistics",
]

Attribution = Callable[..., Tensor]


def _smoothgrad(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    of: str | dict[str, Any] | Attribution = "gradient",
    num_samples: Annotated[int, Within(1)] = 32,
    noise_level: Annotated[float, Within(0)] = 0.15,
    squared: bool = False,
    seed: Annotated[int, Within(0)] = 0,
    **settings: Any,
) -> Tensor:
    """`smoothgrad` around `of`: a name in `METHODS`, a mapping {name, settings}, or a callable.

    The remaining settings are the inner method's too; a mapping is for those that smoothgrad has itself. A method that
    is random draws from `inner_seed`: not the numbers that made the noise, and others where `seed` is another.
    """
    if callable(of):
        attribute, inner = of, settings
    else:
        name, inner = inner_method({"of": of, **settings})
        if name not in METHODS or name == "smoothgrad":
            others = [other for other in METHODS if other != "smoothgrad"]
            raise ValueError(f"`of`: expected one of {', '.join(others)}{nearest(str(name), others)}, got {name!r}")
        attribute = METHODS[name]
    if "seed" in settings_of(attribute):
        inner = {**inner, "seed": inner_seed(seed, inner)}
    return smoothgrad(
        model,
        inputs,
        targets,
        attribute=partial(attribute, **inner),
        num_samples=num_samples,
        noise_level=noise_level,
        squared=squared,
        seed=seed,
    )


def inner_seed(seed: int, inner: Mapping[str, Any]) -> int:
    """What a method inside smoothgrad draws from: a function of smoothgrad's seed and of its own."""
    return derive(seed, 1, inner.get("seed", 0))


def inner_method(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the method that smoothgrad's settings put inside, and its own settings, beside `of` or in it.

    >>> inner_method({"of": {"name": "lime", "num_samples": 99}, "penalty": "ridge", "num_samples": 4})
    ('lime', {'num_samples': 99, 'penalty': 'ridge'})
    """
    of, own = settings.get("of", "gradient"), settings_of(_smoothgrad)
    inside = dict(of) if isinstance(of, Mapping) else {"name": of}
    name = inside.pop("name", None)
    return name, inside | {key: value for key, value in settings.items() if key not in own}


def takes_statistics(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a method, or the one that smoothgrad puts inside, is standardised by statistics of filter profiles.

    >>> takes_statistics("smoothgrad", {"of": "input_space_saliency"})
    True
    """
    inner, _ = inner_method(settings) if name == "smoothgrad" else (name, settings)
    return inner == "input_space_saliency"


def with_statistics(name: str, settings: Mapping[str, Any], statistics: ProfileStatistics) -> dict[str, Any]:
    """The settings of such a method with the statistics of a network's profiles."""
    if name != "smoothgrad":
        return {**settings, "statistics": statistics}
    within, inner = inner_method(settings)
    own = {key: value for key, value in settings.items() if key in settings_of(_smoothgrad)}
    return own | {"of": {"name": within, **inner, "statistics": statistics}}


def _deepshap(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    baselines: Baselines = "uniform",
    num_baselines: Annotated[int, Within(1)] = 16,
    seed: Annotated[int, Within(0)] = 0,
) -> Tensor:
    """`deepshap` over `deeplift`; `num_baselines` is the size of a random set."""
    return deepshap(
        model, inputs, targets, attribute=deeplift, baselines=baselines, num_baselines=num_baselines, seed=seed
    )


METHODS: dict[str, Attribution] = {
    "gradient": gradient,
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": _smoothgrad,
    "gradcam": gradcam,
    "deeplift": deeplift,
    "deepshap": _deepshap,
    "gradient_shap": gradient_shap,
    "kernel_shap": kernel_shap,
    "lime": lime,
    "attention_rollout": attention_rollout,
    "generic_attention": generic_attention,
    "input_space_saliency": input_space_saliency,
}

FOR_IMAGES = frozenset({"gradcam", "kernel_shap", "lime", "attention_rollout", "generic_attention"})
"""The methods that explain images alone. The others take inputs of any shape."""

COMPLETE: dict[str, Attribution] = {
    "integrated_gradients": residual,
    "deeplift": residual,
    "deepshap": residual_over_set,
    "gradient_shap": residual_over_set,
    "kernel_shap": superpixel_residual,
}
"""The methods whose maps sum to f(x) - f(b), with what is left over: a run computes it for every map."""

_NON_NEGATIVE = frozenset({"attention_rollout", "generic_attention"})


def non_negative(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the method's maps are never negative, so that noise alone lifts their SNR above 1.

    >>> non_negative("gradcam", {"relu": True}), non_negative("smoothgrad", {"of": "gradcam"})
    (True, False)
    """
    if name == "smoothgrad" and settings.get("squared", False):
        return True
    inner, settings = inner_method(settings) if name == "smoothgrad" else (name, settings)
    return inner in _NON_NEGATIVE or (inner == "gradcam" and bool(settings.get("relu", False)))


_UNFIT_BASELINES = {"series": ("blurred",), "text": ("blurred", "mean")}
"""Of a text, whose first axis are the words, the mean along the others would be each word's own."""


def check_settings(name: str, settings: Mapping[str, Any], kind: str = "images") -> None:
    """Raise UserError, with the key `attribution.methods`, for an unknown method or settings that it does not take.

    So too for a method or a baseline that does not suit the `kind` of data, images, series or text. The settings of
    `smoothgrad` are its own and those of the method `of`, which has to be another one.
    """
    key = "attribution.methods"
    if name not in METHODS:
        raise UserError(key, f"one of {', '.join(METHODS)}{nearest(name, METHODS)}", name)
    given = {name: settings}
    if name == "smoothgrad":
        own = settings_of(METHODS[name])
        within, inner = inner_method(settings)
        others = [other for other in METHODS if other != name]
        if within not in others:
            raise UserError(
                key, f"`of` of {name} to be one of {', '.join(others)}{nearest(str(within), others)}", within
            )
        given = {name: {setting: value for setting, value in settings.items() if setting in own}, within: inner}
    for method, values in given.items():
        if mistake := find_mistake(METHODS[method], values):
            raise UserError(key, f"`{mistake.setting}` of {method} to be {mistake.expected}", mistake.got)
        _check_kind(method, values, kind)


def _check_kind(method: str, settings: Mapping[str, Any], kind: str) -> None:
    key = "attribution.methods"
    if kind != "images" and method in FOR_IMAGES:
        fitting = ", ".join(name for name in METHODS if name not in FOR_IMAGES)
        raise UserError(key, f"methods for {kind}: {fitting}", method)
    for setting in ("baseline", "baselines"):
        if settings.get(setting) in _UNFIT_BASELINES.get(kind, ()):
            raise UserError(key, f"`{setting}` of {method} to be one for {kind}, such as zero", settings[setting])
