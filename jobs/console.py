"""Keeping the console for messages to a person."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TextIO


@contextmanager
def libraries_write_to(path: Path | None) -> Iterator[TextIO]:
    """Send what libraries write to the standard error into a file (None: nowhere), and yield the console.

    Ray's core and its threads print there what they also log. The file descriptor is redirected, since compiled code
    knows no `sys.stderr`.
    """
    sys.stderr.flush()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    target = os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 2)
    os.close(target)
    try:
        with os.fdopen(kept, "w", buffering=1, closefd=False) as console, os.fdopen(os.dup(2), "w", buffering=1) as log:
            with redirect_stderr(log):
                yield console
    finally:
        os.dup2(kept, 2)
        os.close(kept)
