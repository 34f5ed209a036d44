"""Feature visualisation: the image that one network, or a whole ensemble on average, takes for a class most.

>>> import torch
>>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
>>> images = dream([network], [0, 1], shape=(1, 8, 8), mean=[0.5], std=[0.2], steps=2)
>>> images.shape, bool((0 < images.min()) & (images.max() < 1))
(torch.Size([2, 1, 8, 8]), True)

Sources: Feature Visualization (Olah, Mordvintsev and Schubert, Distill 2017); Initialization Noise in Image Gradients
and Saliency Maps (Woerl et al., 2023), section 4.4, for ensembles.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salcore.attribution.autograd import accumulator, derivative, prepared, select
from salcore.dreams import fourier, transforms
from salcore.seeds import generator

__all__ = ["dream", "mean_gradient"]

_START, _VIEW = 0, 1
"""What random numbers are drawn for."""


def dream(
    networks: Sequence[nn.Module],
    targets: Sequence[int],
    *,
    shape: tuple[int, int, int],
    mean: np.ndarray | Sequence[float],
    std: np.ndarray | Sequence[float],
    steps: int = 512,
    learning_rate: float = 0.05,
    seed: int = 0,
    on_step: Callable[[int, Tensor], None] = lambda step, logits: None,
) -> Tensor:
    """Images `(K, C, H, W)` in (0, 1), one for each of K `targets`, that raise the mean logit of M networks.

        maximise over z:    1/M sum_m f_m((T(image(z)) - mean) / std)_target        by Adam

    `image` is `fourier.render`; the view T is drawn anew in each step, and is one for all networks and images. All
    images start alike, and draws depend on `seed` and step alone, so that an image does not depend on what else is
    dreamt. `mean` and `std` `(C,)` normalise pixels in [0, 1] as in training. The networks' gradients are added up one
    after the other, so memory does not grow with their number; each is left as it was found.

    `on_step` hears the number of steps done and the mean logits `(K,)` of the view that the step was made by. Images
    have the first network's device and dtype, float32 at the least.

    Raises ValueError for arguments that do not fit each other, and for gradients that are not finite.
    """
    _check(networks, targets, shape, steps, learning_rate)
    with torch.inference_mode(False), torch.enable_grad():
        made = _kind(networks[0])
        shifted, width = _per_channel("mean", mean, shape, made), _per_channel("std", std, shape, made)
        if not bool((width > 0).all()):
            raise ValueError(f"`std`: expected positive numbers, got {width.flatten().tolist()}")
        classes = torch.tensor(targets, dtype=torch.int64)
        first = fourier.start(shape, generator(seed, _START)).to(**made)
        spectrum = first.repeat(len(classes), 1, 1, 1, 1).requires_grad_()
        optimizer = torch.optim.Adam([spectrum], lr=learning_rate)
        for step in range(1, steps + 1):
            view = transforms.draw(shape[1:], generator(seed, _VIEW, step))
            inputs = (transforms.look(fourier.render(spectrum, shape[2]), view) - shifted) / width
            logits, slope = mean_gradient(networks, inputs, classes)
            if not bool(torch.isfinite(slope).all()):
                raise ValueError(f"`networks`: expected finite gradients, got NaN or infinity in step {step}")
            (spectrum.grad,) = torch.autograd.grad(inputs, spectrum, -slope)
            optimizer.step()
            on_step(step, logits)
        return fourier.render(spectrum.detach(), shape[2])


def mean_gradient(networks: Sequence[nn.Module], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over networks of each target's logit (K,), and its derivative by the inputs, (K, C, H, W) like them.

    One network after the other is asked, in evaluation mode and on its own device.
    """
    slope = accumulator(inputs.detach())
    logits = slope.new_zeros(len(inputs))
    for network in networks:
        with prepared(network, inputs, targets) as (own, classes):
            place = own.requires_grad_()
            selected = select(network(place.clone()), classes)  # a copy: the first layer may work in place
            slope += derivative(selected, place).to(slope)
            logits += selected.detach().to(logits)
    return logits / len(networks), slope / len(networks)


def _check(
    networks: Sequence[nn.Module], targets: Sequence[int], shape: Sequence[int], steps: int, learning_rate: float
) -> None:
    if not networks:
        raise ValueError("`networks`: expected at least one network, got none")
    if not len(targets) or min(targets) < 0:
        raise ValueError(f"`targets`: expected at least one class, counted from 0, got {list(targets)}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"`shape`: expected channels, height and width, got {tuple(shape)}")
    if steps < 1:
        raise ValueError(f"`steps`: expected 1 or more, got {steps}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate`: expected a positive number, got {learning_rate}")


def _kind(network: nn.Module) -> dict[str, Any]:
    """Type and device of the images: Fourier transforms and sums want float32 at the least."""
    reference = next((value for value in network.parameters() if value.is_floating_point()), torch.zeros(()))
    return {"dtype": torch.promote_types(reference.dtype, torch.float32), "device": reference.device}


def _per_channel(
    name: str, values: np.ndarray | Sequence[float], shape: tuple[int, int, int], made: dict[str, Any]
) -> Tensor:
    """A number for each channel as (C, 1, 1)."""
    if len(values) != shape[0]:
        raise ValueError(f"`{name}`: expected a number for each of {shape[0]} channels, got {len(values)}")
    return torch.tensor([float(value) for value in values], **made)[:, None, None]
