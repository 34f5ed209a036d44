"""A run that explains a user's own images with the ensemble of another, finished run.

The members are copied into the new directory, which then stands on its own: the same stages and commands work on it.
"""

import salcore
from jobs.command import Command
from jobs.prepare import Plan, prepare
from salcore import layout
from salcore.borrowed import is_borrowed
from salcore.errors import UserError
from salcore.runs import Run


def borrow(asked: Command) -> Plan:
    """The plan of a run with the members of the one that was named: it copies them when it begins. Raises UserError."""
    assert asked.ensemble_of is not None
    run = salcore.open(asked.ensemble_of.uri)
    if not run.members:
        raise UserError("RUN", "a run with trained members", str(asked.ensemble_of))
    if lacking := _untrained(run):
        expected = f"a finished run, whose members stay as they are; {lacking} of {run.planned} are not trained yet"
        raise UserError("RUN", expected, str(asked.ensemble_of))
    if run.store.uri == asked.store.uri:
        raise UserError("--run-dir", "a new folder for the maps of other data", str(asked.store))
    if asked.store.exists(layout.SPEC) and not is_borrowed(asked.store):
        raise UserError("--run-dir", "a new folder, or one of an earlier command like this", str(asked.store))
    return prepare(asked, lender=run)


def _untrained(run: Run) -> int:
    """How many members a run will still get; copies are all that there will be."""
    return 0 if is_borrowed(run.store) else run.planned - len({*run.members, *run.failures})
