"""Ensembles without Ray: members trained and explained in a few processes of one thread each, then reduced here."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from salcore import shards
from salcore.data import Data, load
from salcore.device import pin
from salcore.explain import Explainer, Item
from salcore.layout import Range, maps_folder, part_file
from salcore.member_files import read_record, train_member
from salcore.members import plan
from salcore.nulls import Shuffled
from salcore.reduce import reduce_range
from salcore.spec import DataSpec, Spec, from_dict
from salcore.storage import Store
from salcore.summary import summarise

ROOT = Path(__file__).resolve().parents[2]
GRADIENT = "gradient"


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A finished ensemble: its members' maps by `gradient`, and their logits, on the first `explained` samples."""

    spec: Spec
    store: Store
    explained: int

    @property
    def members(self) -> range:
        """Indices of the members."""
        return range(self.spec.ensemble.members)

    @property
    def labels(self) -> np.ndarray:
        """Labels `(N,)` of the samples that are explained."""
        return self._shard(0).column("label")

    def maps(self, member: int) -> np.ndarray:
        """One member's gradients `(N, C, H, W)`."""
        return self._shard(member).maps()

    def accuracy(self, member: int) -> float:
        """Share of the validation samples that a member has right."""
        record = read_record(self.store, member)
        assert record is not None, f"member {member} is not trained in {self.store}"
        return record["metrics"]["eval_accuracy"]

    def summary(self, *, shuffled: bool = False) -> dict[str, Any]:
        """The row that `salcore.summary` gives, of the maps or of each member's maps dealt out anew to the samples."""
        sources: list[Any] = [self._shard(member) for member in self.members]
        if shuffled:
            orders = (np.random.default_rng((1, member)).permutation(self.explained) for member in self.members)
            sources = [Shuffled(shard=shard, order=order) for shard, order in zip(sources, orders, strict=True)]
        reduced = reduce_range(sources, members=self.members, inputs_digest="", metadata={"method": GRADIENT})
        return summarise([reduced]).to_pylist()[0]

    def _shard(self, member: int) -> shards.Shard:
        return shards.read(self.store, f"{maps_folder(GRADIENT, member)}/{part_file(0)}")


def run(specs: Mapping[str, Spec], folder: Path, *, processes: int, explained: int) -> dict[str, Ensemble]:
    """Train and explain all members of all ensembles that `folder` does not hold yet."""
    work = [(name, index) for name, spec in specs.items() for index in range(spec.ensemble.members)]
    arguments = [(specs[name].to_dict(), index, str(folder / name), explained) for name, index in work]
    if processes < 2:
        for each in arguments:
            make_member(*each)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=pin, initargs=(1,)) as pool:
            futures = [pool.submit(make_member, *each) for each in arguments]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                print(f"\r{done} of {len(futures)} members", end="", flush=True)
        print()
    return {
        name: Ensemble(spec=spec, store=Store(str(folder / name)), explained=explained) for name, spec in specs.items()
    }


def make_member(values: dict[str, Any], index: int, folder: str, explained: int) -> None:
    """Train and explain one member, unless that is done."""
    spec = from_dict(values)
    data, store = _load(spec.data.model_dump_json()), Store(folder)
    members = plan(spec, data.digest)
    outcome = train_member(members[index], data, store)
    if outcome.reason:
        raise RuntimeError(f"member {index} in {folder} failed: {outcome.reason}")
    part = Range(part=0, start=0, stop=explained)
    if not store.exists(f"{maps_folder(GRADIENT, index)}/{part_file(0)}"):
        Explainer(spec, data, members, store).explain(Item(member=index, range=part, methods=(GRADIENT,)))


@lru_cache(1)
def _load(values: str) -> Data:
    return load(DataSpec.model_validate_json(values))


def mirror(name: str) -> str:
    """The folder that holds the original files of a data set."""
    return str(Path(os.environ.get("SALCORE_TEST_DATA", ROOT.parent / "shared" / "data")).resolve() / name)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a few independent values with its 95 % interval (Student's t)."""
    reach = float(stdtrit(len(values) - 1, 0.975)) * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = float(np.mean(values))
    return mean, mean - reach, mean + reach
