"""Networks for sequences against slow loops of their formulas, and against torch's own modules with copied weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from salcore.models import steps
from salcore.models.bilstm import bilstm
from salcore.models.series_lstm import input_cell_lstm, lstm
from salcore.models.tcn import tcn
from salcore.models.transformer import positions, transformer
from salcore.seeds import forked

LENGTHS = torch.tensor([9, 1, 4])
VALID = torch.arange(9) < LENGTHS[:, None]


def made(builder, shape, **settings):
    with forked(0):
        return builder(input_shape=shape, classes=2, **settings).double().eval()


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def array(tensor):
    return tensor.detach().numpy()


def lstm_by_hand(cell, steps):
    """(i, f, g, o) = m W + h U + b; c = f c + i g; h = o tanh(c), for one sequence (T, size): -> (T, H)."""
    w, u = array(cell.weight_ih_l0), array(cell.weight_hh_l0)
    b, size = array(cell.bias_ih_l0 + cell.bias_hh_l0), cell.hidden_size
    h, c, states = np.zeros(size), np.zeros(size), []
    for m in steps:
        gates = m @ w.T + h @ u.T + b
        i, f, g, o = (gates[place * size : (place + 1) * size] for place in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def attended_by_hand(attention, x):
    """M_t = softmax(W2 tanh(W1 X_t^T)) X_t for each t, (T, F) -> T matrices (hops, F), the past grown step by step."""
    first, second = attention.scores[0], attention.scores[2]
    found = []
    for end in range(1, len(x) + 1):
        past = x[:end]
        scores = np.tanh(past @ array(first.weight).T + array(first.bias)) @ array(second.weight).T
        scores = (scores + array(second.bias)).T
        weights = np.exp(scores - scores.max(1, keepdims=True))
        found.append(weights / weights.sum(1, keepdims=True) @ past)
    return found


@pytest.mark.parametrize("reading", ["plain", "mean", "flat"])
def test_recurrent_networks_are_their_gates_step_by_step(reading):
    if reading == "plain":
        network = made(lstm, (4, 9), hidden=3)
    else:
        network = made(input_cell_lstm, (4, 9), hidden=3, hops=6, attention_size=7, flatten=reading == "flat")
        for parameter in network.reading.parameters():
            parameter.data *= 5  # scores far apart
    inputs, outputs = drawn(3, 4, 9), []
    for row, length in zip(array(inputs.mT), LENGTHS, strict=True):
        given = {
            "plain": lambda x: x,
            "mean": lambda x: [m.mean(0) for m in attended_by_hand(network.reading, x)],
            "flat": lambda x: [m.flatten() for m in attended_by_hand(network.reading, x)],
        }[reading](row)
        last = lstm_by_hand(network.recurrent, given)[length - 1]
        outputs.append(last @ array(network.linear.weight).T + array(network.linear.bias))
    np.testing.assert_allclose(array(network(inputs, VALID)), np.array(outputs), rtol=1e-12)


def test_input_cell_attention_starts_as_published():
    network = made(input_cell_lstm, (50, 60), hidden=20)
    for module in (*network.reading.scores, network.recurrent):
        for parameter in module.parameters():
            if parameter.ndim == 1:
                assert not parameter.any()
            else:
                limit = math.sqrt(6 / sum(parameter.shape))
                assert 0.9 * limit < parameter.abs().max() <= limit


def convolved_by_hand(convolution, x, dilation):
    """y_t = sum over k of W_k x_(t - (K - 1 - k) d) + b with W = g v / |v|, for one series (C, T), step by step."""
    parts = convolution.parametrizations.weight
    g, v = array(parts.original0), array(parts.original1)
    weight = g * v / np.sqrt((v**2).sum((1, 2), keepdims=True))
    taps, result = weight.shape[2], np.zeros((len(weight), x.shape[1]))
    for t in range(x.shape[1]):
        result[:, t] = array(convolution.bias)
        for k in range(taps):
            past = t - (taps - 1 - k) * dilation
            if past >= 0:
                result[:, t] += weight[:, :, k] @ x[:, past]
    return result


def relu(x):
    return np.maximum(x, 0)


def test_tcn_is_its_convolutions_step_by_step():
    network = made(tcn, (4, 9), channels=3, top_channels=6, kernel=2)
    inputs, outputs = drawn(3, 4, 9), []
    for row, length in zip(array(inputs), LENGTHS, strict=True):
        for number, level in enumerate(network.levels):
            inside = relu(convolved_by_hand(level.convolution1, row, 2**number))
            inside = relu(convolved_by_hand(level.convolution2, inside, 2**number))
            if isinstance(level.residual, nn.Conv1d):
                row = array(level.residual.weight)[:, :, 0] @ row + array(level.residual.bias)[:, None]
            row = relu(inside + row)
        largest = row[:, :length].max(1)
        outputs.append(largest @ array(network.linear.weight).T + array(network.linear.bias))
    np.testing.assert_allclose(array(network(inputs, VALID)), np.array(outputs), rtol=1e-12)
    assert [isinstance(level.residual, nn.Conv1d) for level in network.levels] == [True, False, True]


def test_tcn_has_the_published_widths_and_starts():
    network = made(tcn, (50, 50))
    assert [level.convolution2.out_channels for level in network.levels] == [5, 5, 50]
    assert network.levels[0].residual.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert network.levels[0].convolution1.weight.abs().max() > 0.05, "not drawn from N(0, 0.01^2)"


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_bilstm_is_torchs_on_packed_sequences(pooling):
    network = made(bilstm, (9, 4), hidden=3, pooling=pooling)
    packed = nn.LSTM(4, 3, batch_first=True, bidirectional=True).double()
    for mine, ending in ((network.there, ""), (network.back, "_reverse")):
        for name, value in mine.named_parameters():
            getattr(packed, name + ending).data.copy_(value)
    inputs = drawn(3, 9, 4)
    sequences = nn.utils.rnn.pack_padded_sequence(inputs, LENGTHS, batch_first=True, enforce_sorted=False)
    states, (ends, _) = packed(sequences)
    states, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
    expected = {
        "last": torch.cat([ends[0], ends[1]], 1),
        "mean": torch.stack([row[:length].mean(0) for row, length in zip(states, LENGTHS, strict=True)]),
        "max": torch.stack([row[:length].amax(0) for row, length in zip(states, LENGTHS, strict=True)]),
    }[pooling]
    torch.testing.assert_close(network(inputs, VALID), network.linear(expected), rtol=1e-12, atol=1e-14)


def test_attention_pooling_weighs_the_states_of_words():
    network, inputs = made(bilstm, (9, 4), hidden=3, pooling="attention"), drawn(3, 9, 4)
    there = network.there(inputs)[0]
    back = steps.turned(network.back(steps.turned(inputs, VALID))[0], VALID)
    for row, length in enumerate(LENGTHS):
        states = torch.cat([there[row, :length], back[row, :length]], 1)
        scores = network.attention[2](torch.tanh(network.attention[0](states)))
        expected = (scores.exp() / scores.exp().sum() * states).sum(0)
        torch.testing.assert_close(network(inputs, VALID)[row], network.linear(expected))


def test_transformer_is_torchs_encoder_with_its_norms_first():
    network, inputs = made(transformer, (6, 9), heads=3, layers=2, feed_forward=11), drawn(3, 6, 9)
    layer = nn.TransformerEncoderLayer(6, 3, 11, 0.1, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(6), enable_nested_tensor=False).double().eval()
    for theirs, mine in zip(encoder.layers, network.layers, strict=True):
        theirs.self_attn.load_state_dict(mine.attention.state_dict())
        pairs = ("linear1", mine.layers[0]), ("linear2", mine.layers[3]), ("norm1", mine.norm1), ("norm2", mine.norm2)
        for name, part in pairs:
            getattr(theirs, name).load_state_dict(part.state_dict())
    encoder.norm.load_state_dict(network.norm.state_dict())
    tokens = math.sqrt(6) * inputs.mT + positions(inputs.mT)
    mask = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
    found = encoder(tokens, mask=mask)
    largest = torch.stack([row[:length].amax(0) for row, length in zip(found, LENGTHS, strict=True)])
    torch.testing.assert_close(network(inputs, VALID), network.linear(largest), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("features", [1, 5, 6])
def test_positions_are_sines_and_cosines(features):
    table = positions(torch.zeros(1, 7, features, dtype=torch.float64))
    for t in range(7):
        for i in range(features):
            angle = t / 10000 ** ((i - i % 2) / features)
            assert table[t, i].item() == pytest.approx((math.cos if i % 2 else math.sin)(angle), abs=1e-12)


def test_turning_twice_is_nothing_and_keeps_padding_in_its_place():
    sequence = drawn(3, 9, 2)
    turned = steps.turned(sequence, VALID)
    for row, length in enumerate(LENGTHS):
        assert torch.equal(turned[row, :length], sequence[row, :length].flip(0))
        assert torch.equal(turned[row, length:], sequence[row, length:])
    assert torch.equal(steps.turned(turned, VALID), sequence)
