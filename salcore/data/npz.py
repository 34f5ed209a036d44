"""A user's own NumPy archive."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salcore.data.source import NAMINGS, Source, from_arrays
from salcore.errors import UserError

if TYPE_CHECKING:
    from salcore.spec import DataSpec


def read(spec: "DataSpec", argument: str) -> Source:
    """`npz:PATH`: arrays under the names of `NAMINGS`, and optional `classes`; nothing is unpickled."""
    path = Path(argument).expanduser()
    if not (path.is_file() and zipfile.is_zipfile(path)):
        raise UserError("data.name", "npz:PATH of a NumPy archive", argument)
    wanted = {name for naming in NAMINGS for name in naming} | {"classes"}
    arrays = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in sorted(wanted & set(archive.files)):
            try:
                arrays[name] = archive[name]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise UserError("data.name", f"a readable array `{name}` in {argument}", str(error)) from error
    return from_arrays(arrays, argument)
