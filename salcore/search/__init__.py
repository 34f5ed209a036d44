"""The search over k and lambda of saliency guided training: which settings are tried, one trial, and what it came to.

A trial is a small ensemble at one setting, and standard training is always the first. Nothing here knows Ray:
`cluster.tune` decides when and where a trial runs.
"""

from salcore.search import record
from salcore.search.goal import Outcome, drop, outcome
from salcore.search.record import Record
from salcore.search.schedule import Schedule, Tried
from salcore.search.settings import STANDARD, Setting, spec_of
from salcore.search.trial import Trial, fail, method_of, over, run

__all__ = [
    "STANDARD",
    "Outcome",
    "Record",
    "Schedule",
    "Setting",
    "Trial",
    "Tried",
    "drop",
    "fail",
    "method_of",
    "outcome",
    "over",
    "record",
    "run",
    "spec_of",
]
