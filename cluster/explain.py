"""Explaining in a pool of actors that keep the data and a network."""

from collections.abc import Iterator, Sequence
from functools import partial

from cluster.pool import Work, work_off
from cluster.source import Source
from cluster.start import Room
from salcore.explain import Explainer, Item, Made
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import Store

CURE = "all other maps are kept: run again without that method, or with it mended"


def explain(
    items: Sequence[Item], spec: Spec, source: Source, members: Sequence[Member], store: Store, room: Room
) -> Iterator[list[Made]]:
    """Work all items off; yields what each one made as soon as it is on storage. Raises Broken."""
    start = partial(_start, spec, source, members, store)
    for _, made in work_off(items, start, room, name=_name, cure=CURE, title=f"explain {spec.name}"):
        yield made


def _start(spec: Spec, source: Source, members: Sequence[Member], store: Store, device: str) -> Work:
    return Explainer(spec, source.get(), members, store, device=device).explain


def _name(item: Item) -> str:
    return f"{', '.join(item.methods) or 'logits'} of member {item.member}"
