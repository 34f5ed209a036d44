"""Parameter-space saliency: which filters of a network are to blame for its loss on a sample.

Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021).

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
>>> filter_profiles(model, torch.ones(5, 1, 3, 3), torch.zeros(5, dtype=torch.int64)).shape
torch.Size([5, 4])
"""

from salcore.parameter_space.effects import Effect, order
from salcore.parameter_space.filters import FilterTable, Layer
from salcore.parameter_space.finetuning import Tuned, fine_tune
from salcore.parameter_space.input_space import input_space_saliency
from salcore.parameter_space.masking import masking_effect, most_salient_outside, paired_test, random_outside
from salcore.parameter_space.profiles import filter_profiles, filter_table
from salcore.parameter_space.pruning import prune, turned_off
from salcore.parameter_space.statistics import ProfileStatistics

__all__ = [
    "Effect",
    "FilterTable",
    "Layer",
    "ProfileStatistics",
    "Tuned",
    "filter_profiles",
    "filter_table",
    "fine_tune",
    "input_space_saliency",
    "masking_effect",
    "most_salient_outside",
    "order",
    "paired_test",
    "prune",
    "random_outside",
    "turned_off",
]
