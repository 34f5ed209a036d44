"""A pool of actors on Ray Data that work items off: each keeps the data and what it has loaded."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from cluster.errors import Broken, first_line, full, unusable
from cluster.start import Room
from salcore.device import of_slot, pin

MAX_TASKS = 2000
"""Work items are put into at most so many tasks: each costs the driver some milliseconds."""

Work = Callable[[Any], Any]
"""What is done with one item, in an actor."""


class _Actor:
    """One process of the pool. What it makes goes from here to storage; only short answers go back."""

    def __init__(self, start: Callable[[str], Work], name: Callable[[Any], str], room: Room) -> None:
        pin(room.cpus)
        self._work = start(of_slot(room.gpus))
        self._name = name

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What came of each item, up to one after which no other would come to anything."""
        return {"done": [_Done(results=tuple(self._results(task.items))) for task in batch["task"]]}

    def _results(self, items: Sequence[Any]) -> Iterator["_Result"]:
        for item in items:
            result = self._try(item)
            yield result
            if result.broken:
                return

    def _try(self, item: Any) -> "_Result":
        """What the item made, or why it failed: Ray Data would bury the reason under its own."""
        try:
            return _Result(item=item, made=self._work(item))
        except torch.AcceleratorError as error:
            told = f"a GPU takes no more work ({first_line(error)}): run the same command to go on"
            return _Result(item=item, broken=told)
        except Exception as error:
            if full(error):
                return _Result(item=item, broken=unusable(error))
            return _Result(item=item, failure=f"{self._name(item)}: {type(error).__name__}: {error}")


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Items that travel together: a row of Ray Data's costs the driver as much as all of them."""

    items: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class _Result:
    item: Any
    made: Any = None
    failure: str = ""
    broken: str = ""


@dataclass(frozen=True, kw_only=True)
class _Done:
    results: tuple[_Result, ...]


def work_off(
    items: Sequence[Any],
    start: Callable[[str], Work],
    room: Room,
    *,
    title: str,
    name: Callable[[Any], str],
    cure: str,
) -> Iterator[tuple[Any, Any]]:
    """Work all items off; yields each item with what it made as soon as that is on storage.

    `start` is called once in every actor, with the device, and gives what is done with an item; `title` is what Ray's
    dashboard calls the whole, and `name` what messages call an item. Ray Data replaces killed actors. An item that
    fails leaves the others alone; at the end Broken is raised for it, with the `cure`. On a full disk, and where a GPU
    takes no more work, it is raised at once.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    size = math.ceil(len(items) / MAX_TASKS)
    tasks = [_Task(items=tuple(items[first : first + size])) for first in range(0, len(items), size)]
    done = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks)).map_batches(
        type(title, (_Actor,), {}),  # Ray Data calls its actors after it
        fn_constructor_args=(start, name, room),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(
            min_size=min(room.slots, len(tasks)), max_size=min(max(room.slots, room.most), len(tasks))
        ),
        num_cpus=room.cpus,
        num_gpus=room.gpus,
    )
    done.set_name(title)
    failures = []
    for result in (result for row in done.iter_rows() for result in row["done"].results):
        if result.broken:
            raise Broken(result.broken)
        if result.failure:
            failures.append(result.failure)
        else:
            yield result.item, result.made
    if failures:
        more = f" (and {len(failures) - 1} more of {len(items)} items)" if len(failures) > 1 else ""
        raise Broken(f"{failures[0]}{more}; {cure}")
