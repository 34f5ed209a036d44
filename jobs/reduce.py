"""The third stage alone: statistics from the maps. `python -m jobs.reduce SPEC or RUN`."""

from collections.abc import Sequence

from jobs import command, session

DESCRIPTION = "Reduce the maps of the trained members (missing ones are made) to mean, variance, SNR and SSIM."


def reduce(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("reduce", DESCRIPTION, lambda asked: session.run(asked, ("profile", "explain", "reduce")), argv)


if __name__ == "__main__":
    command.main(reduce)
