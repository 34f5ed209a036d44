"""The one primitive under all gradient methods: the derivative of selected logits, the model left as it was found.

>>> import torch
>>> model = torch.nn.Linear(3, 2, dtype=torch.float64)
>>> with prepared(model, torch.ones(1, 3), torch.tensor([1])) as (inputs, targets):
...     gradient = input_gradient(model, inputs, targets)
>>> torch.equal(gradient[0], model.weight[1])
True
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from salcore.device import sent
from salcore.evaluated import evaluated

WITHOUT_IMAGES = "gradient, integrated_gradients, smoothgrad, deeplift and gradient_shap"
"""Methods that take inputs of any shape."""

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@contextmanager
def prepared(model: nn.Module, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs and targets as the primitive takes them, with the model `evaluated`.

    Inputs follow the model's dtype and device and are detached from the caller's. Targets stay on the CPU, where
    checking them waits for no GPU. Gradients are recorded in the block whatever the caller's mode is.

    Raises ValueError unless `targets` (N,) holds one integer for each of the `inputs` (N, ...).
    """
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise ValueError(f"`{name}`: expected a tensor, got {type(value).__name__}")
    if targets.shape != inputs.shape[:1] or targets.dtype not in _INTEGERS:
        got = f"{tuple(targets.shape)} of {targets.dtype}"
        raise ValueError(f"`targets`: expected one integer for each of the inputs {tuple(inputs.shape)}, got {got}")
    reference = next((value for value in model.parameters() if value.is_floating_point()), inputs)
    with evaluated(model), torch.inference_mode(False), torch.enable_grad():
        own = _usable(inputs).to(reference.device, reference.dtype)
        yield own, _usable(targets).to("cpu", torch.int64)


def require_images(inputs: Tensor, what: str) -> None:
    """Raise ValueError, which says that `what` is for images, for inputs that are not (N, C, H, W)."""
    if inputs.ndim != 4:
        raise ValueError(
            f"`inputs`: expected images (N, C, H, W), which {what} is for, got {tuple(inputs.shape)}; {WITHOUT_IMAGES} "
            "explain sequences"
        )


def _usable(tensor: Tensor) -> Tensor:
    """The tensor without its history. One made in inference mode takes no part in autograd, but its copy does."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def select(logits: object, targets: Tensor) -> Tensor:
    """Each sample's logit of its target, (N, K) and (N,) on the CPU -> (N,).

    Raises ValueError for an output that is no (N, K) tensor, and for a target outside 0 to K - 1.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(f"`model`: expected logits as one tensor (N, K), got {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != len(targets):
        raise ValueError(f"`model`: expected logits of shape ({len(targets)}, K), got {tuple(logits.shape)}")
    classes = logits.shape[1]
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        got = f"{int(targets.min())} to {int(targets.max())}"
        raise ValueError(f"`targets`: expected classes from 0 to {classes - 1}, got {got}")
    return logits.gather(1, sent(targets, logits.device)[:, None])[:, 0]


def derivative(selected: Tensor, place: Tensor, *, keep_graph: bool = False) -> Tensor:
    """The derivative of selected[n] by place[n] for all samples n at once, of the shape of `place` (N, ...).

    The sum over samples is differentiated: exact where sample n's logit depends on sample n alone, as it does in
    evaluation mode. `keep_graph` leaves the graph to a later backward pass.

    Raises ValueError if the logits do not depend on that place.
    """
    if selected.requires_grad:
        (found,) = torch.autograd.grad(selected.sum(), place, retain_graph=keep_graph, allow_unused=True)
        if found is not None:
            return found
    raise ValueError(
        "`model`: expected logits that can be differentiated by what is explained, got none that depend on it"
    )


def accumulator(like: Tensor) -> Tensor:
    """Zeros of the shape of `like` to sum many maps in: float32 at least, as a sum in half precision soon stalls."""
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


def input_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the target's logit by the input, (N, ...) like the inputs; to be called inside `prepared`."""
    inputs = inputs.detach().requires_grad_()
    # A copy goes in, so that a model whose first layer works in place neither fails nor writes to the caller's tensor.
    return derivative(select(model(inputs.clone()), targets), inputs)
