"""What a run has done, from storage alone: while it goes on, or after it died. `python -m jobs.status RUN`."""

import platform
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

import salcore
from jobs import command, in_training
from jobs.lock import STALE_S, Holder, read_holder
from jobs.pace import each
from jobs.progress import clock
from salcore import layout, until
from salcore.errors import Damaged
from salcore.runs import Run
from salcore.sallm import variants
from salcore.search import record
from salcore.storage import FileInfo


def status(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.guarded("status", act, argv)


def act(arguments: list[str]) -> int:
    """Print one line per stage."""
    parser = command.Parser(prog="python -m jobs.status", description="Show what a run has done and what it lacks.")
    parser.add_argument("run", metavar="RUN", help="a run directory: a folder or a URI")
    print(describe(salcore.open(parser.parse_args(arguments).run), time.time()))
    return 0


def describe(run: Run, now: float) -> str:
    """Members trained, in training and failed; shards per method; statistics; report; who drives the run.

    `now` is in seconds since 1970: rates and the time left follow from it and the times on storage.
    """
    if "sallm" in run.fingerprints:
        return "\n".join(_students(run, now))
    if "search" in run.fingerprints:
        return "\n".join(_trials(run, now))
    driver, since = _driver(run, now)
    lines = [f"run      {run.store}", f"driver   {driver}", *in_training.lines(run, since, now)]
    if run.spec.ensemble.until is not None:
        taken = until.read(run.store, run.spec, run.fingerprints.get("member", ""))
        looks = [until.told(look, run.spec.ensemble) for look in taken if look.members <= run.planned]
        lines.append(f"until    {looks[-1] if looks else 'no look taken yet'}")
    lines += _maps(run, since, now)
    if run.spec.parameters is not None:
        lines += _filters(run)
    lines.append(_report(run))
    return "\n".join(lines)


def _maps(run: Run, since: float | None, now: float) -> Iterator[str]:
    """A line for each method, and one for how fast shards are made while they are."""
    spec, files = run.spec, run.store.files("maps")
    shards = {name: info for name, info in files.items() if re.fullmatch(r".*/part-\d+\.arrow", name)}
    made = Counter(name.split("/")[1] for name in shards)
    summary = run.summary.to_pylist() if run.store.exists(layout.SUMMARY) else []
    left_out = {row["method"]: row["non_finite"] for row in summary if row.get("non_finite")}
    missing = 0
    for method in spec.attribution.methods:
        samples = min(spec.data.eval_samples, method.samples or spec.data.eval_samples)
        parts = len(list(layout.ranges(samples, spec.attribution.shard_samples)))
        if not spec.attribution.keep_maps:
            yield f"reduce   {method.folder}: {len(run.stats_files(method.folder))}/{parts} ranges, maps are not kept"
            continue
        total = len(run.members) * parts
        missing += max(0, total - made[method.folder])
        stats = "reduced" if method.folder in run.methods else "not reduced"
        bad = f"; {left_out[method.folder]} maps not finite, left out" if method.folder in left_out else ""
        yield f"explain  {method.folder}: {made[method.folder]}/{total} shards, {stats}{bad}"
    if missing and since is not None:
        yield from _speed([info for info in shards.values() if info.mtime_ns > since * 1e9], missing, now)


def _speed(shards: Sequence[FileInfo], missing: int, now: float) -> Iterator[str]:
    """How many shards a minute those are, and how long the missing ones take; nothing where that is not known yet."""
    times = sorted(shard.mtime_ns / 1e9 for shard in shards)
    if len(times) > 1 and times[-1] > times[0]:
        seconds = each(times[-1] - times[0], len(times) - 1, now - times[-1])
        yield f"explain  {60 / seconds:.3g} shards/min, {clock(missing * seconds)} left"


def _report(run: Run) -> str:
    return f"report   {run.store.path(layout.REPORT) if run.store.exists(layout.REPORT) else 'not written'}"


def _students(run: Run, now: float) -> Iterator[str]:
    """A line for each of the runs that SalLM consists of, and where the table is."""
    store = run.store
    yield f"run      {store}"
    yield f"driver   {_driver(run, now)[0]}"
    for number, stage in enumerate(variants.stages(run.spec, str(store)), 1):
        for name in stage:
            own = store.child(name)
            if not own.exists(layout.SPEC):
                yield f"stage {number}  {name}: not begun"
                continue
            variant = salcore.open(own.uri)
            done = "reported" if own.exists(layout.REPORT) else "not finished"
            told, *rest = in_training.lines(variant, _driver(variant, now)[1], now)
            yield f"stage {number}  {name}: {told.removeprefix('train    ')}, {done}"
            yield from rest
    yield _report(run)


def _trials(run: Run, now: float) -> Iterator[str]:
    """A line for each trial of a search that was begun: its members, and how it ended."""
    yield f"run      {run.store}"
    yield f"driver   {_driver(run, now)[0]}"
    begun = (re.fullmatch(rf"(trials/[^/]+)/{re.escape(layout.SPEC)}", name) for name in run.store.files("trials"))
    for folder in (match.group(1) for match in begun if match):
        trial = salcore.open(run.store.child(folder).uri)
        over = record.read(trial.store)
        state = "not over" if over is None else over.state if over.reason is None else f"{over.state}: {over.reason}"
        yield f"trial    {folder.partition('/')[2]}: {len(trial.members)}/{trial.planned} members trained, {state}"
    yield _report(run)


def _filters(run: Run) -> Iterator[str]:
    """A line for each split's profiles and for each experiment: how many files there are, and of how many members."""
    for folder, stage, what in (("profiles", "profile ", "shards"), ("blame", "blame   ", "tables")):
        made: dict[str, list[str]] = {}
        for name in run.store.files(folder):
            if match := re.fullmatch(rf"{folder}/(\w+)/member=(\d+)/part-\d+\.\w+", name):
                made.setdefault(match.group(1), []).append(match.group(2))
        for name, members in made.items():
            yield f"{stage} {name}: {len(members)} {what} of {len(set(members))}/{run.planned} members"


def _driver(run: Run, now: float) -> tuple[str, float | None]:
    """Who drives the run, and since when, in seconds since 1970; None if nobody does."""
    try:
        holder = read_holder(run.store)
    except Damaged:
        return f"not known, {run.store.path(layout.LOCK)} is damaged", None
    if holder is None:
        return "none", None
    told = f"process {holder.pid} on {holder.host} since {holder.started}"
    if not _alive(run, holder, now):
        return f"none: {told} has died", None
    return told, datetime.fromisoformat(holder.started).timestamp()


def _alive(run: Run, holder: Holder, now: float) -> bool:
    """Whether a driver is there: as its machine says if that is this one, otherwise as it renews its lock."""
    if holder.host == platform.node():
        return holder.runs_here()
    lock = run.store.info(layout.LOCK)
    return lock is not None and abs(now - lock.mtime_ns / 1e9) < STALE_S


if __name__ == "__main__":
    command.main(status)
