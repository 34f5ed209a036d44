"""Explaining and reducing a small run in this process: what `jobs.stages` does with Ray, file for file."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from salcore import inventory, layout, shards
from salcore.data import Data
from salcore.explain import Explainer
from salcore.inventory import Inventory
from salcore.members import Member
from salcore.reduce import VERSION, reduce_range
from salcore.spec import MethodSpec, Spec
from salcore.storage import Store
from salcore.summary import read_stats, summarise, write_stats


def explain(
    store: Store, spec: Spec, data: Data, members: Sequence[Member], *, device: str | torch.device = "cpu"
) -> Inventory:
    """Make the maps and logits of these trained members that are missing or damaged; what there is then."""
    found = inventory.take(store, spec, data, members)
    explainer = Explainer(spec, data, members, store, device=device)
    for item in found.missing:
        found.enter(explainer.explain(item))
    found.write()
    return found


def reduce(store: Store, spec: Spec, members: Sequence[Member], found: Inventory) -> None:
    """Reduce the ranges whose maps changed, and write the summary: statistics of exactly these members."""
    indices = [member.index for member in members]
    names = [name for method in spec.attribution.methods for name in _reduced(store, method, indices, found)]
    store.write_parquet(layout.SUMMARY, summarise(read_stats(store, name) for name in names))


def _reduced(store: Store, method: MethodSpec, members: Sequence[int], found: Inventory) -> Iterator[str]:
    """The files of one method's statistics, made where they are out of date; those of other ranges are deleted."""
    folder = layout.stats_folder(method.folder)
    wanted = found.inputs(method.folder, members)
    for name in store.files(folder).keys() - {f"{folder}/{path}" for path in wanted}:
        store.delete(name)
    for path, inputs in wanted.items():
        if not _stands(store, f"{folder}/{path}", inputs):
            shard_names = [f"{layout.maps_folder(method.folder, member)}/{path}" for member in members]
            reduced = reduce_range(
                [partial(shards.read, store, name) for name in shard_names],
                members=members,
                inputs_digest=inputs,
                metadata={"method": method.folder, "attribution": method.name, "settings": method.settings},
            )
            write_stats(store, f"{folder}/{path}", reduced)
        yield f"{folder}/{path}"


def _stands(store: Store, name: str, inputs: str) -> bool:
    try:
        about = read_stats(store, name).metadata
    except (FileNotFoundError, shards.CorruptShard):
        return False
    return about.get("version") == VERSION and about["inputs"] == inputs
