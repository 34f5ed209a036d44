"""Parameter-space saliency that is killed in the middle goes on at the shard, and ends as if nothing had happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_what_is_killed_goes_on_at_the_shard(start):
    whole, process = start("undisturbed")
    assert process.wait(PATIENCE_S) == 0, log(whole)
    expected = {name: content for name, (_, content) in made(whole, "profiles", "blame").items()}

    folder, process = start("killed")
    wait(folder, process, lambda: len(made(folder, "profiles")) >= 3, PATIENCE_S)
    kill(process, everything=True)
    profiles = made(folder, "profiles")
    assert 3 <= len(profiles) < len(made(whole, "profiles")), "it was killed in the middle"
    _, process = start("killed")
    wait(folder, process, lambda: len(made(folder, "blame")) >= 2, PATIENCE_S)
    kill(process, everything=False)
    tables = made(folder, "blame")
    _, process = start("killed")
    assert process.wait(PATIENCE_S) == 0, log(folder)

    found = made(folder, "profiles", "blame")
    assert profiles.items() <= found.items(), "no shard was made twice"
    assert tables.items() <= found.items(), "no table was made twice"
    assert {name: content for name, (_, content) in found.items()} == expected
