"""All benchmarks, or those named: `python -m tests.benchmarks [g3 g6 g7]`. `--quick` shortens those that take long.

Each module `bench_<id>_<what>.py` says at its head what it measures, against what goal, and how to run it alone; each
runs in a process of its own, so that none inherits another's threads, pages or warm caches.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

MODULES = {path.stem.split("_")[1]: path.stem for path in sorted(Path(__file__).parent.glob("bench_*.py"))}


def main() -> int:
    """Run the modules one after the other; 1 if any of them failed or died."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure and record.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows to run: {', '.join(MODULES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="less work in rows that have a quick mode, which say so")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MODULES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: expected one of {', '.join(MODULES)}")
    quick = ["--quick"] if arguments.quick else []
    chosen = [MODULES[name] for name in arguments.names] or list(MODULES.values())
    statuses = [
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}", *quick]).returncode for name in chosen
    ]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
