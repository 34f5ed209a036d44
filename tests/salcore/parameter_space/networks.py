"""Profiles as the paper defines them, slowly, and networks to hold them against."""

from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional

from salcore.parameter_space import filter_profiles, filter_table
from salcore.seeds import forked

CLASSES = 5


def slow(model, inputs, labels, table):
    """Eq. 1 as it stands: one sample, the gradient of every parameter, its magnitude, its mean over each filter."""
    model = deepcopy(model).eval().requires_grad_(True)
    pairs = [(inputs[n : n + 1], labels[n : n + 1]) for n in range(len(inputs))]
    return torch.stack([magnitudes(model, *pair, table).detach() for pair in pairs])


def magnitudes(model, image, label, table):
    """The profile (P,) of one sample, to be differentiated."""
    parameters = dict(model.named_parameters())
    weights = [parameters.get(f"{layer.name}.weight", parameters.get(layer.name)) for layer in table.layers]
    loss = functional.cross_entropy(model(image), label)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, create_graph=True)
    found = [weight * 0 if each is None else each.abs() for weight, each in zip(weights, gradients, strict=True)]
    return torch.cat([_of_filters(*pair) for pair in zip(found, table.layers, strict=True)])


def _of_filters(magnitudes, layer):
    if layer.kind == "transposed convolution":  # (in, out of a group, ...): a filter takes all inputs of its group
        groups = layer.filters // magnitudes.shape[1]
        magnitudes = magnitudes.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return magnitudes.flatten(1).mean(1)


def agree(model, inputs, *, linear=False, rtol=1e-10):
    labels = torch.arange(len(inputs)) % CLASSES
    table = filter_table(model, inputs[:1], linear=linear)
    expected = slow(model, inputs, labels, table)
    found = filter_profiles(model, inputs, labels, linear=linear)
    assert found.dtype == expected.dtype
    assert bool((expected > 0).any())
    # What is zero but for rounding in a large filter's neighbour has no relative precision.
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * 1e-6 * expected.max().item())
    return table


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """What a test does to pictures of `shape`, with `parts` of its own, then a linear layer."""

    def __init__(self, middle, shape=(4, 9, 8), **parts):
        super().__init__()
        with forked(2):
            self.middle, self.shape = middle, shape
            for name, part in parts.items():
                setattr(self, name, part)
            self.double()
            self.head = nn.Linear(self.body(torch.randn(2, *shape).double()).shape[1], CLASSES).double()

    def body(self, x):
        return self.middle(self, x).flatten(1)

    def forward(self, x):
        return self.head(self.body(x).tanh())


def one(layer, shape=(4, 9, 8)):
    return Net(lambda m, x: m.layer(x), shape, layer=layer)


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)
