"""Parameter-space saliency in a pool of actors that keep the data and a network."""

from collections.abc import Iterator, Sequence
from functools import partial

from cluster.pool import Work, work_off
from cluster.source import Source
from cluster.start import Room
from salcore.blame.items import Item
from salcore.blame.worker import Worker
from salcore.members import Member
from salcore.shards import Entry
from salcore.spec import Spec
from salcore.storage import Store

CURE = "all other pieces are kept: mend it and run the same command again"


def blame(
    items: Sequence[Item], spec: Spec, source: Source, members: Sequence[Member], store: Store, room: Room
) -> Iterator[tuple[Item, Entry | None]]:
    """Work all items off; yields each with its shard's manifest entry, if it made one, once it is on storage.

    Raises Broken.
    """
    start = partial(_start, spec, source, members, store)
    yield from work_off(items, start, room, name=_name, cure=CURE, title=f"blame {spec.name}")


def _start(spec: Spec, source: Source, members: Sequence[Member], store: Store, device: str) -> Work:
    return Worker(spec, source.get(), members, store, device=device).work


def _name(item: Item) -> str:
    return f"{item.what} of member {item.member}"
