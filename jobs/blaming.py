"""The stages of parameter-space saliency: filter profiles of both splits, then the experiments on their mistakes."""

import math
import time

import salcore
from cluster import blame as blaming
from jobs.prepare import Plan
from jobs.stages import Session
from salcore import layout, manifests
from salcore.blame import inventory, numbers
from salcore.blame.inventory import Found
from salcore.blame.marks import Marks
from salcore.blame.page import build
from salcore.blame.results import Blame
from salcore.blame.splits import require_apart
from salcore.blame.stored import Profiles
from salcore.errors import UserError
from salcore.logs import Log

MANIFESTS_EVERY_S = 2.0


def profile_members(session: Session) -> None:
    """Make the shards of profiles that are missing or damaged; leave every manifest in step with its folder."""
    plan = session.plan
    if plan.spec.parameters is None:
        return
    found = inventory.profiles(plan.store, Marks(plan.spec, plan.data, plan.members), plan.trained())
    for problem in found.problems:
        session.progress.say(problem)
    try:
        if found.missing:
            require_apart(plan.data, plan.spec.parameters.held_out, plan.spec.parameters.independent)
            with session.timed("profile"):
                _profile(session, found)
    finally:
        if not _settled(plan, found):
            _write_manifests(plan, found, set(found.entries))


def blame_members(session: Session) -> None:
    """Do the experiments whose tables are missing."""
    plan = session.plan
    if plan.spec.parameters is None:
        return
    marks, members = Marks(plan.spec, plan.data, plan.members), plan.trained()
    missing = inventory.lacking(plan.store, marks, members)
    if not missing:
        return
    with session.timed("blame"):
        room, log = session.room(len(missing)), Log(plan.store, "blame")
        try:
            made = blaming.blame(missing, plan.spec, session.data(), members, plan.store, room)
            for done, (item, _) in enumerate(made, 1):
                log.write(f"member {item.member}: {item.file}")
                session.progress.update("blame", done, len(missing), "tables")
        finally:
            log.close()


def write_page(session: Session) -> None:
    """Write the page of parameter-space saliency. Raises UserError where no member makes a mistake."""
    plan = session.plan
    if plan.spec.parameters is not None:
        require_mistakes(session)
        with session.timed("report"):
            plan.store.write(layout.BLAME, build(Blame(salcore.open(plan.store.uri))).encode())


def metrics(plan: Plan) -> dict[str, float]:
    """What MLflow is told of the filters; what is not defined is left out."""
    if plan.spec.parameters is None or not plan.trained():
        return {}
    blame = Blame(salcore.open(plan.store.uri))
    values = {"blame/wrong_less_right": numbers.salience(blame).value, "blame/depth": numbers.depth(blame).value}
    if blame.has("pruning"):
        for choice, rows in numbers.pruned(blame, "paper", "incorrect").items():
            values[f"blame/pruning/incorrect/{choice}"] = rows.mean()[-1].value
    if blame.has("neighbours"):
        shared = numbers.neighbours_share_pair(blame)["all"]
        values |= {"blame/neighbours/same_pair": shared.neighbours.value, "blame/neighbours/chance": shared.chance}
    if blame.has("finetuning"):
        for choice, rows in numbers.tuned(blame, "neighbours_corrected")[0].items():
            values[f"blame/finetuning/neighbours_corrected/{choice}"] = rows.mean()[-1].value
    return {name: value for name, value in values.items() if math.isfinite(value)}


def finished(plan: Plan) -> bool:
    """Whether storage holds all that both stages would make."""
    return profiled(plan) and blamed(plan)


def profiled(plan: Plan) -> bool:
    """Whether storage holds every shard of profiles, and the manifests say so."""
    if plan.spec.parameters is None:
        return True
    found = inventory.profiles(plan.store, Marks(plan.spec, plan.data, plan.members), plan.trained())
    return not found.missing and not found.problems and _settled(plan, found)


def blamed(plan: Plan) -> bool:
    """Whether storage holds the tables of every experiment."""
    if plan.spec.parameters is None:
        return True
    return not inventory.lacking(plan.store, Marks(plan.spec, plan.data, plan.members), plan.trained())


def _profile(session: Session, found: Found) -> None:
    plan = session.plan
    room, log = session.room(len(found.missing)), Log(plan.store, "profile")
    done, written = found.shards - len(found.missing), time.monotonic()
    dirty: set[tuple[str, int]] = set()
    try:
        for item, entry in blaming.blame(found.missing, plan.spec, session.data(), plan.trained(), plan.store, room):
            assert entry is not None, "a shard has one"
            found.entries[item.what, item.member][entry.path] = entry
            dirty.add((item.what, item.member))
            done += 1
            log.write(f"member {item.member}: {item.file}, {entry.rows} samples")
            session.progress.update("profile", done, found.shards, "shards")
            if time.monotonic() - written > MANIFESTS_EVERY_S:
                _write_manifests(plan, found, dirty)
                written = time.monotonic()
    finally:
        _write_manifests(plan, found, dirty)
        log.close()


def _write_manifests(plan: Plan, found: Found, dirty: set[tuple[str, int]]) -> None:
    for split, member in dirty:
        manifests.write(plan.store, layout.profiles_folder(split, member), found.entries[split, member])
    dirty.clear()


def require_mistakes(session: Session) -> None:
    """Say which members make no mistake. Raises UserError if none does."""
    plan = session.plan
    if plan.spec.parameters is None:
        return
    split = plan.spec.parameters.held_out
    without = [m.index for m in plan.trained() if not Profiles(plan.store, split, m.index).wrong.any()]
    if len(without) == len(plan.trained()):
        raise UserError(
            "parameters.held_out", "a split of which a member misclassifies a sample", f"{split}, all right"
        )
    if without:
        session.progress.say(f"members {', '.join(map(str, without))} make no mistake on the {split} samples: left out")


def _settled(plan: Plan, found: Found) -> bool:
    """Whether every manifest says what its folder holds."""
    return all(
        manifests.says(plan.store, layout.profiles_folder(split, member), entries)
        for (split, member), entries in found.entries.items()
    )
