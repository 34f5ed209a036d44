"""The search over k and lambda of saliency guided training, on Ray Tune. `python -m jobs.tune SPEC`."""

import sys
import time
from collections.abc import Sequence
from functools import partial

from cluster import start, tune
from cluster.errors import Broken
from cluster.source import Source
from jobs import command, searches
from jobs.command import Command
from jobs.console import libraries_write_to
from jobs.lock import Lock
from jobs.outcome import where
from jobs.progress import Progress
from jobs.searches import Search
from jobs.tracking import Tracker, tracking_uri
from jobs.trial_forwarding import TrialForwarder
from salcore import layout
from salcore.search import Record, outcome
from salcore.search.table import printed

SCRATCH = ".tune"
"""Ray Tune's own state, of no use afterwards: what is left to do is asked of the trials' own files."""

DESCRIPTION = """\
Search over k (training.guidance.mask_fraction) and lambda (training.guidance.weight) of saliency guided training, as
the keys search.* say; with training.objective=attention over training.attention.top and weight, and its layers where
search.layers lists some.
Every trial is a small ensemble in a run directory of its own, DIR/trials/NAME; standard training is always one. Prints
accuracy, debiased SNR and faithfulness of all trials, and writes the chosen setting as a spec. What is finished is not
done again: the same command goes on after an interruption, and a search may get more trials."""


def tune_(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("tune", DESCRIPTION, act, argv)


def act(asked: Command) -> int:
    """All trials of the search, and its results."""
    found = searches.checked(asked)
    if asked.plan:
        print(searches.told(found, time=True))
        return 0
    uri = tracking_uri(found.spec, asked.store)
    with Lock(asked.store):
        if asked.retry_failed:
            found.schedule.forget_failed()
        if searches.finished(found):
            records = _printed(found)
            print(f"nothing to do: {asked.store} is finished ({len(records)} trials)")
            return _status(records)
        print(searches.told(found, time=False), flush=True)
        asked.store.write(layout.SPEC, searches.text_of(found).encode())
        for name in (searches.TABLE, layout.CHOSEN, layout.REPORT):
            asked.store.delete(name)  # out of date from here on: a search that dies must not look finished
        return _do(found, uri)


def _do(found: Search, uri: str) -> int:
    store, joined, ending = found.plan.store, start.joined(), None
    log = store.local / "logs" / "driver.log" if store.local else None
    try:
        with libraries_write_to(log) as console:
            progress = Progress(console)
            forwarder = partial(TrialForwarder, trials=found.begun, outcome=lambda: ending)
            tracker = Tracker(
                store, found.spec, (),
                fingerprint=found.fingerprint, uri=uri, tell=progress.say, forwarder=forwarder,
            )  # fmt: skip
            with tracker:
                try:
                    _try_all(found, progress)
                finally:
                    if not joined:  # before MLflow hears how it ended, so that nothing is tried after that
                        start.stop()
                records = found.schedule.records()
                ending = outcome(records, found.spec.search)
                searches.write_results(found, records, ending)
                sent = tracker.finish(
                    "FAILED" if any(record.state == "failed" for record in records) else "FINISHED",
                    metrics=searches.numbers(records, ending),
                    artifacts=searches.ARTIFACTS,
                    wait_s=60,
                )
    except Broken as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    _printed(found)
    print(where(found.plan, uri))
    if not sent:
        print("MLflow did not take everything: the same command sends the rest", file=sys.stderr)
    return _status(records)


def _try_all(found: Search, progress: Progress) -> None:
    """Do the trials that are not over, and show how far they are."""
    schedule, spec, store = found.schedule, found.spec, found.plan.store
    left = len(schedule) - len(schedule.records())
    if not left:
        return
    start.start()
    room = start.room(spec.cluster, spec.training.pinned, left, start.nodes(), grows=start.grows())
    progress.say(f"tune     {left} trials of {spec.ensemble.members} members, {room.slots} at the same time, "
                 f"{room.cpus} threads" + (f" and {room.gpus:g} GPUs each" if room.gpus else " each"))  # fmt: skip
    source = Source.of(found.plan.data, spec.data)
    name = f"{spec.name}-{found.fingerprint[:8]}-{int(time.time())}"
    at_work: dict[str, int] = {}
    for heard in tune.search(schedule, source, room, found.begin, name=name, scratch=store.path(SCRATCH)):
        at_work[heard.trial] = heard.members
        if heard.over is not None:
            del at_work[heard.trial]
            left -= 1
            if heard.over.reason is not None:
                progress.say(f"{heard.trial} failed: {heard.over.reason}")
        now = ", ".join(f"{trial} {members}/{spec.ensemble.members}" for trial, members in at_work.items())
        progress.update("tune", len(schedule) - left, len(schedule), "trials", now)
    progress.end()
    store.delete_folder(SCRATCH)


def _printed(found: Search) -> list[Record]:
    """Print the table of the trials that are over; returns them."""
    records = found.schedule.records()
    print(printed(records, outcome(records, found.spec.search)))
    return records


def _status(records: Sequence[Record]) -> int:
    """The exit status of what stands on storage; names the trials that failed."""
    failed = [record for record in records if record.state == "failed"]
    for record in failed:
        print(f"{record.name} failed: {record.reason}", file=sys.stderr)
    if failed:
        print("try failed trials again with --retry-failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    command.main(tune_)
