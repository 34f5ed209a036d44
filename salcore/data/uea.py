"""Multivariate series with classes, as the UEA archive has them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.cases import Cases, series_source
from salcore.data.npz import read_arrays
from salcore.data.source import Source
from salcore.data.ts_file import read_ts
from salcore.errors import UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec

TRAIN, TEST = "_TRAIN.ts", "_TEST.ts"
FORM = "uea:PATH of NAME for a pair NAME_TRAIN.ts, NAME_TEST.ts, of a folder with one pair, or of a .npz"


def read(spec: "DataSpec", argument: str) -> Source:
    """`uea:PATH`: the stem or a folder or a file of a pair of `.ts` files, or a `.npz` with x_train, y_train, x_test,
    y_test, of shapes (case, time, channel) and (case,).

    Classes are in the order of the training file's header; of a `.npz`, sorted. Series of different lengths need
    `data.length`, to which they are padded or cut.

    Source: The UEA Multivariate Time Series Classification Archive, 2018 (Bagnall et al., 2018).
    """
    path = expanded(argument)
    if path.is_file() and path.suffix == ".npz":
        return _of_arrays(path, spec.length)
    stem = _stem(path)
    files = [Path(f"{stem}{ending}") for ending in (TRAIN, TEST)]
    for file in files:
        if not file.is_file():
            raise UserError("data.name", FORM, f"no {file}")
    (train, classes), (test, _) = map(read_ts, files)
    return series_source(train, test, classes=classes, length=spec.length)


def _stem(path: Path) -> str:
    """What the names of both files begin with."""
    if not path.is_dir():
        return str(path).removesuffix(TRAIN).removesuffix(TEST)
    pairs = sorted(path.glob(f"*{TRAIN}"))
    if len(pairs) != 1:
        names = ", ".join(file.name.removesuffix(TRAIN) for file in pairs)
        raise UserError("data.name", FORM, f"{path} with {names or 'no pair'}")
    return str(pairs[0]).removesuffix(TRAIN)


def _of_arrays(path: Path, length: int | None) -> Source:
    wanted = {"x_train", "y_train", "x_test", "y_test"}
    arrays = read_arrays(path, wanted, FORM)
    if missing := sorted(wanted - set(arrays)):
        raise UserError("data.name", f"{path} with the arrays {', '.join(sorted(wanted))}", f"no {missing[0]}")
    train, test = (_cases(arrays, split) for split in ("train", "test"))
    classes = tuple(map(str, np.unique(arrays["y_train"])))
    return series_source(train, test, classes=classes, length=length)


def _cases(arrays: dict[str, np.ndarray], split: str) -> Cases:
    values, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
    if values.ndim != 3 or values.dtype.kind not in "fiu" or not values.size:
        found = f"{values.dtype} {values.shape}"
        raise UserError("data.name", f"`x_{split}` of numbers (case, time, channel)", found)
    if labels.shape != values.shape[:1]:
        raise UserError("data.name", f"`y_{split}` of shape {values.shape[:1]}, as many as `x_{split}`", labels.shape)
    return Cases(values=[*values.transpose(0, 2, 1)], labels=[*map(str, labels)], origin=f"x_{split}")
