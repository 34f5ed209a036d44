"""A run of small networks on a few digits, whose filters are blamed in this process, without Ray."""

import pytest

import salcore
from salcore import manifests
from salcore.blame import inventory
from salcore.blame.marks import Marks
from salcore.blame.results import Blame
from salcore.blame.worker import Worker
from salcore.complete import complete
from salcore.data import load
from salcore.layout import SPEC, profiles_folder
from salcore.member_files import train_member
from salcore.members import plan
from salcore.spec import parse
from salcore.storage import Store

SPEC_TEXT = """
data: {name: digits, train_samples: 250, validation_fraction: 0.4, eval_samples: 60}
model: {name: small_cnn, width: 6, norm: batch}
ensemble: {members: 2}
training: {epochs: 2, batch_size: 32}
attribution: {batch_size: 16, shard_samples: 40}
parameters: {pruned: [1, 2, 5], tuned: [1, 3], neighbours: 4, step: 0.05, EXPERIMENTS}
"""
EXPERIMENTS = "experiments: [neighbours, pruning, finetuning]"


class Made:
    """A store with what is needed to blame the members in it."""

    def __init__(self, store, *overrides, experiments=EXPERIMENTS):
        spec = parse(SPEC_TEXT.replace("EXPERIMENTS", experiments), overrides)
        self.data, self.store = load(spec.data), store
        self.spec = complete(spec, self.data.kind)
        self.members = plan(self.spec, self.data.digest)
        self.marks = Marks(self.spec, self.data, self.members)
        for member in self.members:
            train_member(member, self.data, store)

    @property
    def worker(self):
        return Worker(self.spec, self.data, self.members, self.store)

    def profile(self):
        """Make the profiles that are missing; returns what was made."""
        found, worker = inventory.profiles(self.store, self.marks, self.members), self.worker
        for item in found.missing:
            entry = worker.work(item)
            found.entries[item.what, item.member][entry.path] = entry
        for (split, member), entries in found.entries.items():
            manifests.write(self.store, profiles_folder(split, member), entries)
        return found.missing

    def blame(self):
        """Make the tables that are missing; returns what was made."""
        missing, worker = inventory.lacking(self.store, self.marks, self.members), self.worker
        for item in missing:
            worker.work(item)
        return missing

    def open(self):
        """What it came to."""
        import yaml

        self.store.write(SPEC, yaml.safe_dump(self.spec.to_dict()).encode())
        return Blame(salcore.open(self.store.uri))


@pytest.fixture(scope="session")
def make():
    """A function from a store and overrides to a run whose members are trained."""
    return Made


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A run that is blamed to its end. Nothing may be written to it."""
    found = Made(Store(tmp_path_factory.mktemp("blamed") / "run"))
    found.profile()
    found.blame()
    return found


@pytest.fixture(scope="session")
def blame(made):
    """What it came to."""
    return made.open()
