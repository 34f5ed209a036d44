"""What a page says of members that are copies from another run: the samples that they explain are not their data."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salcore.spec import Spec


def explained(lender: str, samples: str) -> str:
    """Whose members they are, and the `samples` that they explain."""
    return f"copied from the run {lender}, whose page tells of their training. They explain {samples}"


def how_again(spec: "Spec", lender: str) -> str:
    """What it takes to explain the same samples with the same members again."""
    return (
        f"With the run {lender}, whose members these are, and the same {spec.data.name}. What else was changed of that "
        "run's spec has to be changed again. On the same kind of hardware it gives the same statistics, bit for bit."
    )


def again(spec: "Spec", lender: str) -> str:
    """The command that does so, in another directory."""
    words = ("python", "-m", "jobs.explain", lender, f"data={spec.data.name}", "--run-dir", f"{spec.name}_again")
    return shlex.join(words)
