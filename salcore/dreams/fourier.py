"""Images as Fourier coefficients of colours that do not correlate, so that all frequencies move at one pace.

A pixel image under gradient ascent grows noise of the highest frequencies. Coefficients that are scaled as those of
photographs are, by 1 / |f|, and colours along the axes on which photographs vary, keep the objective and change the
path that leads to it.

Source: Feature Visualization (Olah, Mordvintsev and Schubert, Distill 2017), section on preconditioning.
"""

import torch
from torch import Generator, Tensor

from salcore.seeds import ON_CPU

START = 0.01
"""Standard deviation of the real and of the imaginary parts at the start."""
CONTRAST = 4.0
"""What the inverse transform is divided by."""
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Root of the covariance of colours in photographs: rows are red, green, blue; columns the axes of variation."""


def start(shape: tuple[int, int, int], generator: Generator) -> Tensor:
    """The coefficients of one image of `shape` (C, H, W) before the first step, N(0, 0.01^2): (C, H, W // 2 + 1, 2).

    The last axis is real and imaginary part. float32, drawn on the CPU.
    """
    channels, height, width = shape
    return START * torch.randn((channels, height, width // 2 + 1, 2), generator=generator, **ON_CPU)


def render(spectrum: Tensor, width: int) -> Tensor:
    """Images (N, C, H, width) in (0, 1) of coefficients (N, C, H, width // 2 + 1, 2).

        image = sigmoid(M irfft2(spectrum / max(|f|, 1 / max(H, W))) / 4)

    with f in cycles per pixel, the transform orthonormal, and M = S / (largest column norm of S), S = `COLOURS`, for
    three channels, which are red, green and blue. Grey images have no colours that could correlate, and of other
    numbers of channels nothing is known: there M is the identity, and each channel is by itself.
    """
    size = (spectrum.shape[-3], width)
    scaled = torch.view_as_complex(spectrum) * frequency_scale(size, like=spectrum)
    pixels = torch.fft.irfft2(scaled, s=size, norm="ortho") / CONTRAST
    if pixels.shape[1] == 3:
        pixels = torch.einsum("ck,nkhw->nchw", colour_matrix(like=spectrum), pixels)
    return pixels.sigmoid()


def frequency_scale(size: tuple[int, int], *, like: Tensor) -> Tensor:
    """1 / max(|f|, 1 / max(H, W)) of every coefficient, (H, W // 2 + 1): the mean has the scale of the first wave."""
    height, width = size
    made = {"dtype": like.dtype, "device": like.device}
    vertical, horizontal = torch.fft.fftfreq(height, **made), torch.fft.rfftfreq(width, **made)
    return torch.hypot(vertical[:, None], horizontal[None]).clamp(min=1 / max(size)).reciprocal()


def colour_matrix(*, like: Tensor) -> Tensor:
    """M (3, 3), from decorrelated axes to red, green and blue: its longest column has norm 1."""
    root = torch.tensor(COLOURS, dtype=like.dtype, device=like.device)
    return root / torch.linalg.vector_norm(root, dim=0).max()
