"""A pool of actors on Ray Data that work items off: each keeps the data and what it has loaded."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch

from cluster.start import Room
from cluster.train import Broken
from salcore.device import pin

MAX_BLOCKS = 2000
"""Work items are cut into at most so many tasks: each costs the driver some milliseconds."""

Work = Callable[[Any], Any]
"""What is done with one item, in an actor."""


class _Actor:
    """One process of the pool. What it makes goes from here to storage; only short answers go back."""

    def __init__(self, start: Callable[[str], Work], name: Callable[[Any], str], room: Room) -> None:
        pin(room.cpus)
        self._work = start("cuda" if room.gpus and torch.cuda.is_available() else "cpu")
        self._name = name

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the item made, or why it failed: Ray Data would bury the reason under its own."""
        (item,) = batch["item"]
        try:
            return {"made": [(item, self._work(item))], "failure": [""]}
        except Exception as error:
            return {"made": [None], "failure": [f"{self._name(item)}: {type(error).__name__}: {error}"]}


def work_off(
    items: Sequence[Any], start: Callable[[str], Work], room: Room, *, name: Callable[[Any], str], cure: str
) -> Iterator[tuple[Any, Any]]:
    """Work all items off; yields each item with what it made as soon as that is on storage.

    `start` is called once in every actor, with the device, and gives what is done with an item; `name` is what messages
    call an item. Ray Data replaces killed actors. An item that fails leaves the others alone; at the end Broken is
    raised for it, with the `cure`.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    made = ray.data.from_items(
        [{"item": item} for item in items], override_num_blocks=min(len(items), MAX_BLOCKS)
    ).map_batches(
        _Actor,
        fn_constructor_args=(start, name, room),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=min(room.slots, len(items)), max_size=min(max(room.slots, room.most), len(items))
        ),
        num_cpus=room.cpus,
        num_gpus=room.gpus,
    )
    failures = []
    for row in made.iter_rows():
        if row["failure"]:
            failures.append(row["failure"])
        else:
            yield row["made"]
    if failures:
        more = f" (and {len(failures) - 1} more of {len(items)} items)" if len(failures) > 1 else ""
        raise Broken(f"{failures[0]}{more}; {cure}")
