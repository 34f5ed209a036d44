"""`training.threads: auto`: the planner of `salcore.planner`, where the slots will be."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch

from cluster import start
from salcore.data import Data
from salcore.errors import UserError
from salcore.members import Member
from salcore.planner import Way, measured
from salcore.spec import Spec


def best(spec: Spec, member: Member, data: Data) -> int:
    """Threads of a slot for members like this one; says how they are found, once for the same ones. Raises UserError.

    Measures on this machine, or on the node with the most cores of a cluster that was started elsewhere. A slot that
    has a GPU gets one thread, and so does one that trains nothing.
    """
    if member.weights or not spec.training.epochs:
        return 1
    cores, gpus, nodes = _machines()
    if gpus and spec.cluster.gpus_per_slot != 0:
        return 1
    members = math.ceil(spec.ensemble.members / nodes)
    slots = None if spec.cluster.slots == "auto" else math.ceil(spec.cluster.slots / nodes)
    key = member.fingerprint, cores, members, slots
    if key not in _FOUND:
        print(f"threads  measuring how to share {cores} cores, some 10 seconds or more", flush=True)
        try:
            found = _measured(member, data, cores=cores, members=members, slots=slots)
        except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            why = str(error).strip().splitlines()[-1]
            raise UserError("training.threads", f"a number, as measuring failed ({why})", "auto") from None
        print(told(found, members), flush=True)
        _FOUND[key] = found[0].threads
    return _FOUND[key]


_FOUND: dict[tuple[str, int, int, int | None], int] = {}
WAIT_S = 600.0
"""A cluster has so long to find a node that is free to measure on."""


def told(ways: list[Way], members: int) -> str:
    """Which way was chosen, and how much longer the others would take.

    >>> told([Way(threads=1, slots=2, pace=100.0), Way(threads=2, slots=1, pace=150.0)], 4)
    'threads  2 slots of 1 (1 of 2: 1.33 x the time)'
    """
    first, *others = ways
    slower = [f"{way.slots} of {way.threads}: {way.seconds(members) / first.seconds(members):.2f} x" for way in others]
    return f"threads  {first.slots} slots of {first.threads}" + (f" ({', '.join(slower)} the time)" if others else "")


def _machines() -> tuple[int, float, int]:
    """Cores and GPUs of the largest node, and how many nodes there are."""
    if not start.grows():
        return start.cores(), float(torch.cuda.device_count()), 1
    with _joined():
        nodes = start.nodes()
    most = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")}
    if most["CPU"] < 1:
        raise UserError("training.threads", "a number, as no node has cores yet to measure on", "auto")
    return int(most["CPU"]), most["GPU"], sum(node.get("CPU", 0.0) > 0 for node in nodes)


def _measured(member: Member, data: Data, *, cores: int, members: int, slots: int | None) -> list[Way]:
    given: Any = {"cores": cores, "members": members, "slots": slots}
    if not start.grows():
        return measured(member, data, **given)
    with _joined():
        found = ray.remote(num_cpus=cores, max_retries=0)(measured).remote(member, data, **given)
        try:
            return ray.get(found, timeout=WAIT_S)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(found)  # or it would take a node once one is free
            raise


@contextmanager
def _joined() -> Iterator[None]:
    """A block within the cluster, which is left after it unless this process was in it before."""
    before = start.joined()
    start.start()
    try:
        yield
    finally:
        if not before:
            start.stop()
