"""The claims, or those named: `python -m tests.claims [guided nulls noise_table ...]`; writes tests/claims/RESULTS.md.

Exit status 1 if one does not hold. With `--folder` the members are kept, and a second run takes them up.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its pool: here and in the processes

import argparse
import sys
import tempfile
import time
from pathlib import Path

from jobs.sallm import TABLE
from salcore.sallm.page import ABOUT
from salcore.studies import STUDIES
from tests.claims import claim_guided, claim_nulls, ensembles, studies, table

CLAIMS = {"guided": claim_guided, "nulls": claim_nulls}
SALLM = "sallm"
NAMES = (*CLAIMS, *STUDIES, SALLM)


def main() -> int:
    """Run, print, record."""
    parser = argparse.ArgumentParser(prog="python -m tests.claims", description="What the papers found, on small runs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"claims: {', '.join(NAMES)}; none: all")
    parser.add_argument("--folder", type=Path, help="where members are kept; default: a temporary one")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no claim {', '.join(sorted(unknown))}: expected one of {', '.join(NAMES)}")
    sections = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)).absolute()
        for name in arguments.names or NAMES:
            if name == SALLM:
                sections.append(_sallm(folder))
            elif name in STUDIES:
                sections.append(_study(name, folder))
            else:
                sections.append(_section(name, folder / name, arguments.processes))
            table.record(sections[-1:])
    return int(any(row.holds is False for section in sections for row in section.rows))


def _section(name: str, folder: Path, processes: int) -> table.Section:
    claim, started = CLAIMS[name], time.perf_counter()
    found = ensembles.run(claim.specs(), folder, processes=processes, explained=claim.EXPLAINED)
    rows = tuple(claim.rows(found))
    minutes = (time.perf_counter() - started) / 60
    for row in rows:
        print(f"{row.claim}: {row.ours} {row.interval} ({table.verdict(row) or '-'}; {row.why})", flush=True)
    return table.Section(name=name, title=claim.TITLE, setting=claim.SETTING, rows=rows, minutes=minutes)


def _study(name: str, folder: Path) -> table.Section:
    study, started = STUDIES[name], time.perf_counter()
    studies.run(name, folder)
    rows, minutes = tuple(studies.rows(name, folder)), (time.perf_counter() - started) / 60
    title = f"{study.TITLE} ({study.SOURCE})"
    return table.Section(name=name, title=title, setting=study.ABOUT, rows=rows, minutes=minutes)


def _sallm(folder: Path) -> table.Section:
    started = time.perf_counter()
    studies.sallm(folder)
    rows = tuple(studies.rows(SALLM, folder, TABLE))
    minutes = (time.perf_counter() - started) / 60
    title = "Language models taught by explanations (Lake, 2021)"
    return table.Section(name=SALLM, title=title, setting=ABOUT, rows=rows, minutes=minutes)


if __name__ == "__main__":
    sys.exit(main())
