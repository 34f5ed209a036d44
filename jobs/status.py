"""What a run has done, from storage alone: while it goes on, or after it died. `python -m jobs.status RUN`."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import salcore
from jobs import command
from jobs.lock import read_holder
from salcore import layout, until
from salcore.errors import Damaged
from salcore.member_files import CHECKPOINT
from salcore.sallm import variants


def status(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.guarded("status", act, argv)


def act(arguments: list[str]) -> int:
    """Print one line per stage."""
    parser = command.Parser(prog="python -m jobs.status", description="Show what a run has done and what it lacks.")
    parser.add_argument("run", metavar="RUN", help="a run directory: a folder or a URI")
    print(describe(salcore.open(parser.parse_args(arguments).run)))
    return 0


def describe(run: "salcore.runs.Run") -> str:
    """Members trained, training and failed; shards per method; statistics; report; who drives the run."""
    if "sallm" in run.fingerprints:
        return "\n".join(_students(run))
    spec, store = run.spec, run.store
    found = (re.fullmatch(rf"members/(\d+)/{re.escape(CHECKPOINT)}", name) for name in store.files("members"))
    checkpoints = [int(match.group(1)) for match in found if match]
    lines = [f"run      {store}", f"driver   {_driver(run)}"]
    lines.append(f"train    {len(run.members)}/{run.planned} members trained")
    lines += [f"         member {index} has a checkpoint" for index in checkpoints]
    lines += [f"         member {index} failed: {reason}" for index, reason in run.failures.items()]
    if spec.ensemble.until is not None:
        taken = until.read(store, spec, run.fingerprints.get("member", ""))
        looks = [until.told(each, spec.ensemble) for each in taken if each.members <= run.planned]
        lines.append(f"until    {looks[-1] if looks else 'no look taken yet'}")
    shards = [name for name in store.files("maps") if re.fullmatch(r".*/part-\d+\.arrow", name)]
    made = Counter(name.split("/")[1] for name in shards)
    summary = run.summary.to_pylist() if store.exists(layout.SUMMARY) else []
    left_out = {row["method"]: row["non_finite"] for row in summary if row.get("non_finite")}
    for method in spec.attribution.methods:
        samples = min(spec.data.eval_samples, method.samples or spec.data.eval_samples)
        total = len(run.members) * len(list(layout.ranges(samples, spec.attribution.shard_samples)))
        stats = "reduced" if method.folder in run.methods else "not reduced"
        bad = f"; {left_out[method.folder]} maps not finite, left out" if method.folder in left_out else ""
        lines.append(f"explain  {method.folder}: {made[method.folder]}/{total} shards, {stats}{bad}")
    if spec.parameters is not None:
        lines += _filters(run)
    lines.append(f"report   {store.path(layout.REPORT) if store.exists(layout.REPORT) else 'not written'}")
    return "\n".join(lines)


def _students(run: "salcore.runs.Run") -> Iterator[str]:
    """A line for each of the runs that SalLM consists of, and where the table is."""
    store = run.store
    yield f"run      {store}"
    yield f"driver   {_driver(run)}"
    for number, stage in enumerate(variants.stages(run.spec, str(store)), 1):
        for name in stage:
            own = store.child(name)
            if not own.exists(layout.SPEC):
                yield f"stage {number}  {name}: not begun"
                continue
            each = salcore.open(own.uri)
            done = "reported" if own.exists(layout.REPORT) else "not finished"
            yield f"stage {number}  {name}: {len(each.members)}/{each.planned} members trained, {done}"
    yield f"report   {store.path(layout.REPORT) if store.exists(layout.REPORT) else 'not written'}"


def _filters(run: "salcore.runs.Run") -> Iterator[str]:
    """A line for each split's profiles and for each experiment: how many files there are, and of how many members."""
    for folder, stage, what in (("profiles", "profile ", "shards"), ("blame", "blame   ", "tables")):
        made: dict[str, list[str]] = {}
        for name in run.store.files(folder):
            if match := re.fullmatch(rf"{folder}/(\w+)/member=(\d+)/part-\d+\.\w+", name):
                made.setdefault(match.group(1), []).append(match.group(2))
        for name, members in made.items():
            yield f"{stage} {name}: {len(members)} {what} of {len(set(members))}/{run.planned} members"


def _driver(run: "salcore.runs.Run") -> str:
    try:
        holder = read_holder(run.store)
    except Damaged:
        return f"not known, {run.store.path(layout.LOCK)} is damaged"
    return "none" if holder is None else f"process {holder.pid} on {holder.host} since {holder.started}"


if __name__ == "__main__":
    command.main(status)
