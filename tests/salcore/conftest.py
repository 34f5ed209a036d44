"""A small ensemble on a few digits: networks with batch-norm and dropout that train in milliseconds."""

import pytest
import torch

from salcore.data import load
from salcore.member_files import train_member
from salcore.members import plan
from salcore.spec import parse
from salcore.storage import Store

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
def store(tmp_path):
    return Store(tmp_path / "run")


@pytest.fixture
def trained(small, store):
    """A function that trains (or finds) the members in one folder and gives what an explainer needs."""

    def make(*overrides):
        spec, data, members = small("training.epochs=1", *overrides)
        for member in members:
            train_member(member, data, store)
        return spec, data, members

    return make


@pytest.fixture
def small():
    """A function that gives the spec, its data and its members, changed by overrides."""

    def make(*overrides):
        spec = parse(SMALL, overrides)
        data = load(spec.data)
        return spec, data, plan(spec, data.digest)

    return make
