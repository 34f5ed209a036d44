"""The stages of a run. Each finds on storage what is missing, does only that, and says what it found wrong."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

import salcore
from cluster import explain as explaining
from cluster import reduce as reducing
from cluster import start, train, unkept
from cluster.queue import Status
from cluster.source import Source
from jobs.prepare import Plan
from jobs.progress import Progress
from salcore import inventory, layout
from salcore.explain import Made
from salcore.figures import charts, hero, png
from salcore.figures.choose import representative
from salcore.logs import Log
from salcore.report import build, gather
from salcore.report.left_out import NAMED, listed
from salcore.report.provenance import stage_times
from salcore.runs import Run
from salcore.spec import Spec
from salcore.summary import read_stats, summarise

FEW_ITEMS = 500
"""Up to so many, a work item is one method: progress shows, and slots share the last member. Items cost the driver."""

MANIFESTS_S, INDEXES_S = 2.0, 20.0
"""While maps are made, manifests and indexes are written so often."""
SCRATCH = ".train"
"""Ray Train's own state, on storage that all nodes see; of no use after the stage."""
BAD = "is not finite; left out of the statistics"


@dataclass(kw_only=True)
class Session:
    """What the stages of one command share."""

    plan: Plan
    progress: Progress
    connect: Callable[[], None] = start.start
    source: Source | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def join(self) -> None:
        """Join the cluster, if that is not done."""
        self.connect()

    def room(self, work: int) -> start.Room:
        """Join the cluster and see how many slots it has for so much work."""
        self.join()
        return start.room(
            self.plan.spec.cluster, self.plan.spec.training.pinned, work, start.nodes(), grows=start.grows()
        )

    def data(self) -> Source:
        """The data where workers find it, put there once."""
        if self.source is None:
            self.source = Source.of(self.plan.data, self.plan.spec.data)
        return self.source

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to what `report/stages.json` says of a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.progress.end()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def train_members(session: Session, *, retry_failed: bool = False) -> None:
    """Train the members that are not trained yet."""
    plan = session.plan
    pending = plan.untrained(retry_failed=retry_failed)
    if not pending:
        plan.store.delete_folder(SCRATCH)  # a driver may have died just before it did
        return
    with session.timed("train"):
        room = session.room(len(pending))
        session.progress.say(f"train    {len(pending)} members in {room.slots} slots of {room.cpus} threads"
                             + (f" and {room.gpus:g} GPUs" if room.gpus else ""))  # fmt: skip
        run = train.Run(store=plan.store, data=session.data(), members=pending)
        statuses = train.train(
            [run],
            room,
            name=f"{plan.spec.name}-{plan.fingerprint[:8]}-{int(time.time())}",
            attempts=plan.spec.cluster.attempts,
            scratch=plan.store.path(SCRATCH),
        )
        epochs = len(pending) * records_of(plan.spec)
        follow(statuses, session.progress, of=["member"], done=len(plan.members) - len(pending), epochs=epochs)
        plan.store.delete_folder(SCRATCH)


def records_of(spec: Spec) -> int:
    """Records that a member's training makes: one for each epoch, or one where there is nothing to train."""
    return 1 if spec.ensemble.weights else max(spec.training.epochs, 1)


def follow(statuses: Iterator[Status], progress: Progress, *, of: Sequence[str], epochs: int, done: int = 0) -> None:
    """Show how training goes on until it ends; `of` says what the members of each run are called."""
    crashes = 0
    for status in statuses:
        finished, total = status.done + len(status.given_up), done + status.members
        now = ", ".join(f"{of[run]} {member}" for run, member in status.training)
        detail = f"{status.epochs}/{epochs} epochs" + (f", {now} in training" if now else "")
        progress.update("train", done + finished, total, "members", detail)
        if status.crashes > crashes:
            crashes = status.crashes
            progress.say("a slot died; its member goes to the next free one")


def explain_members(session: Session) -> inventory.Inventory:
    """Make the shards that are missing or damaged, and leave every manifest in step with its folder."""
    plan = session.plan
    members = plan.trained()
    found = inventory.take(plan.store, plan.spec, plan.data, members)
    for problem in found.problems:
        session.progress.say(problem)
    for method, count in (+found.outdated).items():
        session.progress.say(f"{count} shards of {method} are of other settings or samples; they are made again")
    if not plan.spec.attribution.keep_maps and plan.store.exists("maps"):
        session.progress.say(f"maps that are there are not used any more: {plan.store.path('maps')} may be deleted")
    if found.missing:
        with session.timed("explain"):
            _explain_missing(session, found)
    found.write()
    return found


def reduce_maps(session: Session, found: inventory.Inventory) -> None:
    """Reduce the ranges whose maps changed, and write the summary."""
    session.plan.store.write_parquet(layout.SUMMARY, statistics(session, found))


def statistics(session: Session, found: inventory.Inventory) -> pa.Table:
    """Reduce the ranges whose maps changed, and sum all of them up: one row per method."""
    plan = session.plan
    if work := list(ranges_to_reduce(plan, found)):
        for name in (layout.REPORT, layout.BLAME):
            plan.store.delete(name)  # they show the statistics that were
        with session.timed("reduce"):
            log = Log(plan.store, "reduce")
            if plan.spec.attribution.keep_maps:
                reduced = reducing.reduce(work, plan.store, session.join)
            else:
                room = session.room(len(work))
                reduced = unkept.reduce(work, plan.spec, session.data(), plan.trained(), plan.store, room)
            for done, each in enumerate(reduced, 1):
                log.write(f"{each.name} from members {', '.join(map(str, each.members))}")
                session.progress.update("reduce", done, len(work), "ranges")
            log.close()
    files = [
        f"{layout.stats_folder(method.folder)}/{path}"
        for method in plan.spec.attribution.methods
        for path in found.paths(method.folder)
    ]
    for method in plan.spec.attribution.methods:
        for name in plan.store.files(layout.stats_folder(method.folder)).keys() - set(files):
            plan.store.delete(name)  # of ranges that an earlier spec asked for
    return summarise(read_stats(plan.store, name) for name in files)


def write_report(session: Session) -> None:
    """Write the page and the figures that stand beside it."""
    plan = session.plan
    if not plan.store.exists(layout.SUMMARY):
        return
    with session.timed("report"):
        run = salcore.open(plan.store.uri)
        for name, content in figures(run).items():
            plan.store.write(name, content)
        plan.store.write(layout.REPORT, build(run).encode())


def figures(run: Run) -> dict[str, bytes]:
    """The run's figures as PNG, by their place in the run directory: what MLflow shows beside the page."""
    method, members = gather(run).main, len(run.members)
    if method is None:
        return {}
    first = run.methods[0]
    shown = representative(run.snr(first), 1)[0]
    label = run.column(method, "label")
    norms = run.column(method, "mean_norm"), run.column(method, "sigma_norm")
    classes = run.record(run.members[0])["classes"]
    drawn = {"snr": charts.snr_by_class(run.snr(method), label, classes)}
    if members > 1:
        drawn["convergence"] = charts.convergence_snr(run.convergence_members(method), *norms)
    pictures = {f"report/{name}.png": png(figure) for name, figure in drawn.items()}
    drawable = members > 1 and run.column(first, "count")[shown] > 0
    return {"report/maps.png": hero(run, first, shown), **pictures} if drawable else pictures


def record_times(session: Session) -> None:
    """Add this command's stage times to those of earlier ones."""
    if not session.seconds:
        return
    store = session.plan.store
    before = stage_times(store)
    total = {stage: before.get(stage, 0.0) + session.seconds.get(stage, 0.0) for stage in {*before, *session.seconds}}
    store.write_json(layout.STAGES, total)
    session.seconds.clear()


def _explain_missing(session: Session, found: inventory.Inventory) -> None:
    plan = session.plan
    members = plan.trained()
    work = found.missing if len(found.missing) > FEW_ITEMS else inventory.by_method(found.missing)
    room = session.room(len(work))
    source = session.data()
    if plan.spec.attribution.target == "ensemble":  # the majority is known once every member has been asked
        items = inventory.without_methods(found.missing)
        for done, made in enumerate(explaining.explain(items, plan.spec, source, members, plan.store, room), 1):
            found.enter(made)
            session.progress.update("predict", done, len(items), "ranges")
    done, total, log = 0, found.shards_missing, Log(plan.store, "explain")
    flaws, saved = _Flaws(session, log), _Saved(found)
    try:
        for made in explaining.explain(work, plan.spec, source, members, plan.store, room):
            found.enter(made)
            for shard in made:
                if shard.method is not None:
                    done += 1
                    log.write(f"member {shard.member}: {shard.method}/{shard.entry.path}, {shard.entry.rows} samples")
                    flaws.see(shard)
            session.progress.update("explain", done, total, "shards")
            saved.keep_up()
    finally:
        found.write_manifests()
        log.close()
    flaws.tell_rest()


class _Flaws:
    """Maps that are not finite: all of them in the log, the first few on the screen."""

    def __init__(self, session: Session, log: Log) -> None:
        self._session, self._log, self._count = session, log, 0

    def see(self, shard: Made) -> None:
        """Tell of a shard's, if it has any."""
        if not shard.non_finite:
            return
        self._count += 1
        who = f"member {shard.member}: {shard.method} of"
        self._log.write(f"{who} samples {', '.join(map(str, shard.non_finite))} {BAD}")
        if self._count <= NAMED:
            self._session.progress.say(f"{who} {listed('sample', shard.non_finite)} {BAD}")

    def tell_rest(self) -> None:
        """Say how many were not told."""
        if self._count > NAMED:
            rest = self._count - NAMED
            self._session.progress.say(f"{rest} more shards hold maps that are not finite: logs/explain.log names them")


class _Saved:
    """What is known of finished shards, put on storage every now and then: after a crash there is less to look at."""

    def __init__(self, found: inventory.Inventory) -> None:
        self._found = found
        self._manifests = self._indexes = time.monotonic()

    def keep_up(self) -> None:
        """Write what is due."""
        now = time.monotonic()
        if now - self._manifests > MANIFESTS_S:
            self._found.write_manifests()
            self._manifests = time.monotonic()
        if now - self._indexes > INDEXES_S:
            self._found.write()
            self._indexes = time.monotonic()


def ranges_to_reduce(plan: Plan, found: inventory.Inventory) -> Iterator[reducing.Work]:
    """Ranges whose statistics do not come from exactly the maps that are there now."""
    members = [member.index for member in plan.trained()]
    for method in plan.spec.attribution.methods:
        kept = found.entries(method.folder, members[0]) if members else {}
        for path, inputs in found.inputs(method.folder, members).items():
            work = reducing.Work(
                method=method.folder,
                path=path,
                members=tuple(members),
                inputs=inputs,
                bytes=kept[path].bytes * len(members) if path in kept else 0,
                metadata={"method": method.folder, "attribution": method.name, "settings": method.settings},
            )
            if not work.done(plan.store):
                yield work
