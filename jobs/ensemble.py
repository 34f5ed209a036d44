"""The main job: train an ensemble, explain with every member, reduce, report. `python -m jobs.ensemble SPEC`."""

from collections.abc import Sequence

from jobs import command, session
from jobs.command import Command

DESCRIPTION = """\
Train an ensemble of independently seeded networks, make every member's saliency maps, reduce them to mean,
variance and signal-to-noise ratio, and write a report. What is finished is not done again: the same command goes on
after an interruption, and more members, methods or samples are added to a finished run."""


def ensemble(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("ensemble", DESCRIPTION, act, argv)


def act(asked: Command) -> int:
    """All stages of the run."""
    return session.run(asked)


if __name__ == "__main__":
    command.main(ensemble)
