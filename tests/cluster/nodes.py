"""Several nodes on one machine, for tests in processes of their own: each is a raylet with its own workers."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from tests.cluster.killing import ROOT


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A head without cores and so many nodes of one core each; `add_node` and `remove_node` change them."""
    os.environ.update({"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


def raylet(node: Any) -> subprocess.Popen:
    """The process that a node stands and falls with."""
    (found,) = node.all_processes["raylet"]
    return found.process
