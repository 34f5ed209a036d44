"""The second stage alone, or a user's own images through a finished ensemble. `python -m jobs.explain`."""

from collections.abc import Sequence

from jobs import command, session
from jobs.borrow import borrow
from jobs.command import Command

DESCRIPTION = """\
Make the maps that a run lacks:        python -m jobs.explain SPEC or RUN
Explain your own images with the ensemble of a finished run, reduce and report:
                                       python -m jobs.explain RUN data=folder:PATH --run-dir NEW"""


def explain(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("explain", DESCRIPTION, act, argv)


def act(asked: Command) -> int:
    """Explain; with other data than the members', into a new directory."""
    if asked.ensemble_of is not None:
        return session.carry_out(asked, borrow(asked), ("explain", "reduce", "report"))
    return session.run(asked, ("profile", "explain"))


if __name__ == "__main__":
    command.main(explain)
