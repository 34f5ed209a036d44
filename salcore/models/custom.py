"""Networks that users bring: `python:package.module:function`, importable from the working directory."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from salcore.errors import UserError
from salcore.settings import nearest

PREFIX = "python:"


def builder(name: str) -> Callable[..., nn.Module]:
    """A builder, under the contract of `MODELS`, around the user's function or class.

    It is called as `function(input_shape=..., classes=K, **settings)`, with the shape of one sample; of the two, what
    its signature does not name is left out. Settings are held against its signature by name; their types are its own
    business.

    Raises UserError, with the key `model.name`, if the name cannot be imported or called.
    """
    function = _find(name)
    # A class or function without a readable signature (a C extension) is told everything.
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return function
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def build(*, input_shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
        offered = {"input_shape": input_shape, "classes": classes}
        arguments = {key: value for key, value in offered.items() if open_ended or key in parameters} | settings
        _check_arguments(name, parameters, arguments, open_ended)
        network = function(**arguments)
        if not isinstance(network, nn.Module):
            raise UserError("model.name", f"{name} to return a torch.nn.Module", type(network).__name__)
        if _lazy(network):
            _fill(network, name, input_shape)
        return network

    return build


def _find(name: str) -> Callable[..., nn.Module]:
    module_name, _, attribute = name.removeprefix(PREFIX).partition(":")
    if not (module_name and attribute):
        raise UserError("model.name", "python:package.module:function", name)
    here = str(Path.cwd())
    if here not in sys.path:
        # Stays there: the user's module may import its neighbours when it is called, not only now.
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError("model.name", f"a module that can be imported from {here} ({error})", name) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if callable(value)]
        raise UserError("model.name", f"a function or class of {module_name}{nearest(attribute, found)}", attribute)
    return function


def _lazy(network: nn.Module) -> bool:
    """Whether weights are made in the first pass, like those of `nn.LazyLinear`."""
    return any(is_lazy(value) for value in (*network.parameters(), *network.buffers()))


def _fill(network: nn.Module, name: str, input_shape: tuple[int, ...]) -> None:
    """Have the lazy weights made now, as what draws all others, by a pass of one sample of zeros."""
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *input_shape))
    except Exception as error:  # whatever a user's forward raises is told in one line, and chained
        wanted = f"{name} to take {(1, *input_shape)}, by which its lazy layers are sized"
        raise UserError("model.name", wanted, f"{type(error).__name__}: {error}") from error
    network.train()
    if _lazy(network):
        raise UserError("model.name", f"{name} to make all of its lazy layers' weights in one pass", "some left unmade")


def _check_arguments(name: str, parameters: Any, arguments: dict[str, Any], open_ended: bool) -> None:
    for key, value in arguments.items():
        if key not in parameters and not open_ended:
            known = [other for other in parameters if other not in ("input_shape", "classes")]
            wanted = ", ".join(known) or "no settings"
            raise UserError(f"model.{key}", f"one of {wanted}{nearest(key, known)}, which {name} takes", value)
    for key, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and key not in arguments:
            raise UserError(f"model.{key}", f"a value, which {name} asks for")
