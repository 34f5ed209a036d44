"""The proof that a graph is linear but for the operations that have a rule: every node that autograd recorded is known.

What a network calls can escape an interception (TorchScript, custom functions, code inside torch's own modules); the
graph of its output cannot.
"""

import re

from torch import Tensor
from torch.autograd.graph import Node

_LINEAR = set(
    "add sub rsub neg sum mean cumsum real cat stack view unsafe_view reshape_alias alias t transpose permute slice "
    "select split split_with_sizes unsafe_split unbind index index_select gather expand repeat squeeze unsqueeze clone "
    "to_copy copy copy_slices as_strided diagonal roll flip masked_fill unfold im2_col col2_im "
    "constant_pad_nd reflection_pad1_d reflection_pad2_d replication_pad1_d replication_pad2_d "
    "avg_pool2_d avg_pool3_d adaptive_avg_pool2_d adaptive_avg_pool3_d mkldnn_adaptive_avg_pool2_d "
    "reflection_pad3_d replication_pad3_d upsample_nearest1_d upsample_nearest2_d upsample_nearest3_d "
    "upsample_trilinear3_d upsample_linear1_d upsample_bilinear2_d upsample_bicubic2_d "
    "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle accumulate_grad".split()
)
"""Operations that are linear in all that depends on the input together."""

_BILINEAR = set(
    "mul mm bmm mv addmm addmv baddbmm dot linear convolution mkldnn_convolution native_batch_norm cudnn_batch_norm "
    "miopen_batch_norm batch_norm".split()
)
"""Operations that are linear in any one argument that depends on the input."""


def non_linear(output: Tensor, leaf: Tensor, known: frozenset[str] = frozenset()) -> str | None:
    """The name of an operation between a leaf and the output that is neither linear nor of a class in `known`, or None.

    >>> import torch
    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> non_linear((2 * x).sum(), x), non_linear((x.softmax(1) + x).sum(), x)
    (None, 'softmax')
    """
    between = _between(output, leaf)
    for node in between:
        name = _plain(node.name())
        inputs = [place for place, (source, _) in enumerate(node.next_functions) if source in between]
        fine = (
            node.name() in known
            or name in _LINEAR
            or (name in _BILINEAR and len(inputs) == 1 and not getattr(node, "_saved_training", False))
            or (name == "div" and inputs == [0])
        )
        if not fine:
            return name
    return None


def _between(output: Tensor, leaf: Tensor) -> set[Node]:
    """The nodes of the output's graph that the leaf reaches."""
    above: dict[Node, list[Node]] = {}
    waiting, seen, reached = [output.grad_fn], {output.grad_fn}, []
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if getattr(node, "variable", None) is leaf:
            reached.append(node)
        for source, _ in node.next_functions:
            if source is not None:
                above.setdefault(source, []).append(node)
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
    return _closure(reached, above)


def _closure(start: list[Node], neighbours: dict[Node, list[Node]]) -> set[Node]:
    """All that can be reached from some nodes, themselves among them."""
    found, waiting = set(start), list(start)
    while waiting:
        for node in neighbours.get(waiting.pop(), []):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def _plain(name: str) -> str:
    """`AdaptiveAvgPool2DBackward0` is adaptive_avg_pool2_d."""
    stem = re.sub(r"Backward(s|Auto)?\d*$", "", name.rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stem).lower()
