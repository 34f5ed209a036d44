"""Language models whose attention is taught by saliency explanations. `python -m jobs.sallm SPEC`."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from cluster import start
from cluster.errors import Broken
from jobs import command, ensembles
from jobs.command import Command
from jobs.lock import Lock
from jobs.progress import Progress
from jobs.tracking import Tracker, tracking_uri
from salcore import layout
from salcore.errors import UserError
from salcore.members import fingerprint
from salcore.sallm import page, table, variants
from salcore.sallm.results import Sallm
from salcore.spec import SallmSpec, Spec, fingerprints, parse
from salcore.storage import Store
from salcore.studies.page import printed
from salcore.studies.row import table as as_table
from salcore.training import check_attention

TABLE = "sallm.parquet"
MARK = b"fingerprint"
VERSION = 1
"""Of what the table holds and how it is measured: one of another version is made again."""

DESCRIPTION = """\
SalLM: train a teacher on the task, explain every text with it, and train students on the task and to attend to what the
explanations mark. Every variant (the keys sallm.*) is an ensemble in a run directory of its own, DIR/NAME, which every
other command takes; the loss is set by training.attention.*. Prints validation and test accuracy, how far attention
agrees with explanations that no student saw, and faithfulness, each with its interval, and writes DIR/sallm.parquet and
a page. What is finished is not done again: the same command goes on after an interruption."""


def sallm(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.run("sallm", DESCRIPTION, act, argv)


def act(asked: Command) -> int:
    """Every stage in turn, and what they came to."""
    spec, place = _checked(asked), str(asked.store)
    stages = list(variants.stages(spec, place))
    first = ensembles.plan(stages[0], place, shared=False, retry_failed=asked.retry_failed)
    check_attention(spec.model, spec.training.attention, first[0].plan.data)
    if asked.plan:
        print(f"{len(stages)} stages: " + "; ".join(", ".join(stage) for stage in stages))
        print(ensembles.told(first))
        print("students take about as long as their teacher, a backward pass through attention aside")
        return 0
    uri = tracking_uri(spec, asked.store)
    with Lock(asked.store):
        asked.store.write(layout.SPEC, _text(spec).encode())
        status = _carry_out(stages, place, retry_failed=asked.retry_failed)
        if status:
            return status
        if _measured(asked, stages):
            print(f"nothing to do: {place} is finished ({len(variants.networks(spec))} networks)")
            return 0
        return _tell(spec, asked, stages, uri)


def _checked(asked: Command) -> Spec:
    """The spec with the section `sallm`, whose training is the teacher's. Raises UserError before any work."""
    spec, attention = asked.spec, asked.spec.training.attention
    wrong = (
        (spec.data.tokenizer is None, "model.name", "a language model, transformers:NAME", spec.model.name),
        (spec.training.objective != "standard", "training.objective", "standard, as the teacher is trained on the task "
         "alone; students are taught attention by themselves", spec.training.objective),
        (not spec.training.epochs, "training.epochs", "1 or more, as students are taught in training", 0),
        (spec.ensemble.until is not None, "ensemble.until", "null, as every variant has a member for each seed",
         "a width"),
        (spec.ensemble.weights is not None, "ensemble.weights", "null, as teachers and students are trained", "files"),
        (spec.ensemble.start is not None, "ensemble.start", "null; model.weights is a start for all", "files"),
        (spec.parameters is not None, "parameters", "null, as texts have no filter profiles", "a section"),
        (spec.data.labelled < 1, "data.labelled", "1; sallm.labelled is the share of the semi_supervised variant",
         spec.data.labelled),
        (spec.data.eval_split != "test", "data.eval_split", "test, as explanations are made of all by themselves",
         spec.data.eval_split),
        (attention.explanations is not None, "training.attention.explanations", "null, as the teacher makes them",
         attention.explanations),
        (asked.store.local is None, "--run-dir", "a folder that all nodes see, as weights are read from files",
         str(asked.store)),
        (asked.ensemble_of is not None, "data.name", "that of the run; other data need a spec and another --run-dir",
         spec.data.name),
    )  # fmt: skip
    for mistaken, key, expected, got in wrong:
        if mistaken:
            raise UserError(key, expected, got)
    _check_method(spec)
    spec = spec.model_copy(update={"sallm": spec.sallm or SallmSpec()})
    _check_directory(asked.store, spec)
    return spec


def _check_method(spec: Spec) -> None:
    """Refuse a method that teaches but is none of the spec's, or does not explain every text."""
    methods = {method.folder: method for method in spec.attribution.methods}
    name = spec.training.attention.method or next(iter(methods))
    if name not in methods:
        raise UserError("training.attention.method", f"one of attribution.methods ({', '.join(methods)})", name)
    if methods[name].samples is not None:
        raise UserError("attribution.methods", f"`samples` of {name} to be null, as it teaches", methods[name].samples)


def _check_directory(store: Store, spec: Spec) -> None:
    """Refuse a directory of something else, or whose networks are others; more members and variants may join them."""
    if not store.exists(layout.SPEC):
        return
    text = store.read(layout.SPEC)
    if "sallm" not in fingerprints(text):
        raise UserError("--run-dir", f"a new folder, or that of SalLM; {store} holds another run", str(store))
    before, now = _made_of(parse(text)), _made_of(spec)
    changed = [key for key in now if before[key] != now[key]]
    if "mean_teacher" in before["variants"] and before["members"] != now["members"]:
        changed.append("ensemble.members, and the mean over other teachers is another explanation")
    if wrong := [key for key in changed if key not in ("variants", "members")]:
        raise UserError("--run-dir", f"a new folder, since the networks in {store} differ in {', '.join(wrong)}")


def _made_of(spec: Spec) -> dict[str, Any]:
    """What decides what the networks are, by key."""
    values = spec.to_dict()
    sallm = spec.sallm or SallmSpec()
    found = {f"{part}.{key}": value for part in ("data", "model", "training") for key, value in values[part].items()}
    for key in ("data.root", "data.mirror"):
        del found[key]
    return found | {
        "sallm.labelled": sallm.labelled,
        "ensemble.root_seed": spec.ensemble.root_seed,
        "ensemble.vary": list(spec.ensemble.vary),
        "members": spec.ensemble.members,
        "variants": sallm.variants,
    }


def _text(spec: Spec) -> str:
    marks = {"sallm": fingerprint(_made_of(spec))}
    return yaml.safe_dump({**spec.to_dict(), "fingerprints": marks}, sort_keys=False, width=120)


def _carry_out(stages: Sequence[Mapping[str, Spec]], place: str, *, retry_failed: bool) -> int:
    """Train, explain and reduce the runs of every stage; stops with the first that is not whole."""
    joined = start.joined()
    try:
        for number, stage in enumerate(stages, 1):
            print(f"\nstage {number} of {len(stages)}: {', '.join(stage)}", flush=True)
            asked = ensembles.plan(stage, place, shared=False, retry_failed=retry_failed)
            if not all(ensembles.finished(each) for each in asked):
                start.start()  # once for all stages
            if status := ensembles.run(asked):
                return status
    except Broken as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    finally:
        if not joined:
            start.stop()
    return 0


def _mark(asked: Command, stages: Sequence[Mapping[str, Spec]]) -> str:
    """What the table is of: the runs as their specs tell them, fingerprints and all."""
    names = [name for stage in stages for name in stage]
    specs = [asked.store.read(f"{name}/{layout.SPEC}").decode() for name in names]
    return fingerprint(VERSION, names, specs, asked.spec.training.attention.model_dump(mode="json"))


def _measured(asked: Command, stages: Sequence[Mapping[str, Spec]]) -> bool:
    """Whether table and page are those of the runs as they are."""
    store = asked.store
    if not (store.exists(TABLE) and store.exists(layout.REPORT)):
        return False
    found = store.read_parquet(TABLE).schema.metadata or {}
    return found.get(MARK, b"").decode() == _mark(asked, stages)


def _tell(spec: Spec, asked: Command, stages: Sequence[Mapping[str, Spec]], uri: str) -> int:
    """Measure, write the table and the page, print them, and tell MLflow."""
    torch.set_num_threads(start.cores())  # the slots are gone, and this process measures
    found = Sallm(spec, str(asked.store), "cuda" if torch.cuda.is_available() else "cpu")
    progress = Progress()
    for place, name in enumerate(found.pairs, 1):
        found.measures(name)
        progress.update("measure", place, len(found.pairs), "networks")
    progress.end()
    rows, mark = tuple(table.rows(found)), _mark(asked, stages)
    asked.store.write(layout.REPORT, page.build(found, rows).encode())
    asked.store.write_parquet(TABLE, as_table(rows).replace_schema_metadata({MARK: mark}))
    print(printed(rows))
    print(f"table    {asked.store.path(TABLE)}\npage     {asked.store.path(layout.REPORT)}")
    tracker = Tracker(asked.store, spec, (), fingerprint=fingerprint(_made_of(spec)), uri=uri)
    metrics = {_key(row.what): row.ours for row in rows if math.isfinite(row.ours)}
    if not tracker.finish("FINISHED", metrics=metrics, artifacts=(layout.SPEC, TABLE, layout.REPORT), wait_s=60):
        print("MLflow did not take everything: the same command sends the rest", file=sys.stderr)
    return 0


def _key(what: str) -> str:
    """A row's name as MLflow takes it: letters, digits and blanks."""
    return re.sub(r"[^A-Za-z0-9_/ .-]+", "", what.replace(": ", "/").replace("%", "percent"))[:250]


if __name__ == "__main__":
    command.main(sallm)
