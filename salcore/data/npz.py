"""A user's own NumPy archive."""

import zipfile
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.source import NAMINGS, Source, from_arrays
from salcore.errors import UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec


def read(spec: "DataSpec", argument: str) -> Source:
    """`npz:PATH`: arrays under the names of `NAMINGS`, and optional `classes`; nothing is unpickled."""
    wanted = {name for naming in NAMINGS for name in naming} | {"classes"}
    return from_arrays(read_arrays(expanded(argument), wanted, "npz:PATH of a NumPy archive"), argument)


def read_arrays(path: Path, wanted: Set[str], form: str) -> dict[str, np.ndarray]:
    """Those of the `wanted` arrays that an archive has. Raises UserError, which asks for `form` if it is no archive."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        raise UserError("data.name", form, str(path))
    arrays = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in sorted(wanted & set(archive.files)):
            try:
                arrays[name] = archive[name]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise UserError("data.name", f"a readable array `{name}` in {path}", str(error)) from error
    return arrays
