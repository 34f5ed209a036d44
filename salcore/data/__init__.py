"""Data sets, by name or the user's own: images `(N, C, H, W)`, series `(N, F, T)`, texts `(N, T)` of word numbers.

>>> from salcore.spec import DataSpec
>>> data = load(DataSpec(name="digits", eval_samples=100))
>>> data.shape, len(data.train), len(data.validation), len(data.evaluation)
((1, 8, 8), 960, 240, 100)
"""

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from salcore.data.assembly import assemble
from salcore.data.part import Data, Part
from salcore.data.source import Source
from salcore.errors import UserError

if TYPE_CHECKING:
    from salcore.spec import DataSpec

__all__ = ["SOURCES", "Data", "Part", "find", "load"]

SOURCES = {
    "digits": "digits.read",
    "mnist": "torchvision_sets.mnist",
    "mnist_series": "torchvision_sets.mnist_series",
    "fashion_mnist": "torchvision_sets.fashion_mnist",
    "cifar10": "torchvision_sets.cifar10",
    "imagenette": "torchvision_sets.imagenette",
    "pasted": "pasted.read",
    "folder": "folder.read",
    "npz": "npz.read",
    "parquet": "parquet.read",
    "eraser": "eraser.read",
    "sst": "sst.read",
    "uea": "uea.read",
    "synthetic": "synthetic.read",
    "python": "python_function.read",
}
"""Who reads a set, `(DataSpec, what stands after the colon) -> Source`: a module of this room and its function.

It is imported when it is asked for: together they would take a second, and libraries that networks do without.
"""

ARGUMENTS = {
    **dict.fromkeys(("folder", "npz", "parquet", "eraser", "sst", "uea"), "PATH"),
    "synthetic": "NAME",
    "python": "package.module:function",
}
"""What stands after the colon in `data.name`, for sources that need it."""


def load(spec: "DataSpec") -> Data:
    """The data set that a spec names, split, checked and measured; a pure function of the files and the spec.

    `train_samples` counts the samples that are trained on plus the validation part, `validation_fraction` of them (but
    for a validation split of the set's own, which stands beside them).
    Raises `UserError` for everything that is wrong with the name, the files or the numbers.
    """
    return assemble(find(spec), spec)


def find(spec: "DataSpec") -> Source:
    """The source that `data.name` stands for, as it was found: neither split nor measured. Raises `UserError`."""
    kind, colon, argument = spec.name.partition(":")
    if kind not in SOURCES or bool(argument) != (kind in ARGUMENTS) or (colon and not argument):
        raise UserError("data.name", _known(kind), spec.name)
    module, _, function = SOURCES[kind].partition(".")
    found: Source = getattr(import_module(f"{__name__}.{module}"), function)(spec, argument)
    return found


def _known(kind: str) -> str:
    forms = {name: f"{name}:{ARGUMENTS[name]}" if name in ARGUMENTS else name for name in SOURCES}
    near = get_close_matches(kind, SOURCES, n=1)
    return f"one of {', '.join(forms.values())}" + (f" (did you mean {forms[near[0]]}?)" if near else "")
