"""Language models whose attention is taught by saliency explanations. `python -m jobs.sallm SPEC`."""

import os
import sys
import time
from collections.abc import Sequence

import ray
import torch
import yaml

from cluster import start
from cluster.train import Broken
from jobs import command, ensembles
from jobs.command import Command
from jobs.lock import Lock
from salcore import layout
from salcore.errors import UserError
from salcore.sallm import page, table, variants
from salcore.sallm.results import Sallm
from salcore.spec import SallmSpec, Spec
from salcore.studies.page import printed
from salcore.studies.row import table as as_table
from salcore.training import check_attention

TABLE = "sallm.parquet"

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
    spec, place = _checked(asked.spec), str(asked.store)
    stages = list(variants.stages(spec, place))
    first = ensembles.plan(stages[0], place, shared=False, retry_failed=asked.retry_failed)
    check_attention(spec.model, spec.training.attention, first[0].plan.data)
    if asked.plan:
        print(f"{len(stages)} stages: " + "; ".join(", ".join(stage) for stage in stages))
        print(ensembles.told(first))
        print("students take about as long as their teacher, a backward pass through attention aside")
        return 0
    joined, began = ray.is_initialized(), time.perf_counter()
    with Lock(asked.store):
        asked.store.write(layout.SPEC, yaml.safe_dump(spec.to_dict(), sort_keys=False, width=120).encode())
        try:
            for number, stage in enumerate(stages, 1):
                print(f"\nstage {number} of {len(stages)}: {', '.join(stage)}", flush=True)
                status = _carry_out(stage, place, retry_failed=asked.retry_failed)
                if status:
                    return status
        except Broken as error:
            print(f"stopped: {error}", file=sys.stderr)
            return 1
        finally:
            if not joined:
                ray.shutdown()
        _tell(spec, asked, time.perf_counter() - began)
    return 0


def _checked(spec: Spec) -> Spec:
    """The spec with the section `sallm`, whose training is the teacher's. Raises UserError."""
    if spec.training.objective != "standard":
        expected = "standard, as the teacher is trained on the task alone; students are taught attention by themselves"
        raise UserError("training.objective", expected, spec.training.objective)
    if spec.data.tokenizer is None:
        raise UserError("model.name", "a language model, transformers:NAME", spec.model.name)
    if spec.ensemble.until is not None:
        raise UserError("ensemble.until", "null, as every variant has a member for each seed", "a width")
    if spec.training.attention.explanations is not None:
        raise UserError("training.attention.explanations", "null, as the teacher makes them", "a run")
    return spec.model_copy(update={"sallm": spec.sallm or SallmSpec()})


def _carry_out(stage: dict[str, Spec], place: str, *, retry_failed: bool) -> int:
    """Train, explain and reduce the runs of a stage; stops with the first that is not whole."""
    start.start()  # once for all stages
    asked = ensembles.plan(stage, place, shared=False, retry_failed=retry_failed)
    return ensembles.run(asked)


def _tell(spec: Spec, asked: Command, seconds: float) -> None:
    """Measure, write the table and the page, and print them."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the slots are gone, and this process measures
    print("\nmeasuring attention and faithfulness of every network", flush=True)
    found = Sallm(spec, str(asked.store), "cuda" if torch.cuda.is_available() else "cpu")
    rows = tuple(table.rows(found))
    asked.store.write_parquet(TABLE, as_table(rows))
    asked.store.write(layout.REPORT, page.build(found, rows).encode())
    print(printed(rows))
    print(f"table    {asked.store.path(TABLE)}\npage     {asked.store.path(layout.REPORT)}")
    print(f"took     {seconds / 60:.1f} minutes and the measuring")


if __name__ == "__main__":
    command.main(sallm)
