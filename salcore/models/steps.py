"""What networks for sequences take from their steps: only from those that count, whatever stands behind them.

Sequences are (N, T, H), and `valid` (N, T) is True for the steps that count, the first ones of each sequence, or None
where all of them do. Of an empty sequence the first step counts, so that it has a state.
"""

import torch
from torch import Tensor, nn


def recurrent_states(recurrent: nn.LSTM, inputs: Tensor) -> Tensor:
    """The states of an LSTM after each step, (N, T, F) -> (N, T, H), of its weights' precision on a CPU.

    Under autocast too: oneDNN has no LSTM of lower precision for many processors.
    """
    if inputs.device.type != "cpu":
        return recurrent(inputs)[0]
    with torch.autocast("cpu", enabled=False):
        return recurrent(inputs.to(next(recurrent.parameters())))[0]


def last(states: Tensor, valid: Tensor | None) -> Tensor:
    """The state after the last step, (N, T, H) -> (N, H).

    >>> last(torch.arange(6.0).view(2, 3, 1), torch.tensor([[True, True, False], [True, True, True]])).flatten()
    tensor([1., 5.])
    """
    if valid is None:
        return states[:, -1]
    return torch.take_along_dim(states, lengths(valid)[:, None, None] - 1, 1)[:, 0]


def greatest(states: Tensor, valid: Tensor | None) -> Tensor:
    """The largest value over the steps, of each feature by itself: (N, T, H) -> (N, H)."""
    return (states if valid is None else states.masked_fill(padding(valid)[..., None], -torch.inf)).amax(1)


def average(states: Tensor, valid: Tensor | None) -> Tensor:
    """The mean over the steps, (N, T, H) -> (N, H)."""
    if valid is None:
        return states.mean(1)
    return states.masked_fill(padding(valid)[..., None], 0).sum(1) / lengths(valid)[:, None]


def turned(sequence: Tensor, valid: Tensor | None) -> Tensor:
    """The steps in reverse order, the padding behind them where it was: its own inverse.

    >>> turned(torch.arange(3.0).view(1, 3, 1), torch.tensor([[True, True, False]])).flatten()
    tensor([1., 0., 2.])
    """
    if valid is None:
        return sequence.flip(1)
    place = torch.arange(valid.shape[1], device=valid.device)
    mirrored = lengths(valid)[:, None] - 1 - place
    return torch.take_along_dim(sequence, torch.where(mirrored < 0, place, mirrored)[..., None], 1)


def lengths(valid: Tensor) -> Tensor:
    """How many steps count, (N,)."""
    return valid.sum(1).clamp(min=1)


def padding(valid: Tensor) -> Tensor:
    """True for the steps that do not count, (N, T)."""
    return torch.arange(valid.shape[1], device=valid.device) >= lengths(valid)[:, None]
