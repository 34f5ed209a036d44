"""DeepLIFT: the change of the output between a baseline and the input, shared out by multipliers instead of slopes."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from salcore.attribution.autograd import derivative, prepared, select
from salcore.attribution.baseline import Baseline, as_baseline
from salcore.attribution.linear import non_linear
from salcore.attribution.recurrence import RECURRENT
from salcore.attribution.rescale import ELEMENTARY, NoRule, Values, is_active
from salcore.calls import Calls, plain_name
from salcore.padding import Bound, bound
from salcore.precision import whole_float32
from salcore.settings import Within

RULES = ELEMENTARY | RECURRENT
_OTHERS = "use integrated_gradients or gradient_shap, which need no rules"
_ROUNDING, _STRUCTURAL = 1e-4, 1e-6
"""Completeness residuals that rounding may leave in float32, and that it does not leave in float64."""


def deeplift(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    baseline: Baseline = None,
    seed: Annotated[int, Within(0)] = 0,
) -> Tensor:
    """S(x) = m (x - b), with m the product of the Rescale rule's multipliers along all paths, logit of the target.

    Inputs (N, ...), targets (N,); returns the inputs' shape, whose sum is f_t(x) - f_t(b) (completeness). Rules act on
    what the network calls, not on its modules: functional and in-place activations, modules used several times,
    max-pooling beside an activation and products of two branches are all right. Layer and group normalisation, and
    LSTMs, go through the rules of their parts. `seed` is that of a random baseline.

    Costs one gradient of the batch and one forward pass of the baseline, which is one sample where all share it. What
    misses completeness by more than 1e-4 in float32 is explained again by a float64 copy of the network, and half
    precision by a float32 copy: quotients of near numbers have no digits there.

    Raises ValueError, with its name, for an operation without a rule (softmax, and so attention), and for a network
    that hides operations from autograd so that its maps are not complete.

    Learning Important Features Through Propagating Activation Differences (Shrikumar et al., 2017), Rescale rule.
    """
    with prepared(model, inputs, targets) as (inputs, targets), whole_float32():
        start = as_baseline(baseline, inputs, seed=seed)
        if torch.finfo(inputs.dtype).bits < 32:
            maps = _complete(deepcopy(model).float(), inputs.float(), targets, start.float())
            return maps.to(inputs.dtype)
        return _complete(model, inputs, targets, start)


@dataclass(frozen=True, kw_only=True)
class _Account:
    """Maps (N, ...), and how far each sum is from the change of its logit: `rest`, in logits, (N,) as all that follows.

    `scale` is what it is measured by, |f(x) - f(b)|, or 1 % of the map's magnitudes where that is more; `limit` what
    rounding may leave in the precision of the logits, whose difference is no more certain than they are.
    """

    maps: Tensor
    rest: Tensor
    scale: Tensor
    limit: Tensor


def _complete(model: nn.Module, inputs: Tensor, targets: Tensor, start: Tensor) -> Tensor:
    """The maps, each of which accounts for the change of its logit. Raises ValueError where one cannot."""
    account = _explained(model, inputs, targets, start)
    maps = account.maps
    if maps.dtype == torch.float64:
        _require_complete(account)
    elif bool((poor := account.rest > _ROUNDING * account.scale).any()):
        exact = inputs[poor].double(), targets[poor.cpu()], start[poor].double()
        try:
            finer = _explained(_of_rows(deepcopy(model).double(), poor), *exact)
        except (RuntimeError, TypeError) as error:  # a network that cannot be copied, or insists on its precision
            if bool((account.rest > account.limit).any()):
                raise _incomplete(
                    f", and its float64 copy, which would tell, fails ({type(error).__name__})"
                ) from error
            return maps
        _require_complete(finer)
        maps[poor] = finer.maps.to(maps.dtype)
    return maps


def _of_rows(model: nn.Module, rows: Tensor) -> nn.Module:
    """The model for some samples of the batch: one that is bound to the steps of all of them is bound to theirs."""
    return bound(model.model, model.get_buffer("valid")[rows]) if isinstance(model, Bound) else model


def _require_complete(account: _Account) -> None:
    """Raise ValueError where maps miss more than rounding leaves."""
    if bool((account.rest > account.limit).any()):
        raise _incomplete(", such as a comparison, detach() or a lower precision inside")


def _incomplete(why: str) -> ValueError:
    return ValueError(
        "`model`: DeepLIFT's maps miss the change of the logit: the network hides an operation from autograd"
        f"{why}; {_OTHERS}"
    )


def _explained(model: nn.Module, inputs: Tensor, targets: Tensor, start: Tensor) -> _Account:
    """The maps with the network's values at the baseline from one sample, where all share it and that works out."""
    shared = len(inputs) > 1 and start.stride(0) == 0
    try:
        multipliers, at_input, at_baseline = _multipliers(model, inputs, targets, start[:1] if shared else start)
    except Exception:
        if not shared:
            raise
        # A network may treat a single sample in another way (`squeeze`, a loop over samples): all of them tell.
        multipliers, at_input, at_baseline = _multipliers(model, inputs, targets, start)
    maps = multipliers * (inputs - start)
    flat, change = maps.flatten(1).double(), at_input.double() - at_baseline.double()
    largest = torch.maximum(at_input.abs(), at_baseline.abs()).double()
    scale = torch.maximum(change.abs(), 0.01 * flat.abs().sum(1))
    share = _STRUCTURAL if at_input.dtype == torch.float64 else _ROUNDING
    limit = share * scale + 1e4 * torch.finfo(at_input.dtype).eps * largest
    return _Account(maps=maps, rest=(flat.sum(1) - change).abs(), scale=scale, limit=limit)


def _multipliers(model: nn.Module, inputs: Tensor, targets: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The multipliers of the input (N, ...), f(x) and f(b) (N,); `reference` holds 1 or N baselines."""
    at_baseline, kept = _at_baseline(model, reference, targets)
    inputs = inputs.detach().requires_grad_()
    tape = iter(kept)
    try:
        with Calls({name: _with_baseline(rule, tape) for name, rule in RULES.items()}):
            selected = select(model(inputs.clone()), targets)
        if unused := next(tape, None):
            raise NoRule(f"a network that calls {unused[0]} on the baseline where it calls nothing on the input")
    except NoRule as error:
        raise ValueError(f"`model`: DeepLIFT has no rule for {error}; {_OTHERS}") from None
    if name := non_linear(selected, inputs, frozenset({"_RuledBackward"})):
        where = " inside another function, of torch or TorchScript" if name in RULES else ""
        name = "attention" if "attention" in name else name
        raise ValueError(f"`model`: DeepLIFT has no rule for {name}{where}; {_OTHERS}")
    return derivative(selected, inputs), selected.detach(), at_baseline


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
