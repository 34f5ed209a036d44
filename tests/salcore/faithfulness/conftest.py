"""Small networks whose answers can be worked out one sample at a time."""

import pytest
import torch
from torch import nn


class Noisy(nn.Module):
    """An image network that answers otherwise in training mode: dropout and batch-norm."""

    def __init__(self, channels=2, size=6, classes=3):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(channels), nn.Dropout(0.5)
        self.linear = nn.Linear(channels * size * size, classes)

    def forward(self, inputs):
        return self.linear(self.drop(self.norm(inputs)).flatten(1))


class Fading(nn.Module):
    """A text network: logits of sum_t 0.8^t x_t over the words that count, so that order and length tell."""

    def __init__(self, width=3, classes=3):
        super().__init__()
        self.linear, self.drop = nn.Linear(width, classes), nn.Dropout(0.5)

    def forward(self, inputs, valid=None):
        weights = 0.8 ** torch.arange(inputs.shape[1], dtype=inputs.dtype)
        if valid is not None:
            weights = weights * valid
        return self.linear(self.drop((inputs * weights[..., None]).sum(1)))


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
        return model


@pytest.fixture
def noisy():
    return seeded(Noisy)


@pytest.fixture
def fading():
    model = seeded(Fading)
    model.linear.weight.data.mul_(4)
    return model


@pytest.fixture
def images():
    """Inputs (7, 2, 6, 6), labels (7,), attributions (7, 2, 6, 6)."""
    draw = torch.Generator().manual_seed(1)
    inputs, maps = torch.randn(2, 7, 2, 6, 6, generator=draw, dtype=torch.float64)
    return inputs, torch.tensor([0, 1, 2, 0, 1, 2, 0]), maps


@pytest.fixture
def texts():
    """Inputs (6, 9, 3) with padding of zeros, attributions (6, 9), valid (6, 9), query (6,)."""
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(6, 9, 3, generator=draw, dtype=torch.float64)
    maps = torch.randn(6, 9, generator=draw, dtype=torch.float64)
    lengths = torch.tensor([9, 7, 5, 4, 3, 8])
    valid = torch.arange(9) < lengths[:, None]
    return inputs * valid[..., None], maps, valid, torch.tensor([0, 2, 1, 0, 2, 3])
