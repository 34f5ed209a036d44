"""The first stage alone: train the members of a run. `python -m jobs.train SPEC or RUN`."""

from collections.abc import Sequence

from jobs import command, session

DESCRIPTION = "Train the members of a run that are not trained yet, and stop there."


def train(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("train", DESCRIPTION, lambda asked: session.run(asked, ("train",)), argv)


if __name__ == "__main__":
    command.main(train)
