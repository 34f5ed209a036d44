"""Rounds of training, explaining and reducing, until it is settled how many members a run is of (`ensemble.until`)."""

import math
from dataclasses import replace

from jobs import blaming, stages
from jobs.prepare import Plan, resolved
from jobs.stages import Session
from salcore import layout, until


def settle(session: Session, *, retry_failed: bool = False) -> None:
    """Take the looks that are missing. The session's plan is then of the members that the run is of.

    Each look is on storage before the next begins: an interrupted command goes on at the one that it was in.
    """
    plan = session.plan
    if retry_failed:
        _try_again(session)
    while (decision := plan.decision) is not None and not decision.settled:
        session.plan = _by_one_method(plan.first(decision.members))
        look = _look(session)
        plan = plan.looked((*plan.rounds, look))
        until.write(plan.store, plan.spec, plan.fingerprint, plan.rounds)
        session.progress.say(f"until    {until.told(look, plan.spec.ensemble)}")
    session.plan = plan
    plan.store.write(layout.SPEC, resolved(plan).encode())  # its fingerprint of the statistics names their members


def _look(session: Session) -> until.Round:
    """The mean SNR of the plan's members with its interval, from maps that are made where they are missing."""
    stages.train_members(session)
    blaming.profile_members(session)  # which the method that decides may be standardised by
    rows = stages.statistics(session, stages.explain_members(session)).to_pylist()
    row = rows[0] if rows else dict.fromkeys(("snr", "snr_low", "snr_high"), math.nan)  # every member failed
    plan = session.plan
    return until.Round(
        members=len(plan.members),
        failed=tuple(plan.failures()),
        value=row["snr"],
        low=row["snr_low"],
        high=row["snr_high"],
    )


def _try_again(session: Session) -> None:
    """Train the members that failed before this command: once, and not again at every look."""
    plan = session.plan
    failures = plan.failures()
    session.plan = replace(plan, members=tuple(member for member in plan.members if member.index in failures))
    stages.train_members(session, retry_failed=True)


def _by_one_method(plan: Plan) -> Plan:
    """The plan with the one method that decides."""
    attribution = plan.spec.attribution.model_copy(update={"methods": (until.method(plan.spec),)})
    return replace(plan, spec=plan.spec.model_copy(update={"attribution": attribution}))
