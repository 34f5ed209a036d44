"""What Ray's dashboard and the system's list of processes call slots and actors."""

import psutil
import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.worker_group import RayTrainWorker, WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster import naming, start, train
from cluster.pool import work_off


def test_the_actors_of_a_pool_are_called_after_what_they_do(ray_cluster):
    def begin(device):
        return lambda item: psutil.Process().cmdline()[0]

    room = start.Room(slots=1, cpus=1, gpus=0.0)
    found = work_off([1], begin, room, name=str, cure="", title="explain fashion")
    assert [title.partition(".")[0] for _, title in found] == ["ray::MapWorker(MapBatches(explain fashion))"]


def test_a_slot_is_called_after_its_run(monkeypatch):
    """As Ray Train's controller asks for it, at every start of the slot; on a cluster: test_slots."""
    monkeypatch.setattr(WorkerGroup, "_worker_cls", RayTrainWorker)
    for _ in range(2):
        naming.callbacks("slot 0 of fashion")[0].before_worker_group_start(None)
        assert WorkerGroup._worker_cls.__name__ == "RayTrainWorker(slot 0 of fashion)"
        assert WorkerGroup._worker_cls.__bases__ == (RayTrainWorker,)


def test_a_slot_has_none_of_the_helpers_that_it_leaves_out():
    """They are known by name: this release of Ray Train has them, and only they are missing."""
    asked = {"train_loop_per_worker": print, "scaling_config": ScalingConfig(num_workers=1)}
    whole, ours = (
        {type(each).__name__ for each in trainer(**asked)._create_default_callbacks()}
        for trainer in (DataParallelTrainer, train._Trainer)
    )
    assert whole - ours == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
    assert ours < whole


@pytest.mark.parametrize("name", ["a/b", "explain run with (brackets)"])
def test_any_name_is_taken(monkeypatch, name):
    monkeypatch.setattr(WorkerGroup, "_worker_cls", RayTrainWorker)
    naming.callbacks(name)[0].before_worker_group_start(None)
    assert name in WorkerGroup._worker_cls.__name__
