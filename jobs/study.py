"""A paper's experiment, printed beside the paper's numbers. `python -m jobs.study NAME`."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

import salcore
from cluster import start
from cluster.errors import Broken
from jobs import command, ensembles
from salcore.errors import UserError
from salcore.runs import Run
from salcore.settings import find_mistake, nearest
from salcore.spec import Spec, parse, value_of
from salcore.storage import Store
from salcore.studies import STUDIES
from salcore.studies.page import build, printed
from salcore.studies.row import table

DESCRIPTION = """\
Do one of the papers' experiments: train the ensembles that it needs, explain, reduce, and print what came out beside
the paper's numbers. Ensembles lie beside the study's folder and are shared: two studies that need the same one train it
once, and a study that is run again only reads. Overrides hold for all of a study's ensembles; `study.<axis>=value`
changes what the study varies."""


def study(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.guarded("study", act, argv)


def act(arguments: list[str]) -> int:
    """Run the ensembles, write study.parquet and the page, print the table."""
    given = _parser().parse_intermixed_args(arguments)
    found = _named(given.name)
    axes = [override for override in given.overrides if override.startswith("study.")]
    specs = specs_of(found, given.preset, axes, [each for each in given.overrides if each not in axes])
    home = given.run_dir or f"runs/{given.name}{'_full' * (given.preset == 'full')}"
    command.check_lasting(home)
    store, folder = Store(home), given.ensembles or f"{home.rstrip('/').rpartition('/')[0] or '.'}/ensembles"
    command.check_lasting(folder, "--ensembles")
    asked = ensembles.plan(specs, folder, retry_failed=given.retry_failed)
    if given.plan:
        print(ensembles.told(asked))
        return 0
    try:
        status = ensembles.run(asked)
    except Broken as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    runs = {each.name: salcore.open(each.plan.store.uri) for each in asked}
    if lacking := [name for name, run in runs.items() if not run.methods]:
        print(f"stopped: there are no statistics of {', '.join(lacking)}", file=sys.stderr)
        return 1
    _tell(found, runs, store)
    return status


def _tell(found: ModuleType, runs: Mapping[str, Run], store: Store) -> None:
    """Write the table and the page, and print them."""
    torch.set_num_threads(start.cores())  # the slots are gone, and this process measures
    rows = tuple(found.rows(runs))
    store.write_parquet("study.parquet", table(rows))
    store.write("report/index.html", build(found, rows, found.figures(runs), runs).encode())
    print(printed(rows))
    print(f"table    {store.path('study.parquet')}\npage     {store.path('report/index.html')}")


def specs_of(found: ModuleType, preset: str, axes: Sequence[str], overrides: Sequence[str]) -> dict[str, Spec]:
    """The specs of a study's ensembles, by name. Raises UserError."""
    settings = dict(found.PRESETS[preset])
    for override in axes:
        axis, value = _axis(override)
        settings[axis] = value
    if mistake := find_mistake(found.ensembles, settings):
        raise UserError(f"study.{mistake.setting}", mistake.expected, mistake.got)
    try:
        values = found.ensembles(**settings)
    except UserError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError("study", f"axes of the kind that --help shows ({type(error).__name__}: {error})") from None
    if not values:
        raise UserError("study", "axes that leave an ensemble", settings)
    specs = {name: parse(json.dumps(each, default=str), overrides) for name, each in values.items()}  # of dates, say
    _check_methods(found, specs)
    return specs


def _check_methods(found: ModuleType, specs: Mapping[str, Spec]) -> None:
    """Refuse an override that takes away the method that the study is about."""
    wanted = getattr(found, "METHOD", None)
    for spec in specs.values():
        folders = [method.folder for method in spec.attribution.methods]
        if wanted is not None and wanted not in folders:
            raise UserError("attribution.methods", f"{wanted} among them, which this study is about", folders)


def _axis(override: str) -> tuple[str, Any]:
    """The axis that `study.axis=value` names, and its value. Raises UserError."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(override, "study.axis=value")
    return key.removeprefix("study."), value_of(key, text)


def _named(name: str) -> ModuleType:
    if name not in STUDIES:
        raise UserError("NAME", f"one of {', '.join(STUDIES)}{nearest(name, STUDIES)}", name)
    return STUDIES[name]


def _parser() -> command.Parser:
    parser = command.Parser(
        prog="python -m jobs.study",
        description=DESCRIPTION,
        epilog="\n".join(_told()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="an experiment (see below)")
    parser.add_argument(
        "overrides", metavar="key.sub=value", nargs="*", help="changes of every ensemble's spec, or study.axis=value"
    )
    parser.add_argument("--preset", choices=("small", "full"), default="small", help="small: half an hour on 2 cores")
    parser.add_argument("--run-dir", metavar="DIR", help="where table and page go (default: runs/NAME or NAME_full)")
    parser.add_argument("--ensembles", metavar="DIR", help="where ensembles lie (default: ensembles beside it)")
    parser.add_argument("--retry-failed", action="store_true", help="try failed members again")
    parser.add_argument("--plan", action="store_true", help="print what would be done and how long it takes, then stop")
    return parser


def _told() -> Iterator[str]:
    """What `--help` says of every study."""
    yield "experiments, with the axes of the presets small and full (study.AXIS=VALUE):"
    for name, found in STUDIES.items():
        yield f"  {name}: {found.TITLE} ({found.SOURCE})"
        for axis, value in found.PRESETS["small"].items():
            full = found.PRESETS["full"][axis]
            yield f"    {axis} = {json.dumps(value)}" + (f" | {json.dumps(full)}" if full != value else "")


if __name__ == "__main__":
    command.main(study)
