"""Joining a Ray cluster, or starting one on this machine, and what it can hold."""

import contextlib
import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from salcore.errors import UserError
from salcore.spec import ClusterSpec

QUIET = {"RAY_TRAIN_METRICS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
"""The progress line is this project's own; Ray's logs stay in its session folder."""
OWN = {
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""For a cluster of this machine alone, which has no dashboard to feed and no spot nodes to watch. Each of some twenty
helper processes then takes 0.4 % of a core instead of 0.7 %, and members train the faster for it."""
LEAVE_S = 1.0
"""When a cluster ends its workers get so long to leave."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the cluster has for slots: their number, and processors and GPUs of one.

    `most` are the slots that there may be once more nodes have joined, where that is more than `slots`. So many `lanes`
    train in one process: slots that share a GPU, as kernels of several processes take turns there.
    """

    slots: int
    cpus: int
    gpus: float
    most: int = 0
    lanes: int = 1


def start() -> None:
    """Join the cluster that `RAY_ADDRESS` names (a Ray job has it set), or start one on this machine.

    Starting twice is joining: a process that is connected stays so.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.update(QUIET)
    with _own_termination():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(runtime_env={"env_vars": QUIET}, **quiet)
        else:
            os.environ.update(OWN)  # workers inherit it; by `runtime_env` those that Ray starts ahead would lie idle
            # Not whichever cluster another program started here; and not all cores of a machine that lends some.
            ray.init(address="local", num_cpus=cores(), include_dashboard=False, **quiet)
            _end_log_monitor()


@contextlib.contextmanager
def _own_termination() -> Iterator[None]:
    """A block after which SIGTERM does what it did before: Ray's own answer to it ends the process without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _end_log_monitor() -> None:
    """End the helper that looks through all logs ten times a second for a driver that asked for none of them."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(part.endswith("log_monitor.py") for part in process.cmdline()):
                process.kill()


def stop() -> None:
    """Leave the cluster; one that was started here ends, with every process of it.

    A worker that is about to end when its node does may wait for it for ever: what is left after a while is killed.
    """
    workers = [each for each in psutil.Process().children(recursive=True) if _is_worker(each)]
    ray.shutdown()
    _, left = psutil.wait_procs(workers, timeout=LEAVE_S)
    for worker in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        command = " ".join(process.cmdline())
        return command.startswith("ray::") or "default_worker.py" in command
    return False


def joined() -> bool:
    """Whether this process is connected to a cluster."""
    return ray.is_initialized()


def cores() -> int:
    """Cores of this machine that a cluster started here has: those that the process may use, and has a share of."""
    share = math.inf
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max" for all of them
        quota, period = map(int, CGROUP.read_text().split())
        share = quota / period
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    return max(1, math.floor(min(usable, share)))


CGROUP = Path("/sys/fs/cgroup/cpu.max")
"""What a container gets of the processors: microseconds in so many, or "max"."""


def grows() -> bool:
    """Whether nodes may join the cluster: one that was started elsewhere may have an autoscaler."""
    return bool(os.environ.get("RAY_ADDRESS"))


def nodes() -> list[Mapping[str, float]]:
    """Resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fitting(cpus: int, gpus: float, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many slots of so many processors and GPUs nodes of these resources hold; one does not span nodes."""
    return sum(
        math.floor(min(node.get("CPU", 0.0) / cpus, node.get("GPU", 0.0) / gpus if gpus else math.inf))
        for node in nodes
    )


def room(
    cluster: ClusterSpec, threads: int, work: int, nodes: Sequence[Mapping[str, float]], *, grows: bool = False
) -> Room:
    """How many slots of `threads` processors nodes of these resources hold, at most `work`.

    With `cluster.slots: auto` there are as many as fit the cores, or the GPUs where a slot takes any; in a cluster that
    `grows` more follow as nodes join. There a number of slots is taken as it is asked for: those that wait for a node
    tell an autoscaler what is wanted. Raises UserError if not even one fits.
    """
    if grows and isinstance(cluster.slots, int):
        gpus = _gpus(cluster, nodes)
        slots = max(1, min(cluster.slots, work))
        return Room(slots=slots, cpus=threads, gpus=gpus, lanes=_lanes(threads, gpus, nodes))
    most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    most_cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    gpus = _gpus(cluster, nodes)
    if gpus > most_gpus:
        raise UserError("cluster.gpus_per_slot", f"no more GPUs than a node of the cluster has ({most_gpus:g})", gpus)
    if grows and not most_cpus:
        raise UserError("cluster.slots", "a number, as no node has cores yet and so many slots ask for nodes", "auto")
    if threads > most_cpus:
        raise UserError(
            "training.threads", f"no more threads than a node of the cluster has cores ({most_cpus:g})", threads
        )
    held = fitting(threads, gpus, nodes)
    if not held:
        expected = f"a slot that one node holds; none has both {threads} cores and {gpus:g} GPUs"
        raise UserError("training.threads", expected, threads)
    if isinstance(cluster.slots, int) and gpus and cluster.slots > held:
        raise UserError(
            "cluster.slots", f"no more slots of {gpus:g} GPUs than the cluster holds ({held})", cluster.slots
        )
    wanted = held if cluster.slots == "auto" else min(cluster.slots, held)
    return Room(
        slots=max(1, min(wanted, work)),
        cpus=threads,
        gpus=gpus,
        most=work if grows else 0,
        lanes=_lanes(threads, gpus, nodes),
    )


def _lanes(cpus: int, gpus: float, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many slots share a GPU: as many as make one up, and as every node that has one has cores for.

    >>> nodes = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 2.0}]
    >>> [_lanes(cpus, gpus, nodes) for cpus, gpus in ((1, 0.0), (1, 0.25), (1, 0.3), (4, 0.25), (1, 1.0))]
    [1, 4, 3, 2, 1]
    """
    held = [fitting(cpus, gpus, [node]) for node in nodes if node.get("GPU")]
    return max(1, min(math.floor(1 / gpus + 1e-9), *held)) if 0 < gpus < 1 and held else 1


def _gpus(cluster: ClusterSpec, nodes: Sequence[Mapping[str, float]]) -> float:
    """GPUs of one slot: as asked for, or one where any node has some."""
    if cluster.gpus_per_slot != "auto":
        return float(cluster.gpus_per_slot)
    return float(any(node.get("GPU", 0.0) > 0 for node in nodes))
