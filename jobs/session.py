"""One command from its plan to its exit status: lock, stages, tracking, and what is printed at the end."""

import sys
from collections.abc import Sequence

from cluster import start
from cluster.errors import Broken
from jobs import blaming, outcome, rounds, stages
from jobs.command import Command
from jobs.console import libraries_write_to
from jobs.lock import LOCK, Lock, sweep
from jobs.outlook import describe, estimate, map_shapes
from jobs.prepare import Plan, begin, prepare, resolved
from jobs.progress import Progress
from jobs.stages import Session
from jobs.tracking import Tracker, tracking_uri
from salcore import inventory, layout, until
from salcore.errors import UserError
from salcore.spec import value_of

ALL = ("train", "profile", "explain", "reduce", "blame", "report")
"""Every stage of a run. Profiles and blame are nothing where the spec has no section `parameters`."""


def run(asked: Command, wanted: Sequence[str] = ALL) -> int:
    """Do the `wanted` stages of a run; returns the exit status. Raises UserError, KeyboardInterrupt."""
    return carry_out(asked, prepare(asked), wanted)


def carry_out(asked: Command, plan: Plan, wanted: Sequence[str] = ALL) -> int:
    """Do the `wanted` stages of a plan that is prepared already; otherwise as `run`."""
    if plan.undecided and not {"train", "explain", "reduce"} <= set(wanted):
        one = "python -m jobs.ensemble, as how many members there are is found by training, explaining and reducing"
        raise UserError("ensemble.until", f"{one} in turn; or ensemble.until=null, to train all ensemble.members")
    if asked.plan:
        print(describe(plan, map_shapes(plan)))
        print(estimate(plan))
        return 0
    uri = tracking_uri(plan.spec, plan.store)
    with Lock(plan.store):
        if finished(plan, wanted, retry_failed=asked.retry_failed):
            print(outcome.table(outcome.facts(plan)))
            print(f"nothing to do: {plan.store} is finished ({len(plan.trained())} members{outcome.stopped(plan)})")
            return status(plan)
        print(describe(plan, map_shapes(plan)), flush=True)
        for name in _outdated(plan, wanted, retry_failed=asked.retry_failed):
            plan.store.delete(name)  # before anything is done: a run that dies must not look finished
        begin(plan)
        return _do(asked, plan, wanted, uri)


def _do(asked: Command, plan: Plan, wanted: Sequence[str], uri: str) -> int:
    log = plan.store.local / "logs" / "driver.log" if plan.store.local else None
    joined = start.joined()  # somebody else's cluster stays up
    sent = False
    try:
        with libraries_write_to(log) as console:
            session = Session(plan=plan, progress=Progress(console))
            tell = session.progress.say
            tracker = Tracker(plan.store, plan.spec, plan.members, fingerprint=plan.fingerprint, uri=uri, tell=tell)
            with tracker:
                try:
                    _stages(session, tracker, wanted, retry_failed=asked.retry_failed)
                finally:
                    if not joined:  # before MLflow hears how it ended, so that nothing is trained after that
                        start.stop()
                plan = session.plan
                found, ended = outcome.facts(plan), outcome.mlflow_status(plan)
                told = outcome.metrics(found) | (blaming.metrics(plan) if "blame" in wanted else {})
                sent = tracker.finish(ended, metrics=told, artifacts=layout.ARTIFACTS, wait_s=60)
    except Broken as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    if "reduce" in wanted:
        print(outcome.table(found))
    print(outcome.where(plan, uri))
    if not sent:
        print(f"MLflow did not take everything: python -m jobs.report {plan.store} sends the rest", file=sys.stderr)
    return status(plan)


def _stages(session: Session, tracker: Tracker, wanted: Sequence[str], *, retry_failed: bool) -> None:
    if session.plan.undecided or ("train" in wanted and session.plan.untrained(retry_failed=retry_failed)):
        start.start()
        tracker.ready()  # the run ids stand before workers start
    if session.plan.undecided:
        rounds.settle(session, retry_failed=retry_failed)
    elif "train" in wanted:
        stages.train_members(session, retry_failed=retry_failed)
    if not session.plan.trained():
        return  # every member failed, and there is nothing to explain
    if "profile" in wanted:
        blaming.profile_members(session)
    if "explain" in wanted or "reduce" in wanted:
        found = stages.explain_members(session)
        if "reduce" in wanted:
            stages.reduce_maps(session, found)
    if "blame" in wanted:
        blaming.blame_members(session)
    stages.record_times(session)
    sweep(session.plan.store, spare=(LOCK, layout.MLFLOW))  # before the report, which says that all is done
    if "report" in wanted:
        stages.write_report(session)
        blaming.write_page(session)
        stages.record_times(session)


def finished(plan: Plan, wanted: Sequence[str], *, retry_failed: bool = False) -> bool:
    """Whether storage already holds all that these stages would make."""
    if plan.undecided or ("train" in wanted and plan.untrained(retry_failed=retry_failed)):
        return False
    if not plan.store.exists(layout.SPEC) or plan.store.read(layout.SPEC) != resolved(plan).encode():
        return False
    if "profile" in wanted and plan.trained() and not blaming.profiled(plan):
        return False
    if "explain" in wanted:
        found = inventory.take(plan.store, plan.spec, plan.data, plan.trained())
        if found.missing or found.problems:
            return False
        if "reduce" in wanted and any(True for _ in stages.ranges_to_reduce(plan, found)):
            return False
        found.write()  # of a run that was copied, say, whose files have new times
    if "blame" in wanted and plan.trained() and not blaming.blamed(plan):
        return False
    if "reduce" in wanted and plan.trained() and not plan.store.exists(layout.SUMMARY):
        return False
    if "report" not in wanted:
        return True
    return plan.store.exists(layout.REPORT) and (plan.spec.parameters is None or plan.store.exists(layout.BLAME))


def _outdated(plan: Plan, wanted: Sequence[str], *, retry_failed: bool) -> tuple[str, ...]:
    """The results that these stages will write, and all of them where they are of another spec or of fewer members."""
    summary, pages = (layout.SUMMARY,), (layout.REPORT, layout.BLAME)
    if plan.undecided or plan.untrained(retry_failed=retry_failed) or not _of_this_spec(plan):
        return summary + pages
    return summary * ("reduce" in wanted) + pages * ("report" in wanted)


def _of_this_spec(plan: Plan) -> bool:
    """Whether the directory is of a spec with the same results: it may differ in slots, say, or in its name."""
    if not plan.store.exists(layout.SPEC):
        return False
    before, now = (value_of("spec", text) for text in (plan.store.read(layout.SPEC), resolved(plan)))
    parts = ("fingerprints", "parameters")
    return isinstance(before, dict) and all(before.get(part) == now.get(part) for part in parts)


def status(plan: Plan) -> int:
    """The exit status of what stands on storage; names the members that failed."""
    failures = plan.failures()
    for index, reason in failures.items():
        print(f"member {index} failed: {reason}", file=sys.stderr)
    if failures:
        print("try failed members again with --retry-failed", file=sys.stderr)
    if short := until.unreached(plan.rounds, plan.spec.ensemble):
        print(short, file=sys.stderr)
    return 1 if failures else 0
