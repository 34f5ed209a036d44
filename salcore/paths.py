"""Paths as a person writes them."""

import os
from pathlib import Path

from salcore.errors import UserError


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with the home folder that a leading `~` or `~name` stands for. Raises UserError for an unknown name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            os.fspath(path), "a path whose ~ stands for the home folder of a user of this machine"
        ) from None
