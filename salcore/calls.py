"""What a network calls, seen while it runs: the one way here to look into, or stand in for, a functional operation.

Hooks see modules only. A network may call `torch.relu(x)`, `x.relu()` or `nn.functional.relu(x)`, or run one module
several times; all of them pass through here, in order, on this thread, and nothing of the network is changed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode

Rule = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""(function, positional arguments, keyword arguments) -> what the network gets instead of the function's result."""


class Calls(TorchFunctionMode):
    """A block in which each call of a torch function whose plain name is in `rules` goes to its rule instead.

    Inside a rule torch's functions are themselves. What runs inside another function stays unseen: one of torch's own
    that is written in Python, TorchScript, a custom autograd function.

    >>> import torch
    >>> with Calls({"relu": lambda function, arguments, keywords: "seen"}):
    ...     print(torch.relu(torch.ones(1)), torch.ones(1).relu_(), torch.nn.ReLU()(torch.ones(1)))
    seen seen seen
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self._rules = rules

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch for each of its functions."""
        rule = self._rules.get(plain_name(func))
        return func(*args, **(kwargs or {})) if rule is None else rule(func, args, kwargs or {})


def plain_name(function: Callable[..., Any]) -> str:
    """A torch function's name without the marks of operators and of work in place: `relu_` is `relu`."""
    return getattr(function, "__name__", "").strip("_")
