"""The last stage alone: the page, and whatever MLflow has not been told yet. `python -m jobs.report RUN`."""

from collections.abc import Sequence

from jobs import blaming, command, outcome, stages
from jobs.command import Command
from jobs.lock import Lock
from jobs.prepare import prepare
from jobs.progress import Progress
from jobs.records import redacted
from jobs.stages import Session
from jobs.tracking import Tracker, tracking_uri
from salcore import layout
from salcore.errors import UserError

DESCRIPTION = """\
Write the report of a run again, and send MLflow what it has not got (it may have been down). Without statistics, which
python -m jobs.reduce makes, there is no page to write."""


def report(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("report", DESCRIPTION, act, argv)


def act(asked: Command) -> int:
    """Write the page and tell MLflow."""
    plan = prepare(asked)
    reduced = asked.store.exists(layout.SUMMARY)
    if not reduced and plan.untrained():
        expected = "a run whose members are trained (python -m jobs.ensemble goes on with it)"
        raise UserError("RUN", expected, str(asked.store))
    uri = tracking_uri(plan.spec, plan.store)
    with Lock(plan.store):
        session = Session(plan=plan, progress=Progress())
        if reduced:
            stages.write_report(session)
        blamed = blaming.finished(plan)
        if blamed:
            blaming.write_page(session)
        tracker = Tracker(plan.store, plan.spec, plan.members, fingerprint=plan.fingerprint, uri=uri)
        found = outcome.facts(plan)
        told = outcome.metrics(found) | (blaming.metrics(plan) if blamed else {})
        sent = tracker.finish(outcome.mlflow_status(plan), metrics=told, artifacts=layout.ARTIFACTS, wait_s=120)
    print(outcome.table(found))
    print(outcome.where(plan, uri))
    if not sent:
        print(f"MLflow did not take everything; run this again when {redacted(uri)} answers")
    return 0 if sent else 1


if __name__ == "__main__":
    command.main(report)
