"""The science needs neither Ray nor MLflow, and the rooms import in one direction only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("ray", "mlflow", "matplotlib", "sklearn", "skimage", "transformers", "captum", "pandas", "torch")
SCIENCE = "salcore, salcore.training, salcore.explain, salcore.reduce, salcore.runs, salcore.attribution"


def loaded_after(code):
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    tell = f"import sys; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(finished.stdout.split())


def test_importing_the_science_imports_nothing_heavy():
    assert loaded_after(f"import {SCIENCE}") == {"torch"}


def test_the_test_above_can_fail():
    assert "matplotlib" in loaded_after(f"import {SCIENCE}, matplotlib")


@pytest.mark.parametrize("module", ["cluster.queue", "cluster.reduce", "cluster.naming"])
def test_processes_that_compute_nothing_start_without_torch(module):
    """The queue, reducers and Ray Train's controllers: on few cores imports are what a start takes."""
    assert "torch" not in loaded_after(f"import {module}")


def imported(path):
    """Every module that a file imports, wherever in it; `from a import b` counts as a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(room, packages):
    """Files of a room that import one of the packages."""
    return {
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / room).rglob("*.py"))
        if {name.partition(".")[0] for name in imported(path)} & packages
    }


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [("salcore", {"cluster", "jobs", "ray", "mlflow"}), ("cluster", {"jobs", "mlflow"}), ("jobs", {"ray"})],
)
def test_rooms_import_in_one_direction(room, forbidden):
    assert len(list((ROOT / room).rglob("*.py"))) > 3
    assert importers(room, forbidden) == set()


def test_one_file_imports_mlflow():
    assert set().union(*(importers(room, {"mlflow"}) for room in ("salcore", "cluster", "jobs"))) == {
        "jobs/tracking.py"
    }


def test_the_tests_above_can_fail():
    assert "cluster/train.py" in importers("cluster", {"ray"})
    assert "jobs/stages.py" in importers("jobs", {"cluster"})
