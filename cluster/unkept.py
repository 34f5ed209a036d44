"""Reducing maps that are not kept, in a pool of actors that make them."""

from collections.abc import Iterator, Sequence
from functools import partial

from cluster import pool
from cluster.reduce import Work
from cluster.source import Source
from cluster.start import Room
from salcore.explain import Explainer, within
from salcore.layout import part_of, ranges
from salcore.members import Member
from salcore.spec import Spec
from salcore.storage import Store
from salcore.summary import write_stats
from salcore.unkept import reduce_unkept

CURE = "what is reduced is kept: mend it and run the same command again"


def reduce(
    work: Sequence[Work], spec: Spec, source: Source, members: Sequence[Member], store: Store, room: Room
) -> Iterator[Work]:
    """Do all the work; yields each range when its statistics are on storage. Raises Broken."""
    start = partial(_start, spec, source, members, store)
    for each, _ in pool.work_off(work, start, room, name=_name, cure=CURE, title=f"reduce {spec.name}"):
        yield each


def _start(spec: Spec, source: Source, members: Sequence[Member], store: Store, device: str) -> pool.Work:
    explainer = Explainer(spec, source.get(), members, store, device=device)
    methods = {method.folder: method for method in spec.attribution.methods}
    parts = list(ranges(spec.data.eval_samples, spec.attribution.shard_samples))

    def do(work: Work) -> None:
        method, chosen = methods[work.method], [member for member in members if member.index in work.members]
        part = within(parts[part_of(work.path)], method)
        reduced = reduce_unkept(explainer, chosen, method, part, inputs_digest=work.inputs, metadata=work.metadata)
        write_stats(store, work.name, reduced)

    return do


def _name(work: Work) -> str:
    return work.name
