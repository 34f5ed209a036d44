"""In which precision a network's passes compute."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def bfloat16_passes(network: nn.Module, device: torch.device) -> Iterator[None]:
    """A block in which the network's forward passes, and so their gradients, are by bfloat16 kernels.

    The logits are float32 again, so that a method's own sums are. What it takes from inside the network is not.
    """
    half = torch.autocast(device.type, torch.bfloat16)

    def begin(module: nn.Module, inputs: tuple) -> None:
        half.__enter__()

    def end(module: nn.Module, inputs: tuple, logits: object) -> Tensor | None:
        half.__exit__(None, None, None)
        return logits.to(torch.float32) if isinstance(logits, Tensor) else None  # None, as of a pass that failed: as is

    hooks = network.register_forward_pre_hook(begin), network.register_forward_hook(end, always_call=True)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def at_least_float32(values: Tensor) -> Tensor:
    """Numbers in float32, or in float64 where they are: what sums them, or their exponentials, needs it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def whole_float32() -> Iterator[None]:
    """A block in which a GPU's convolutions do not round what is float32 to ten bits (TF32), as cuDNN else does."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch has it, untyped
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def emulates_bfloat16() -> bool:
    """Whether this processor is known to compute in bfloat16 by way of float32, some ten times as slowly."""
    if platform.machine() != "x86_64" or not CPUINFO.exists():
        return False
    return not {"avx512_bf16", "amx_bf16"} & set(CPUINFO.read_text().split())


CPUINFO = Path("/proc/cpuinfo")
"""Where Linux says what a processor can do."""
