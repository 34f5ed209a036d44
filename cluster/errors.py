"""What goes wrong with a stage as a whole."""

import errno


class Broken(RuntimeError):
    """A stage stopped for a reason that no retry mends, such as a full disk."""


def full(error: BaseException) -> bool:
    """Whether there is no room left to write to: whatever comes next fails as well."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def unusable(error: BaseException) -> str:
    """What to say of a storage that fails."""
    return f"storage cannot be used ({error}): make room or mend it, then run the same command"


def first_line(error: BaseException) -> str:
    r"""What an error says, without what CUDA adds of how to search for it; its name where it says nothing.

    >>> first_line(RuntimeError("CUDA error: out of memory\nSearch for it.")), first_line(RuntimeError())
    ('CUDA error: out of memory', 'RuntimeError()')
    """
    return (str(error).strip() or repr(error)).splitlines()[0]
