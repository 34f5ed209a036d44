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
from salcore.network import following, logits_of, require_apart, require_classes, require_integers

WITHOUT_IMAGES = "gradient, integrated_gradients, smoothgrad, deeplift and gradient_shap"
"""Methods that take inputs of any shape."""


@contextmanager
def prepared(model: nn.Module, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs and targets as the primitive takes them, with the model `evaluated`.

    Inputs follow the model's dtype and device and are detached from the caller's. Targets stay on the CPU, where
    checking them waits for no GPU. Gradients are recorded in the block whatever the caller's mode is.

    Raises ValueError unless `targets` (N,) holds one integer for each of the `inputs` (N, ...), and for a network in
    which one sample's logits depend on another's.
    """
    require_integers("targets", targets, inputs)
    require_apart(model)
    with evaluated(model), torch.inference_mode(False), torch.enable_grad():
        own = following(model, inputs)
        yield own, (targets.clone() if targets.is_inference() else targets).to("cpu", torch.int64)


def require_images(inputs: Tensor, what: str) -> None:
    """Raise ValueError, which says that `what` is for images, for inputs that are not (N, C, H, W)."""
    if inputs.ndim != 4:
        raise ValueError(
            f"`inputs`: expected images (N, C, H, W), which {what} is for, got {tuple(inputs.shape)}; {WITHOUT_IMAGES} "
            "explain sequences"
        )


def select(logits: object, targets: Tensor) -> Tensor:
    """Each sample's logit of its target, (N, K) and (N,) on the CPU -> (N,).

    Raises ValueError for an output that is no (N, K) tensor, and for a target outside 0 to K - 1.
    """
    logits = logits_of(logits, len(targets))
    require_classes("targets", targets, logits.shape[1])
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
