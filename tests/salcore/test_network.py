"""What a network is given and asked for, the same for everything that explains one."""

import pytest
import torch
from torch import nn

from salcore.attribution import METHODS
from salcore.network import following, logits_of, require_apart, require_classes, require_integers
from salcore.parameter_space import filter_profiles

INPUTS, TARGETS = torch.randn(3, 2, 8, 8), torch.tensor([0, 1, 0])


def batch_normed(**settings):
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **settings), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "input_space_saliency"])  # made of profiles
def test_samples_that_depend_on_one_another_are_not_explained(name):
    model = batch_normed(track_running_stats=False)
    with pytest.raises(ValueError, match="`model`: expected samples that do not depend on one another"):
        METHODS[name](model, INPUTS, TARGETS)
    with pytest.raises(ValueError, match="`model`: expected samples that do not depend on one another"):
        filter_profiles(model, INPUTS, TARGETS)


def test_running_statistics_and_those_of_one_sample_keep_samples_apart():
    require_apart(batch_normed())
    require_apart(nn.InstanceNorm2d(4))


def test_inputs_follow_the_network_and_their_history_stays_behind():
    model, given = nn.Linear(2, 2, dtype=torch.float64), torch.ones(1, 2, requires_grad=True)
    found = following(model, given * 2)
    assert (found.dtype, found.requires_grad) == (torch.float64, False)
    assert following(nn.ReLU(), given).data_ptr() == given.data_ptr()
    assert following(nn.ReLU(), given, copy=True).data_ptr() != given.data_ptr()
    with torch.inference_mode():
        made = torch.ones(1, 2)
    assert not following(nn.ReLU(), made).is_inference()


def test_numbers_without_fractions_are_refused_where_nothing_says_which_they_should_be():
    pixels = torch.ones(1, 2, dtype=torch.uint8)
    assert following(nn.Linear(2, 2), pixels).dtype == torch.float32
    with pytest.raises(ValueError, match="`inputs`: expected floating point numbers, got"):
        METHODS["gradient"](nn.Flatten(), pixels, torch.tensor([0]))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ((torch.ones(3, 2),), r"as one tensor \(N, K\), got tuple"),
        (torch.ones(3), r"of shape \(3, K\), got \(3,\)"),
        (torch.ones(2, 2), r"of shape \(3, K\), got \(2, 2\)"),
    ],
)
def test_logits_are_one_tensor_with_a_row_for_each_sample(output, words):
    assert logits_of(torch.ones(3, 2), 3).shape == (3, 2)
    with pytest.raises(ValueError, match=f"`model`: expected logits {words}"):
        logits_of(output, 3)


def test_classes_are_integers_and_among_those_there_are():
    require_integers("targets", TARGETS, INPUTS)
    require_classes("targets", TARGETS, 2)
    require_classes("targets", TARGETS[:0], 2)
    for wrong in (TARGETS[:2], TARGETS.float(), TARGETS.tolist()):
        with pytest.raises(ValueError, match="`targets`: expected"):
            require_integers("targets", wrong, INPUTS)
    for wrong in (TARGETS - 1, TARGETS + 1):
        with pytest.raises(ValueError, match="`targets`: expected classes from 0 to 1, got"):
            require_classes("targets", wrong, 2)
