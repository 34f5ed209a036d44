"""Where downloaded and decoded data is kept."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec


def data_root(spec: "DataSpec") -> Path:
    """`data.root`, else the environment variable `SALCORE_DATA`, else ~/.cache/salcore."""
    return expanded(spec.root or os.environ.get("SALCORE_DATA") or "~/.cache/salcore")


def decoded_root(spec: "DataSpec") -> Path:
    """The folder of memory-mapped decoded images."""
    return data_root(spec) / "decoded"
