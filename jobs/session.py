"""One command from its plan to its exit status: lock, stages, tracking, and what is printed at the end."""

import sys
from collections.abc import Sequence

from jobs import outcome, stages
from jobs.command import Command, on_termination
from jobs.lock import Lock
from jobs.prepare import Plan, describe, estimate, map_shapes, prepare, resolved
from jobs.progress import Progress
from jobs.stages import Session
from salcore import inventory, layout


def run(asked: Command, wanted: Sequence[str]) -> int:
    """Do the `wanted` stages of a run; returns the exit status. Raises UserError, KeyboardInterrupt."""
    plan = prepare(asked)
    if asked.plan:
        print(describe(plan, map_shapes(plan)))
        print(estimate(plan))
        return 0
    with Lock(plan.store):
        if _finished(plan, wanted, retry_failed=asked.retry_failed):
            print(outcome.table(plan))
            print(f"nothing to do: {plan.store} is finished ({len(plan.trained())} members)")
            return _status(plan)
        print(describe(plan, map_shapes(plan)), flush=True)
        plan.store.write(layout.SPEC, resolved(plan).encode())
        return _do(asked, plan, wanted)


def _do(asked: Command, plan: Plan, wanted: Sequence[str]) -> int:
    import ray

    session = Session(plan=plan, progress=Progress())
    try:
        _stages(session, wanted, retry_failed=asked.retry_failed)
    except KeyboardInterrupt:
        session.progress.end()
        print(f"interrupted; what is finished is kept. Go on with: {asked.again}", file=sys.stderr, flush=True)
        raise
    finally:
        ray.shutdown()
    if "reduce" in wanted:
        print(outcome.table(plan))
    print(outcome.where(plan))
    return _status(plan)


def _stages(session: Session, wanted: Sequence[str], *, retry_failed: bool) -> None:
    on_termination()
    if "train" in wanted:
        stages.train_members(session, retry_failed=retry_failed)
    if "explain" in wanted or "reduce" in wanted:
        found = stages.explain_members(session)
        if "reduce" in wanted:
            stages.reduce_maps(session, found)
    stages.record_times(session)


def _finished(plan: Plan, wanted: Sequence[str], *, retry_failed: bool) -> bool:
    """Whether storage already holds all that these stages would make."""
    if "train" in wanted and plan.untrained(retry_failed=retry_failed):
        return False
    if not plan.store.exists(layout.SPEC) or plan.store.read(layout.SPEC).decode() != resolved(plan):
        return False
    if "explain" in wanted:
        found = inventory.take(plan.store, plan.spec, plan.data, plan.trained())
        if found.missing or found.problems or any(True for _ in stages.ranges_to_reduce(plan, found)):
            return False
    return "report" not in wanted or plan.store.exists(layout.REPORT)


def _status(plan: Plan) -> int:
    failures = plan.failures()
    for index, reason in failures.items():
        print(f"member {index} failed: {reason}", file=sys.stderr)
    if failures:
        print("try failed members again with --retry-failed", file=sys.stderr)
    return 1 if failures else 0
