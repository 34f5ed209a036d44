"""What a method cannot do without, beside the network and its inputs."""

import numpy as np

from salcore.parameter_space import FilterTable, Layer, ProfileStatistics
from salcore.parameter_space.filters import layer_name, module_layers


def needed(name, model):
    """The settings that have no default, as a test that goes over all methods gives them."""
    return {"statistics": even(model), "filters": 2} if name == "input_space_saliency" else {}


def even(model):
    """Statistics that leave the profiles of a network's convolutions as they are."""
    kinds = module_layers(model, linear=False)
    layers = [
        Layer(
            name=layer_name(each),
            kind=kinds[weight][0],
            shape=tuple(weight.shape),
            filters=kinds[weight][1],
            depth=None,
        )
        for each, weight in model.named_parameters()
        if weight in kinds
    ]
    table = FilterTable(layers=tuple(layers))
    return ProfileStatistics(table=table, mean=np.zeros(len(table)), deviation=np.ones(len(table)), count=2)
