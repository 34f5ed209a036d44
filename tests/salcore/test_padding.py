"""Padded sequences: what is bound to a batch, what a batch holds, and that padding enters no statistic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from salcore import shards
from salcore.data.batches import epoch_batches, inputs_of
from salcore.data.part import Data, Part
from salcore.explain import stored
from salcore.padding import Bound, bound, takes_valid
from salcore.reduce import reduce_range

LENGTHS = np.array([3, 5, 5, 1, 4, 2])


class Mean(nn.Module):
    """The mean over the steps that count, and where none are told, over all."""

    def forward(self, inputs, valid=None):
        if valid is None:
            return inputs.mean(-1)
        return (inputs * valid[:, None]).sum(-1) / valid.sum(1, keepdim=True)


def series(lengths=LENGTHS, steps=5):
    rng = np.random.default_rng(1)
    values = rng.normal(3, 2, (len(lengths), 2, steps)).astype(np.float32)
    part = Part(values=values, labels=np.arange(len(lengths)) % 2, index=np.arange(len(lengths)), lengths=lengths)
    mean, std = np.array([3, 2.5], np.float32), np.array([2, 1.5], np.float32)
    return Data(
        train=part, validation=part, evaluation=part, classes=("a", "b"), mean=mean, std=std, digest="", kind="series"
    )


def text(lengths=LENGTHS, steps=5, vocabulary=9):
    rng = np.random.default_rng(2)
    values = rng.integers(1, vocabulary, (len(lengths), steps)).astype(np.int32)
    values[np.arange(steps) >= lengths[:, None]] = 0
    vectors = rng.normal(size=(vocabulary, 3)).astype(np.float32)
    vectors[0] = 0
    part = Part(values=values, labels=np.arange(len(lengths)) % 2, index=np.arange(len(lengths)), lengths=lengths)
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    whole = Data(train=part, validation=part, evaluation=part, classes=("a", "b"), mean=mean, std=std, digest="")
    return replace(whole, kind="text", vectors=vectors, words=tuple(map(str, range(vocabulary))))


def test_series_are_normalised_per_feature_and_their_padding_is_zero():
    data = series()
    inputs, valid = inputs_of(data.evaluation, np.array([3, 0]), data)
    for row, sample in enumerate((3, 0)):
        for feature in range(2):
            for step in range(5):
                there = step < LENGTHS[sample]
                value = (data.evaluation.values[sample, feature, step] - data.mean[feature]) / data.std[feature]
                assert inputs[row, feature, step] == pytest.approx(value if there else 0, rel=1e-5, abs=1e-6)
                assert bool(valid[row, step]) is bool(there)


def test_words_become_their_vectors_and_padding_the_first_one():
    data = text()
    assert data.shape == (5, 3)
    inputs, valid = inputs_of(data.evaluation, np.array([4, 1]), data)
    np.testing.assert_array_equal(inputs.numpy(), data.vectors[data.evaluation.values[[4, 1]]])
    assert valid.sum(1).tolist() == [4, 5]
    assert not inputs[~valid].any()


def test_batches_of_texts_are_cut_to_their_longest_and_series_are_not():
    assert [x.shape[1] for x, *_ in epoch_batches(text().train, text(), batch_size=2, order=None)] == [5, 5, 4]
    assert {x.shape[2] for x, *_ in epoch_batches(series().train, series(), batch_size=2, order=None)} == {5}
    for inputs, _, valid, _ in epoch_batches(text().train, text(), batch_size=2, order=None):
        assert valid.shape == inputs.shape[:2]
        assert valid.any(0).all()


def test_sets_without_lengths_have_no_mask():
    data = series()
    part = replace(data.train, lengths=None)
    assert inputs_of(part, np.arange(2), data)[1] is None
    assert all(valid is None for *_, valid in epoch_batches(part, data, batch_size=4, order=None))


def test_a_bound_network_sees_the_steps_that_count_alone():
    data = series()
    inputs, valid = inputs_of(data.evaluation, np.arange(6), data)
    model = Mean()
    found = bound(model, valid)(inputs + 100 * ~valid[:, None])
    expected = torch.stack([inputs[n, :, : LENGTHS[n]].mean(-1) for n in range(6)])
    torch.testing.assert_close(found, expected)
    assert isinstance(bound(model, valid), Bound)
    assert bound(model, None) is model
    assert not takes_valid(nn.Flatten())
    with pytest.raises(ValueError, match="6 sequences"):
        bound(model, valid)(inputs[:2])


def test_a_bound_network_is_in_the_mode_of_the_network():
    model = nn.Sequential(nn.Dropout())
    model.forward = lambda inputs, valid=None: inputs
    assert [Bound(model.train(mode), torch.ones(1, 1) > 0).training for mode in (True, False)] == [True, False]
    Bound(model, torch.ones(1, 1) > 0).eval()
    assert not model[0].training


def test_maps_of_text_are_one_number_per_word():
    values = torch.arange(24.0).view(2, 4, 3)
    valid = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = stored(values, "text", valid)
    assert found[0].tolist() == [3.0, 12.0, 0.0, 0.0]
    assert torch.equal(found[1], values[1].sum(1))
    assert torch.equal(stored(values, "images"), values)
    cells = stored(values.movedim(1, 2), "series", valid)
    assert torch.equal(cells[0, :, 2:], torch.zeros(3, 2))


def encoded(maps, lengths):
    rows = np.arange(len(maps))
    columns = {"sample": rows, "label": rows % 2, "target": rows % 2, "prediction": rows % 2}
    return shards.open_shard(shards.encode(**columns, maps=maps, length=lengths, metadata={}))


@pytest.mark.parametrize("shape", [(5,), (3, 5)], ids=["text", "series"])
def test_statistics_of_a_padded_sample_are_those_of_the_sample_without_padding(shape):
    rng = np.random.default_rng(3)
    maps = rng.normal(0.5, 1, (4, 6, *shape)).astype(np.float32)
    maps[1, 1, ..., 0] = np.nan  # one member less for this sample
    padded = np.where(np.arange(5) < LENGTHS.reshape(-1, *[1] * len(shape)), maps, 7)
    whole = reduce_range([encoded(each, LENGTHS) for each in padded], members=range(4), inputs_digest="")
    assert whole.stats["length"].to_pylist() == LENGTHS.tolist()
    for sample, length in enumerate(LENGTHS.tolist()):
        own = np.ascontiguousarray(padded[:, sample : sample + 1, ..., :length])
        alone = reduce_range(
            [encoded(each, LENGTHS[sample : sample + 1]) for each in own], members=range(4), inputs_digest=""
        )
        for name in set(whole.stats.column_names) - {"sample", "label", "target"}:
            column, expected = (table[name].combine_chunks() for table in (whole.stats, alone.stats))
            if name in ("mean", "variance", "significant"):
                values = column.to_numpy_ndarray()[sample]
                np.testing.assert_array_equal(values[..., :length], expected.to_numpy_ndarray()[0], err_msg=name)
                assert not values[..., length:].any(), name
            else:
                np.testing.assert_equal(column[sample].as_py(), expected[0].as_py(), err_msg=name)


def test_members_that_tell_other_lengths_are_refused():
    maps = np.zeros((6, 5), np.float32)
    with pytest.raises(ValueError, match="lengths of member 0"):
        reduce_range([encoded(maps, LENGTHS), encoded(maps, LENGTHS[::-1])], members=range(2), inputs_digest="")
