"""What goes wrong with a stage as a whole."""


class Broken(RuntimeError):
    """A stage stopped for a reason that no retry mends, such as a full disk."""
