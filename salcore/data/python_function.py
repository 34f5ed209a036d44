"""A user's own function that returns a data set."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salcore.data.source import NAMINGS, Source, from_arrays
from salcore.errors import UserError

if TYPE_CHECKING:
    from salcore.spec import DataSpec


def read(spec: "DataSpec", argument: str) -> Source:
    """`python:package.module:function`: called without arguments, it returns a dict of arrays or a tuple of four.

    The dict has the names of `NAMINGS` and optionally `classes`; the tuple is train_images, train_labels,
    test_images, test_labels. Modules are found in the working directory too.
    """
    with _importable(Path.cwd()):
        function = _function(argument)
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            expected = f"a function that takes no arguments ({error})"
            raise UserError("data.name", expected, f"python:{argument}") from None
        found = function()
    if isinstance(found, Mapping):
        return from_arrays(found, argument)
    if isinstance(found, tuple) and len(found) == 4:
        return from_arrays(dict(zip(NAMINGS[0], found, strict=True)), argument)
    raise UserError("data.name", f"a dict or a tuple of four arrays from {argument}", type(found).__name__)


def _function(argument: str) -> Any:
    module_name, _, name = argument.partition(":")
    if not (module_name and name):
        raise UserError("data.name", "python:package.module:function", f"python:{argument}")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError("data.name", "a module that can be imported", str(error)) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError("data.name", f"a function of the module {module_name}", name)
    return function


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
