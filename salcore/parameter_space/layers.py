"""Profiles layer by layer: how much of the blame lies how deep."""

import numpy as np

from salcore.parameter_space.filters import FilterTable


def layer_means(profiles: np.ndarray, table: FilterTable) -> np.ndarray:
    """The mean of profiles (N, P) over the filters of each of the L layers, (N, L) float64, in the table's order.

    Raises ValueError for profiles of another number of filters.
    """
    if profiles.shape[-1] != len(table):
        raise ValueError(f"`profiles`: expected those of {len(table)} filters, got {profiles.shape[-1]}")
    columns = table.slices().values()
    return np.stack([profiles[:, where].mean(1, dtype=np.float64) for where in columns], axis=1)


def sorted_within_layers(profile: np.ndarray, table: FilterTable) -> np.ndarray:
    """One profile (P,) with the filters of each layer in descending order, the layers one after the other by depth.

    Layers that the output does not depend on are left out. Levin et al., 2021, Fig. 1 and 2.
    """
    return np.concatenate([np.sort(profile[where])[::-1] for _, where in by_depth(table)])


def by_depth(table: FilterTable) -> list[tuple[str, slice]]:
    """Names and columns of the layers that the output depends on, in the order in which the network runs them."""
    slices = table.slices()
    used = [layer for layer in table.layers if layer.depth is not None]
    return [(layer.name, slices[layer.name]) for layer in sorted(used, key=lambda layer: layer.depth or 0)]


def depth_contrast(means: np.ndarray, table: FilterTable) -> np.ndarray:
    """How much deeper than early a sample's profile is, (N,): the mean of the deep half's layers less the early half's.

    `means` (N, L) are `layer_means`. The early half takes the middle layer of an odd number.

    Raises ValueError for a network of a single layer.
    """
    order = [
        place
        for _, place in sorted((layer.depth, n) for n, layer in enumerate(table.layers) if layer.depth is not None)
    ]
    if len(order) < 2:
        raise ValueError(f"`table`: expected two or more layers that the output depends on, got {len(order)}")
    half = (len(order) + 1) // 2
    return means[:, order[half:]].mean(1) - means[:, order[:half]].mean(1)
