"""Turning filters off: what a network would say of each sample without the filters that are chosen for that sample.

The samples of a batch keep one network. Each of its convolutions is seen as it is called, and the channels that a
sample's filters made are overwritten in that sample's row.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from salcore.calls import Calls
from salcore.evaluated import evaluated
from salcore.network import following
from salcore.parameter_space.effects import (
    Effect,
    probabilities,
    require_budgets,
    require_labels,
    require_order,
)
from salcore.parameter_space.filters import FilterTable, Layer, layer_weights

Mode = Literal["paper", "silenced"]

_DIMENSIONS = ("1d", "2d", "3d")
_LAYERS = ("linear", "convolution", *(f"{name}{d}" for name in ("conv", "conv_transpose") for d in _DIMENSIONS))
_AFFINE = ("input", "weight", "bias")
_STATISTICS = ("running_mean", "running_var")


def prune(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    order: Tensor,
    budgets: Sequence[int],
    table: FilterTable,
    *,
    mode: Mode,
    batch_size: int = 256,
) -> Effect:
    """The effect on each sample of turning off the first filters of its own order, as many as each budget says.

    Inputs (N, ...), labels (N,) integers, `order` (N, M) columns of the table, as `effects.order` gives them, and
    increasing budgets up to M; what `mode` means is told in `turned_off`. A budget of 0 changes nothing, exactly.
    Passes hold `batch_size` rows, each one sample at one budget; the softmax of all of them, (N, B, K), is in memory.
    The model runs in evaluation mode, in its own dtype and on its device, and is left as it was.

    Raises ValueError for labels, orders or budgets that do not fit, for outputs other than logits (N, K), and as
    `turned_off` does.

    Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), section 3.1.

    >>> from salcore.parameter_space import filter_table
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    >>> model[0].weight.data[:] = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1)
    >>> x = torch.ones(1, 1, 1, 1)
    >>> table = filter_table(model, x)
    >>> effect = prune(model, x, torch.tensor([1]), torch.tensor([[0, 1]]), [0, 1, 2], table, mode="paper")
    >>> effect.true.round(2), effect.corrected  # logits (2, 1), (0, 1), (0, 0)
    (array([[0.  , 0.46, 0.23]], dtype=float32), array([[False,  True, False]]))
    """
    require_order("order", order, len(inputs), len(table))
    require_budgets(budgets, order.shape[1])
    if batch_size < 1:
        raise ValueError(f"`batch_size`: expected 1 or more, got {batch_size}")
    with evaluated(model), torch.inference_mode(False), torch.no_grad():
        inputs = following(model, inputs)
        # Rows are taken by their numbers, which copies them: a first layer that works in place writes to the copy.
        numbers = torch.arange(len(inputs), device=inputs.device)
        before = torch.cat([probabilities(model, inputs[rows]) for rows in numbers.split(batch_size)])
        require_labels("labels", labels, *before.shape)
        after = before[:, None].repeat(1, len(budgets), 1)
        order, sizes = order.to(inputs.device), torch.tensor(budgets, device=inputs.device)
        pairs = torch.cartesian_prod(numbers, sizes.nonzero()[:, 0])
        for samples, places in (rows.unbind(1) for rows in pairs.split(batch_size)):
            off = _chosen(order[samples], sizes[places], len(table))
            with turned_off(model, table, off, mode=mode):
                after[samples, places] = probabilities(model, inputs[samples])
        return Effect.of(before, after, labels.to(inputs.device, torch.int64))


@contextmanager
def turned_off(model: nn.Module, table: FilterTable, off: Tensor, *, mode: Mode) -> Iterator[None]:
    """A block in which the model, given N inputs, lacks in row n the filters that row n of `off` (N, P) says.

    - "paper": the filter's weights are zero, and so is its channel's shift (beta) in a batch-norm that follows. The
      channel is then constant, but zero only where the convolution has no bias and the batch-norm's running mean is 0.
    - "silenced": the channel is zero, after a batch-norm that follows too.

    A batch-norm follows a convolution if it takes its output as it is: later ones are the rest of the network. So in a
    ResNet either mode takes away what one branch adds to a sum, and the sum keeps what the other branch gave. In a
    DenseNet a convolution whose output is concatenated has no batch-norm of its own: both modes put zeros (with "paper"
    the bias, where there is one) into the concatenation, of which each later batch-norm makes what it makes of zeros.
    The rows of a linear layer are meant as filters are.

    Every call of a filter counts, by modules and by functions, in evaluation mode and without gradients. Row n of every
    layer's output must be sample n's. The parameters are not written to, and the model is left as it was.

    Raises ValueError for another network's table, for a batch-norm without running statistics, which mixes samples, and
    by name for a layer whose output has not one row for each sample, or whose calls escape: the output depends on it,
    says the table, and it did not run where the block sees it, as inside TorchScript.

    Where do Models go Wrong? Parameter-Space Saliency Maps for Explainability (Levin et al., 2021), section 3.1.

    >>> from salcore.parameter_space import filter_table
    >>> model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2), nn.Flatten())
    >>> x = torch.ones(2, 1, 1)
    >>> with turned_off(model, filter_table(model, x), torch.eye(2) > 0, mode="silenced"):
    ...     (model(x) == 0).tolist()
    [[True, False], [False, True]]
    """
    if mode not in get_args(Mode):
        raise ValueError(f"`mode`: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
    if off.ndim != 2 or off.shape[1] != len(table) or off.dtype != torch.bool:
        got = f"{tuple(off.shape)} of {off.dtype}"
        raise ValueError(f"`off`: expected booleans (N, {len(table)}), one for each filter of the table, got {got}")
    edits = _Edits(_channels(model, table, off), len(off), mode)
    with evaluated(model), torch.inference_mode(False), torch.no_grad():
        with Calls({**dict.fromkeys(_LAYERS, edits.layer), "batch_norm": edits.batch_norm}):
            yield
        edits.require_seen()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Channels:
    """The channels of a layer that are off: channels[i] of row rows[i]."""

    of: Layer
    rows: Tensor
    channels: Tensor

    def fill(self, output: Tensor, values: Tensor | float) -> None:
        """Set each channel of the layer's output (N, C, ...), of a linear layer (N, ..., C), to its value, (K,)."""
        view = output.movedim(-1, 1) if self.of.kind == "linear" else output
        if isinstance(values, Tensor):
            values = values.to(view.dtype).view(-1, *[1] * (view.ndim - 2))
        view[self.rows, self.channels] = values

    def lower(self, output: Tensor, values: Tensor) -> None:
        """Subtract from each channel of (N, C, ...) its value, (K,)."""
        output[self.rows, self.channels] -= values.to(output.dtype).view(-1, *[1] * (output.ndim - 2))


class _Edits:
    """What stands in for the layers and the batch-norms of a network while filters are off: rules of `Calls`."""

    def __init__(self, off: dict[nn.Parameter, _Channels], samples: int, mode: Mode) -> None:
        self._off, self._samples, self._mode = off, samples, mode
        self._unseen = {each.of.name: None for each in off.values() if each.of.depth is not None}
        # The outputs of layers, by identity, with the version that they had: a ReLU in place makes it another.
        self._outputs = WeakTensorKeyDictionary()

    def layer(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
        """The output of a convolution or linear layer, its channels off."""
        output = function(*arguments, **keywords)
        given = dict(zip(_AFFINE, arguments, strict=False)) | keywords
        if (off := self._off.get(given["weight"])) is None:
            return output
        self._unseen.pop(off.of.name, None)
        dimensions = max(2, output.ndim) if off.of.kind == "linear" else len(off.of.shape)
        if output.ndim != dimensions or len(output) != self._samples:
            raise ValueError(
                f"`model`: expected one row for each of {self._samples} samples in the output of {off.of.name!r}, got "
                f"{tuple(output.shape)}"
            )
        if len(off.rows):
            bias = given.get("bias") if self._mode == "paper" else None
            off.fill(output, 0.0 if bias is None else bias[off.channels])
            if off.of.kind != "linear" or output.ndim == 2:
                self._outputs[output] = (off, output._version)
        return output

    def batch_norm(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
        """The output of a batch-norm, the channels off that the layer right before it made."""
        output = function(*arguments, **keywords)
        # The two functions of this name take their arguments in different orders.
        first, *rest = _AFFINE
        names = [first, *_STATISTICS, *rest] if function is functional.batch_norm else [*_AFFINE, *_STATISTICS]
        given = dict(zip([*names, "training"], arguments, strict=False)) | keywords
        if given.get("training") and self._samples > 1:
            raise ValueError(
                "`model`: expected samples that do not depend on one another in evaluation mode, got a batch-norm "
                "without running statistics"
            )
        off, version = self._outputs.get(given["input"], (None, None))
        if off is None or version != given["input"]._version:
            return output
        if self._mode == "silenced":
            off.fill(output, 0.0)
        elif (shift := given.get("bias")) is not None:
            off.lower(output, shift[off.channels])
        return output

    def require_seen(self) -> None:
        """Raise ValueError for a layer that did not run where it could be seen."""
        if self._unseen:
            raise ValueError(
                "`model`: expected a network whose layers can be seen while they run, got "
                f"{next(iter(self._unseen))!r}, which did not run, or ran inside TorchScript or another function"
            )


def _channels(model: nn.Module, table: FilterTable, off: Tensor) -> dict[nn.Parameter, _Channels]:
    """The channels that are off by the weight of their layer, for all layers."""
    weights = layer_weights(model, table)
    columns, rows = off.to(weights[0].device).T.nonzero(as_tuple=True)
    starts = torch.tensor([each.start for each in table.slices().values()], device=columns.device)
    ends = torch.searchsorted(columns, starts[1:]).tolist()
    parts = zip(weights, table.layers, starts, columns.tensor_split(ends), rows.tensor_split(ends), strict=True)
    return {
        weight: _Channels(of=layer, rows=own, channels=filters - start) for weight, layer, start, filters, own in parts
    }


def _chosen(order: Tensor, sizes: Tensor, filters: int) -> Tensor:
    """Which filters are among the first sizes[n] of row n of an order (N, M), (N, P)."""
    among = torch.arange(order.shape[1], device=order.device) < sizes[:, None]
    return torch.zeros(len(order), filters, dtype=torch.bool, device=order.device).scatter_(1, order, among)
