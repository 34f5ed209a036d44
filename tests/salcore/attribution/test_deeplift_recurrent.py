"""DeepLIFT through LSTMs: the same as through the elementary operations that they are made of."""

import pytest
import torch
from torch import nn

from salcore.attribution import METHODS
from salcore.attribution.completeness import residual
from salcore.models import build
from salcore.padding import bound
from salcore.seeds import forked
from salcore.spec import ModelSpec

deeplift = METHODS["deeplift"]


class Read(nn.Module):
    """Logits from the states of a recurrent layer, by a linear map of all of them, and of what it ends with."""

    def __init__(self, recurrent, batch_first=True, start=None):
        super().__init__()
        self.recurrent, self.batch_first, self.start = recurrent, batch_first, start
        self.states, self.ends = nn.LazyLinear(2), nn.LazyLinear(2)

    def forward(self, x):
        given = x if self.batch_first else x.transpose(0, 1)
        start = self.start and tuple(value.expand(-1, len(x), -1).contiguous() for value in self.start)
        states, ends = self.recurrent(given, start)
        states = states if self.batch_first else states.transpose(0, 1)
        ends = torch.cat([*ends[0], *ends[1]], 1)
        return self.states(states.flatten(1)) + self.ends(ends)


class Written(nn.Module):
    """`nn.LSTM`, each operation called by itself."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x, start):
        lstm, ends = self.lstm, []
        x = x if lstm.batch_first else x.transpose(0, 1)
        for layer in range(lstm.num_layers):
            found = []
            for place, ending in enumerate(("", "_reverse")[: 1 + lstm.bidirectional]):
                number = layer * (1 + lstm.bidirectional) + place
                zeros = x.new_zeros(len(x), lstm.hidden_size)
                h, c = (zeros, zeros) if start is None else (value[number] for value in start)
                w, u = (getattr(lstm, f"weight_{kind}_l{layer}{ending}") for kind in ("ih", "hh"))
                b = sum(getattr(lstm, f"bias_{kind}_l{layer}{ending}") for kind in ("ih", "hh")) if lstm.bias else 0
                states = []
                for t in reversed(range(x.shape[1])) if ending else range(x.shape[1]):
                    i, f, g, o = (x[:, t] @ w.T + h @ u.T + b).split(lstm.hidden_size, 1)
                    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                    h = torch.sigmoid(o) * torch.tanh(c)
                    states.append(h)
                found.append(torch.stack(states[::-1] if ending else states, 1))
                ends.append((h, c))
            x = torch.cat(found, 2)
        states = x if lstm.batch_first else x.transpose(0, 1)
        return states, tuple(torch.stack(each) for each in zip(*ends, strict=True))


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(start=None, **settings):
    """A network on `nn.LSTM`, and the same written out."""
    with forked(0):
        lstm = nn.LSTM(4, 3, **settings).double()
        fused = Read(lstm, settings.get("batch_first", False), start).double()
        fused(drawn(2, 5, 4))
    written = Read(Written(lstm), fused.batch_first, start)
    written.states, written.ends = fused.states, fused.ends
    return fused.eval(), written.eval()


SETTINGS = [
    {"batch_first": True},
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "dropout": 0.5, "batch_first": True},
    {"bidirectional": True, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("baseline", ["zero", "own"])
def test_an_lstm_is_the_operations_that_it_is_made_of(settings, baseline):
    (fused, written), inputs, targets = pair(**settings), 3 * drawn(6, 5, 4), torch.arange(6) % 2
    start = drawn(6, 5, 4, seed=2) if baseline == "own" else 0.0
    torch.testing.assert_close(fused(inputs), written(inputs), rtol=1e-12, atol=1e-14)
    maps = deeplift(fused, inputs, targets, baseline=start)
    torch.testing.assert_close(maps, deeplift(written, inputs, targets, baseline=start), rtol=1e-9, atol=1e-12)
    assert residual(fused, inputs, targets, maps, baseline=start).abs().max() < 1e-12
    assert not torch.allclose(maps, METHODS["input_x_gradient"](fused, inputs - start, targets), rtol=1e-2)


def test_an_lstm_may_start_from_learned_states():
    states = drawn(1, 1, 3, seed=3), drawn(1, 1, 3, seed=4)
    (fused, written), inputs, targets = pair(states, batch_first=True), drawn(6, 5, 4), torch.arange(6) % 2
    torch.testing.assert_close(deeplift(fused, inputs, targets), deeplift(written, inputs, targets))


def test_an_input_at_its_baseline_gets_the_gradient_times_nothing():
    (fused, _), inputs, targets = pair(batch_first=True), drawn(3, 5, 4), torch.zeros(3).long()
    near = deeplift(fused, inputs, targets, baseline=inputs - 1e-9) / 1e-9
    torch.testing.assert_close(near, METHODS["gradient"](fused, inputs, targets), rtol=1e-4, atol=1e-6)
    assert not deeplift(fused, inputs, targets, baseline=inputs).any()


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), 5), batch_first=True)
        return self.lstm(packed)[1][0][0]


class Started(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        first = x[:, 0, :3][None]
        return self.lstm(x, (first, first))[0][:, -1]


class Gated(nn.Module):
    def __init__(self, kind, **settings):
        super().__init__()
        self.layer = kind(4, 3, batch_first=True, **settings)

    def forward(self, x):
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Packed, "an LSTM over packed sequences"),
        (Started, "initial states depend on the input"),
        (lambda: Gated(nn.LSTM, proj_size=2), "projections"),
        (lambda: Gated(nn.GRU), r"nn\.GRU \(nn\.LSTM has one\)"),
        (lambda: Gated(nn.RNN), r"nn\.RNN \(nn\.LSTM has one\)"),
        (lambda: Gated(nn.RNN, nonlinearity="relu"), r"nn\.RNN"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recurrent_layers_without_a_rule_are_refused_by_name(make, words, dtype):
    with forked(0):
        model = make().to(dtype).eval()
    with pytest.raises(ValueError, match=f"no rule for .*{words}.*use integrated_gradients") as error:
        deeplift(model, drawn(3, 5, 4), torch.zeros(3).long())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lstm", "tcn"])
def test_some_samples_of_a_bound_batch_are_explained_again_in_float64(name):
    """A baseline next to two of the inputs leaves float32 no digits there; the network is bound to all of them."""
    valid = torch.arange(8) < torch.tensor([8, 3, 5, 8])[:, None]
    inputs, targets = drawn(4, 6, 8).float() * valid[:, None], torch.tensor([0, 1, 2, 0])
    start = drawn(4, 6, 8, seed=2).float()
    start[1:3] = inputs[1:3] + 1e-4 * start[1:3]
    with forked(0):
        model = build(ModelSpec(name=name), input_shape=(6, 8), classes=3)
    maps = deeplift(bound(model, valid), inputs, targets, baseline=start)
    exact = deeplift(bound(model.double(), valid), inputs.double(), targets, baseline=start.double())
    torch.testing.assert_close(maps.double(), exact, rtol=1e-3, atol=1e-7 * float(exact.abs().max()))
