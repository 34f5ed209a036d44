"""Remove and retrain: what the network that is trained anew is shown, in training and in evaluation."""

import pytest
import torch
from torch import nn

from salcore.faithfulness import Explained, remove_and_retrain


class Fixed(nn.Module):
    """Class 1 where the pixels sum to more than a threshold; keeps what it was shown."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold, self.seen = threshold, []

    def forward(self, inputs):
        self.seen.append(inputs.clone())
        evidence = inputs.flatten(1).sum(1) - self.threshold
        return torch.stack([torch.zeros_like(evidence), evidence], 1)


def part(count, seed, attributions=True):
    draw = torch.Generator().manual_seed(seed)
    inputs, maps = torch.randn(2, count, 2, 3, 4, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 2, (count,), generator=draw)
    return Explained(inputs=inputs, labels=labels, attributions=maps if attributions else None)


def by_hand(inputs, maps, count, constant):
    """Each image without its `count` pixels of the largest |channel mean|, one constant per channel instead."""
    result = inputs.clone()
    for sample in range(len(inputs)):
        score = {(r, c): abs(maps[sample, :, r, c].mean().item()) for r in range(3) for c in range(4)}
        for row, column in sorted(score, key=lambda place: -score[place])[:count]:
            result[sample, :, row, column] = constant
    return result


def test_training_and_evaluation_inputs_lose_the_same_share_to_the_training_mean_and_each_network_is_new():
    train, evaluation = part(9, 1), part(5, 2)
    given, models = [], []

    def retrain(inputs, labels, index):
        assert torch.equal(labels, train.labels)
        given.append(inputs.clone())
        models.append(Fixed(index - 1.0))
        return models[-1]

    curve = remove_and_retrain(train, evaluation, retrain, fractions=(0.3, 0.5, 0.99), batch_size=4)
    constant = torch.stack([train.inputs[:, channel].mean() for channel in range(2)])
    assert curve.fractions == (0.0, 0.3, 0.5, 0.99)
    for index, count in enumerate((0, 3, 6, 11)):  # floors of 12 times the fraction
        torch.testing.assert_close(given[index], by_hand(train.inputs, train.attributions, count, constant))
        shown = by_hand(evaluation.inputs, evaluation.attributions, count, constant)
        torch.testing.assert_close(torch.cat(models[index].seen), shown)
        hits = [(image.sum() > index - 1) == label for image, label in zip(shown, evaluation.labels, strict=True)]
        assert curve.accuracy[index] == pytest.approx(sum(map(int, hits)) / 5)


def test_random_rankings_are_nested_and_differ_between_the_parts():
    train, evaluation = part(6, 1, attributions=False), part(6, 1, attributions=False)
    given, model = [], Fixed(0.0)

    def retrain(inputs, labels, index):
        given.append((inputs != train.inputs).all(1))
        return model

    remove_and_retrain(train, evaluation, retrain, fractions=(0.25, 0.75), fill="zero", seed=3)
    assert [int(mask.sum()) for mask in given] == [0, 18, 54]
    assert (given[1] <= given[2]).all()
    assert not torch.equal(given[1], (model.seen[1] == 0).all(1))


def test_the_mean_of_padded_sequences_is_over_their_steps():
    inputs = torch.tensor([[[1.0, 3.0, 0.0]], [[5.0, 0.0, 0.0]]], dtype=torch.float64)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    samples = Explained(inputs=inputs, labels=torch.tensor([0, 1]), attributions=inputs, valid=valid)
    given = []
    remove_and_retrain(samples, samples, lambda x, y, i: given.append(x) or Fixed(0.0), kind="series", fractions=(1.0,))
    assert given[1].tolist() == [[[3, 3, 0]], [[3, 0, 0]]]


def test_the_callers_tensors_stay_as_they_are():
    train = part(4, 1)
    before = train.inputs.clone()
    remove_and_retrain(train, train, lambda x, y, i: Fixed(x.zero_().sum().item()), fractions=(0.5,))
    assert torch.equal(train.inputs, before)
