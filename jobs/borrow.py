"""A run that explains a user's own images with the ensemble of another, finished run.

The members are copied into the new directory, which then stands on its own: the same stages and commands work on it.
"""

import yaml

import salcore
from jobs.command import Command
from salcore import layout
from salcore.borrowed import is_borrowed
from salcore.errors import UserError
from salcore.layout import member_file
from salcore.member_files import HISTORY, RECORD, WEIGHTS


def borrow(asked: Command) -> None:
    """Copy the members of the run that was named into the new directory. Raises UserError."""
    assert asked.ensemble_of is not None
    run = salcore.open(asked.ensemble_of.uri)
    if not run.members:
        raise UserError("RUN", "a run with trained members", str(asked.ensemble_of))
    if run.store.uri == asked.store.uri:
        raise UserError("--run-dir", "a new folder for the maps of other data", str(asked.store))
    if asked.store.exists(layout.SPEC) and not is_borrowed(asked.store):
        raise UserError("--run-dir", "a new folder, or one of an earlier command like this", str(asked.store))
    for member in run.members:
        for name in (WEIGHTS, HISTORY, RECORD):
            file = member_file(member, name)
            if not asked.store.exists(file):
                asked.store.write(file, run.store.read(file))
    asked.store.write(layout.BORROWED, yaml.safe_dump({"ensemble_of": str(run.store)}).encode())
