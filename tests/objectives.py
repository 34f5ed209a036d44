"""Objectives called as training calls them."""

from types import SimpleNamespace

from salcore.data.batches import Batch
from salcore.objectives import OBJECTIVES

PLAIN = tuple(name for name in OBJECTIVES if name != "attention")
"""Those that every network has: attention is taught to language models alone."""


def loss(name, model, inputs, labels, *, guidance, generator, valid=None, kind="images"):
    training = SimpleNamespace(guidance=guidance)
    return OBJECTIVES[name](model, Batch(inputs, labels, valid), training=training, generator=generator, kind=kind)
