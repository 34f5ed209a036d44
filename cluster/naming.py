"""What Ray's dashboard, and the system's list of processes, call the process of a slot."""

from typing import Any

try:  # Ray Train has no name for its workers but this private one
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback
    from ray.train.v2._internal.execution.worker_group import RayTrainWorker, WorkerGroup
except ImportError:  # another release of Ray: slots are called RayTrainWorker there
    WorkerGroupCallback = None


def callbacks(name: str) -> list[Any]:
    """The callbacks of a trainer whose one worker is to be called so."""
    return [] if WorkerGroupCallback is None else [_Named(name)]


if WorkerGroupCallback is not None:

    class _Named(WorkerGroupCallback):
        """Ray Train calls it in the controller, which has one slot, before it makes the actor."""

        def __init__(self, name: str) -> None:
            self._name = name

        def before_worker_group_start(self, worker_group_context: Any) -> None:
            WorkerGroup._worker_cls = type(f"RayTrainWorker({self._name})", (RayTrainWorker,), {})
