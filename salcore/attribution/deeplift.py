"""DeepLIFT: the change of the output between a baseline and the input, shared out by multipliers instead of slopes."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import derivative, prepared, select
from salcore.attribution.baseline import Baseline, as_baseline
from salcore.attribution.calls import Calls, plain_name
from salcore.attribution.linear import non_linear
from salcore.attribution.rescale import RULES, Folded, NoRule, Values, is_active
from salcore.settings import Within

_OTHERS = "use integrated_gradients or gradient_shap, which need no rules"
_ROUNDING, _STRUCTURAL = 1e-4, 0.05
"""Completeness residuals that rounding may leave in float32, and that no rounding leaves in float64."""


def deeplift(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    baseline: Baseline = None,
    seed: Annotated[int, Within(0)] = 0,
) -> Tensor:
    """S(x) = m (x - b), with m the product of the Rescale rule's multipliers along all paths, logit of the target.

    Inputs (N, C, H, W), targets (N,); returns (N, C, H, W), whose sum over pixels is f_t(x) - f_t(b) (completeness).
    Rules act on what the network calls, not on its modules: functional and in-place activations, modules used several
    times, max-pooling beside an activation and products of two branches are all right. Layer and group normalisation
    go through the rules of their parts. `seed` is that of a random baseline.

    Costs one gradient of the batch and one forward pass of the baseline, which is one sample where all share it.
    Samples whose float32 map misses completeness by more than 1e-4 are explained again in float64.

    Raises ValueError, with its name, for an operation without a rule (softmax, and so attention), and for a network
    that hides operations from autograd so that its maps would not be complete.

    Learning Important Features Through Propagating Activation Differences (Shrikumar et al., 2017), Rescale rule.
    """
    with prepared(model, inputs, targets) as (inputs, targets):
        start = as_baseline(baseline, inputs, seed=seed)
        maps, missed = _explained(model, inputs, targets, start)
        if maps.dtype == torch.float32 and bool((poor := missed > _ROUNDING).any()):
            exact = (inputs[poor].double(), targets[poor.cpu()], start[poor].double())
            finer, missed = _explained(deepcopy(model).double(), *exact)
            maps[poor] = finer.to(maps.dtype)
        if torch.finfo(maps.dtype).bits >= 32 and bool((missed > _STRUCTURAL).any()):
            raise ValueError(
                "`model`: DeepLIFT's maps miss the change of the logit: the network hides an operation from autograd, "
                f"such as a comparison or detach(); {_OTHERS}"
            )
        return maps


def _explained(model: nn.Module, inputs: Tensor, targets: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The maps, and by what share (N,) their sums miss f(x) - f(b), or 1 % of their magnitudes where that is more."""
    shared = start[:1] if len(inputs) and start.stride(0) == 0 else start
    try:
        multipliers, change = _multipliers(model, inputs, targets, shared)
    except Folded:
        multipliers, change = _multipliers(model, inputs, targets, start)
    maps = multipliers * (inputs - start)
    flat, change = maps.flatten(1).double(), change.double()
    scale = torch.maximum(change.abs(), 0.01 * flat.abs().sum(1))
    return maps, (flat.sum(1) - change).abs() / scale


def _multipliers(model: nn.Module, inputs: Tensor, targets: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The multipliers of the input (N, C, H, W), and f(x) - f(b) (N,); `reference` holds 1 or N baselines."""
    at_baseline, kept = _at_baseline(model, reference, targets)
    inputs = inputs.detach().requires_grad_()
    tape = iter(kept)
    try:
        with Calls({name: _with_baseline(rule, tape) for name, rule in RULES.items()}):
            selected = select(model(inputs.clone()), targets)
    except NoRule as error:
        raise ValueError(f"`model`: DeepLIFT has no rule for {error}; {_OTHERS}") from None
    if name := non_linear(selected, inputs, frozenset({"_RuledBackward"})):
        where = " inside TorchScript or another function" if name in RULES else ""
        raise ValueError(f"`model`: DeepLIFT has no rule for {name}{where}; {_OTHERS}")
    return derivative(selected, inputs), selected.detach() - at_baseline


@torch.no_grad()
def _at_baseline(model: nn.Module, reference: Tensor, targets: Tensor) -> tuple[Tensor, list[tuple[str, Values]]]:
    """The targets' logits (N,) at the baseline, and the arguments of every call that has a rule, in order."""
    kept: list[tuple[str, Values]] = []

    def keep(function: Callable[..., Any], arguments: Values, keywords: dict[str, Any]) -> Any:
        arguments, keywords = _positional(arguments, keywords)
        # Copies: what a network writes to in place later must not change what was kept.
        kept.append((plain_name(function), tuple(v.clone() if isinstance(v, Tensor) else v for v in arguments)))
        return function(*arguments, **keywords)

    with Calls(dict.fromkeys(RULES, keep)):
        logits = model(reference.clone())
    if isinstance(logits, Tensor) and len(logits) == 1:
        logits = logits.expand(len(targets), *logits.shape[1:])
    return select(logits, targets), kept


def _with_baseline(rule: Callable[..., Any], tape: Iterator[tuple[str, Values]]) -> Callable[..., Any]:
    """The rule as `Calls` wants it: it gets what the same call had at the baseline, which is the next on the tape."""

    def ruled(function: Callable[..., Any], arguments: Values, keywords: dict[str, Any]) -> Any:
        arguments, keywords = _positional(arguments, keywords)
        name, kept = next(tape, ("nothing", ()))
        if name != plain_name(function):
            raise NoRule(
                f"a network that calls {plain_name(function)} on the input where it called {name} on the baseline"
            )
        if not any(map(is_active, arguments)):
            return function(*arguments, **keywords)
        return rule(function, arguments, keywords, kept)

    return ruled


def _positional(arguments: Values, keywords: dict[str, Any]) -> tuple[Values, dict[str, Any]]:
    """The tensors that an operation acts on by position, however they were given."""
    named = [name for name in ("input", "other", "mat2") if name in keywords]
    rest = {name: value for name, value in keywords.items() if name not in named}
    return (*arguments, *(keywords[name] for name in named)), rest
