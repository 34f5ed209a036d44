"""Ray's memory monitor kills a slot: its member is free at once, and the reason is kept.

On a cluster of its own with a node whose monitor finds any use of memory too much, so none is taken.
"""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.cluster.killing import ROOT
from tests.cluster.nodes import cluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

MONITOR = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "200"}


def main() -> None:
    """A slot of a real queue starts on the node without memory, and takes the one member."""
    with cluster(0) as made:
        made.add_node(num_cpus=1, env_vars=MONITOR)
        import ray

        from cluster.queue import Work
        from cluster.train import _queue_here

        ray.init(address=made.address, log_to_driver=False)
        queue = _queue_here([Work(run=0, member=SimpleNamespace(index=7))], 1, "test")  # or it might be killed itself
        ray.get(queue.status.remote())
        slot = ray.remote(num_cpus=1)(type("Slot", (), {})).remote()
        ray.get(queue.register.remote(0, slot))
        assert ray.get(queue.take.remote(0)).member.index == 7
        over = time.monotonic() + 60
        while not (status := ray.get(queue.status.remote())).given_up:
            assert time.monotonic() < over, status
            time.sleep(0.1)
        print([(work.member.index, work.cause) for work in status.given_up])
        ray.shutdown()


def test_a_slot_that_ray_killed_for_its_memory_gives_its_member_up_with_that_reason():
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-m", "tests.cluster.test_out_of_memory"], cwd=ROOT, env=kept,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "[(7, 'Ray killed it as its node ran out of memory')]"


if __name__ == "__main__":
    main()
