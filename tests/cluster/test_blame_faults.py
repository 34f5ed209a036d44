"""Parameter-space saliency that is killed in the middle goes on at the shard, and ends as if nothing had happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import salcore
from salcore.blame import inventory
from salcore.blame.marks import Marks
from salcore.blame.worker import Worker
from salcore.members import plan
from salcore.storage import Store
from tests.cluster.killing import Start, kill, log, starting, wait

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),  # MLflow's use of SQLAlchemy
]

PATIENCE_S = 600
SPEC = """
name: killed
data: {name: digits, train_samples: 1000, validation_fraction: 0.6, eval_samples: 100}
model: {name: small_cnn, width: 16}
ensemble: {members: 2}
training: {epochs: 1, batch_size: 32}
cluster: {slots: 2}
attribution: {batch_size: 8, shard_samples: 25, methods: [gradient]}
parameters: {mistakes: 120, neighbours: 3, experiments: [neighbours, pruning]}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Start]:
    with starting(tmp_path_factory.mktemp("killed"), "parameters", SPEC) as run:
        yield run


def made(folder: Path, *kinds: str) -> dict[str, tuple[int, bytes]]:
    """Time and content of all shards of profiles, or of all tables."""
    found = [path for kind in kinds for path in sorted(folder.glob(f"{kind}/*/member=*/part-*"))]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def undisturbed(folder: Path, fresh: Path) -> dict[str, bytes]:
    """What the members of a run come to in this process, without Ray and from the first shard on."""
    run, store = salcore.open(folder), Store(fresh)
    for name in run.store.files("members"):
        store.write(name, run.store.read(name))
    data = run.data()
    members = plan(run.spec, data.digest)
    marks, worker = Marks(run.spec, data, members), Worker(run.spec, data, members, store)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as a slot has
    try:
        for item in inventory.profiles(store, marks, members).missing:
            worker.work(item)
        for item in inventory.lacking(store, marks, members):
            worker.work(item)
    finally:
        torch.set_num_threads(before)
    return {name: content for name, (_, content) in made(fresh, "profiles", "blame").items()}


def test_what_is_killed_goes_on_at_the_shard(start, tmp_path):
    """The driver with all its processes while profiles are made; then the driver alone while tables are."""
    folder, process = start("killed")
    wait(folder, process, lambda: len(made(folder, "profiles")) >= 3, PATIENCE_S)
    kill(process, everything=True)
    profiles = made(folder, "profiles")
    _, process = start("killed")
    wait(folder, process, lambda: len(made(folder, "blame")) >= 2, PATIENCE_S)
    kill(process, everything=False)
    tables = made(folder, "blame")
    _, process = start("killed")
    assert process.wait(PATIENCE_S) == 0, log(folder)

    found = made(folder, "profiles", "blame")
    assert 3 <= len(profiles) < len(made(folder, "profiles")), "it was killed in the middle"
    assert profiles.items() <= found.items(), "no shard was made twice"
    assert tables.items() <= found.items(), "no table was made twice"
    assert {name: content for name, (_, content) in found.items()} == undisturbed(folder, tmp_path / "fresh")
