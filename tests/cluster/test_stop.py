"""The end of a cluster that was started here."""

import contextlib
import os
import subprocess
import sys

import psutil
import pytest

from tests.cluster.killing import ROOT

pytestmark = pytest.mark.faults

PROGRAM = """
import atexit, os, signal, time
import ray
from cluster import start

@ray.remote(num_cpus=0)
class Stuck:
    def pid(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        atexit.register(time.sleep, 1000)
        return os.getpid()

start.LEAVE_S = 0.5
start.start()
actor = Stuck.remote()
pid = ray.get(actor.pid.remote())
del actor  # it begins to end, and never does
time.sleep(2)
start.stop()
print(pid)
"""


def test_a_worker_that_hangs_at_its_end_is_ended():
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env={**kept, "PYTHONPATH": str(ROOT)},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout.split()[-1])).wait(10)  # raises where it is still there
