"""What is the user's to mend: a mistake, told in one line, and a file that is not as it was written."""

_ABSENT = object()


class UserError(ValueError):
    """A mistake in a spec, a command line or the data, told in one line: key, what was expected, what was got.

    Commands print it without a traceback and exit with status 2.

    >>> str(UserError("training.epochs", "a number of epochs >= 0", -1))
    'training.epochs: expected a number of epochs >= 0, got -1'
    >>> str(UserError("data.name", "a folder with images"))
    'data.name: expected a folder with images'
    """

    def __init__(self, key: str, expected: str, got: object = _ABSENT) -> None:
        self.key = key
        message = f"{key}: expected {expected}"
        if got is not _ABSENT:
            message += f", got {got!r}"
        super().__init__(" ".join(line.strip() for line in message.splitlines()))

    def __reduce__(self) -> tuple:
        # Crosses process boundaries (Ray) with its message intact: the default would call __init__ with one argument.
        return _restore, (self.key, str(self))


class Damaged(ValueError):
    """A file of a run that is not as it was written: a disk, or somebody's hand, was in it.

    The message names it and says what to do. Commands print it without a traceback and exit with status 1.
    """


def _restore(key: str, message: str) -> UserError:
    error = UserError.__new__(UserError)
    ValueError.__init__(error, message)
    error.key = key
    return error
