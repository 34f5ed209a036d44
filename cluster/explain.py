"""Explaining on Ray Data: one data set of work items, mapped by a pool of actors that keep the data and a network."""

from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch

from cluster.start import Room
from cluster.train import Broken, Source
from salcore.device import pin
from salcore.explain import Explainer, Item, Made
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import Store

MAX_BLOCKS = 2000
"""Work items are cut into at most so many tasks: each costs the driver some milliseconds."""


class _Actor:
    """One process of the pool. Maps go from here to storage; only manifest entries go back."""

    def __init__(self, spec: Spec, source: Source, members: Sequence[Member], store: Store, room: Room) -> None:
        pin(room.cpus)
        device = "cuda" if room.gpus and torch.cuda.is_available() else "cpu"
        self._explainer = Explainer(spec, source.get(), members, store, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the item made, or why it failed: Ray Data would bury the reason under its own."""
        (item,) = batch["item"]
        try:
            return {"made": [self._explainer.explain(item)], "failure": [""]}
        except Exception as error:
            what = f"{', '.join(item.methods) or 'logits'} of member {item.member}"
            return {"made": [[]], "failure": [f"{what}: {type(error).__name__}: {error}"]}


def explain(
    items: Sequence[Item],
    spec: Spec,
    source: Source,
    members: Sequence[Member],
    store: Store,
    room: Room,
) -> Iterator[list[Made]]:
    """Work all items off; yields what each one made as soon as it is on storage.

    Ray Data replaces killed actors. An item that fails leaves the others alone; at the end Broken is raised for it.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    made = ray.data.from_items(
        [{"item": item} for item in items], override_num_blocks=min(len(items), MAX_BLOCKS)
    ).map_batches(
        _Actor,
        fn_constructor_args=(spec, source, members, store, room),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(room.slots, len(items))),
        num_cpus=room.cpus,
        num_gpus=room.gpus,
    )
    failures = []
    for row in made.iter_rows():
        if row["failure"]:
            failures.append(row["failure"])
        yield row["made"]
    if failures:
        more = f" (and {len(failures) - 1} more of {len(items)} items)" if len(failures) > 1 else ""
        raise Broken(f"{failures[0]}{more}; all other maps are kept: run again without that method, or with it mended")
