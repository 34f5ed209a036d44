"""A small ensemble on a few digits: networks with batch-norm and dropout that train in milliseconds."""

import pytest
import torch

from salcore.data import load
from salcore.members import plan
from salcore.spec import parse

SMALL = """
data: {name: digits, train_samples: 100, eval_samples: 21}
model: {name: small_cnn, width: 4, norm: batch, dropout: 0.3}
ensemble: {members: 2}
training: {epochs: 3, batch_size: 32, augment: {crop: 1}}
attribution: {batch_size: 8, shard_samples: 8}
"""


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small():
    """A function that gives the spec, its data and its members, changed by overrides."""

    def make(*overrides):
        spec = parse(SMALL, overrides)
        data = load(spec.data)
        return spec, data, plan(spec, data.digest)

    return make
