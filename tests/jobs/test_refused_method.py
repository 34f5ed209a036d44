"""A method that turns out not to explain a trained network: the other maps are kept, and the run goes on without it."""

import pyarrow.parquet as pq
import pytest

NETWORK = """
import torch
from torch import nn


class Gated(nn.Module):
    '''Once trained it masks its features by a comparison, which DeepLIFT has no rule for.'''

    def __init__(self, classes):
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(1), nn.Linear(64, classes)

    def forward(self, x):
        features = self.norm(x).flatten(1)
        return self.last(features * (features > 0) if self.norm.num_batches_tracked > 0 else features)


def build(classes):
    return Gated(classes)
"""
SPEC = """
name: gated
data: {name: digits, train_samples: 100, eval_samples: 20}
model: {name: "python:gated:build"}
ensemble: {members: 2}
training: {epochs: 1, batch_size: 32}
cluster: {slots: 2}
attribution: {methods: [deeplift, gradient]}
"""


@pytest.fixture(scope="module")
def stopped(place, ensemble, tmp_path_factory):
    """The run that met the network, and its folder."""
    (place / "gated.py").write_text(NETWORK)
    (place / "gated.yaml").write_text(SPEC)
    folder = tmp_path_factory.mktemp("gated") / "run"
    return ensemble("gated.yaml", run_dir=folder), folder


def test_the_method_and_the_member_are_named_and_the_other_maps_kept(stopped):
    finished, folder = stopped
    assert finished.status == 1
    assert "stopped: deeplift of member " in finished.err
    assert "hides an operation" in finished.err
    assert "run again without that method" in finished.err
    assert "Traceback" not in finished.err
    for member in (0, 1):
        assert list((folder / f"maps/gradient/member={member:04}").glob("*.arrow"))
        assert not list((folder / "maps").glob(f"deeplift/member={member:04}/*.arrow"))


def test_the_run_goes_on_without_it(stopped, ensemble):
    finished = ensemble("gated.yaml", "attribution.methods=[gradient]", run_dir=stopped[1])
    assert finished.status == 0, finished.err
    assert "explain" not in finished.err.replace("jobs.explain", "")
    assert pq.read_table(stopped[1] / "stats/summary.parquet")["method"].to_pylist() == ["gradient"]
