"""A short storm; the long one is `make soak`."""

import subprocess
import sys

import pytest

from tests.cluster.killing import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def test_ten_kills_change_no_byte():
    """In a process of its own: it kills what is below it, and the session's cluster is below this one."""
    asked = ("--kills", "10", "--members", "3", "--epochs", "200", "--draws", "300")
    command = [sys.executable, "-m", "tests.cluster.storm", *asked]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ": the same bytes" in done.stdout
