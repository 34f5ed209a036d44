"""Parameter-space saliency of trained members: one piece of work at a time, each from storage to storage."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from salcore import shards
from salcore.blame import experiments, items
from salcore.blame.items import Item
from salcore.blame.marks import Marks
from salcore.blame.splits import part_of
from salcore.blame.stored import Profiles, statistics_of
from salcore.data import Data
from salcore.data.batches import inputs_of
from salcore.data.part import Part
from salcore.member_files import load_member
from salcore.members import Member
from salcore.parameter_space import FilterTable, filter_table
from salcore.parameter_space.profiles import profiled
from salcore.spec import Spec
from salcore.storage import Store
from salcore.work import code_version, padded, padded_size


class Worker:
    """Works items off, one at a time, and keeps the last member's network loaded."""

    def __init__(
        self,
        spec: Spec,
        data: Data,
        members: Sequence[Member],
        store: Store,
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        self._spec, self._data, self._store, self._device = spec, data, store, torch.device(device)
        self._members = {member.index: member for member in members}
        self._marks = Marks(spec, data, members)
        self._network: tuple[int, nn.Module, FilterTable] | None = None

    def work(self, item: Item) -> shards.Entry | None:
        """Make what an item asks for; returns the manifest entry of a shard of profiles, None of a table."""
        member = self._members[item.member]
        if item.what in self._marks.ranges:
            return shards.write(self._store, item.file, self._profiles(member, item))
        subject = self._subject(member)
        planned = items.planned(member.index, subject.profiles, self._marks.parameters)
        places = dict(planned)[item]
        table = experiments.EXPERIMENTS[item.what](subject, places)
        mark = self._marks.experiment(member.index, item.what, subject.profiles.sample[places].tolist())
        self._store.write_parquet(item.file, table.replace_schema_metadata(_head(mark)))
        return None

    def _profiles(self, member: Member, item: Item) -> pa.Buffer:
        """The bytes of a shard of profiles."""
        part = part_of(self._data, item.what)
        model, table = self._loaded(member)
        rows = part.index[item.range.start : item.range.stop]
        size = self._spec.attribution.batch_size
        made = [self._batch(model, table, part, rows[start : start + size]) for start in range(0, len(rows), size)]
        profiles, predictions = (np.concatenate(each) for each in zip(*made, strict=True))
        labels = part.labels[rows].astype(np.int32)
        return shards.encode(
            sample=rows,
            label=labels,
            target=labels,
            prediction=predictions,
            maps=profiles,
            metadata={
                "member": member.index,
                "seeds": dict(member.seeds),
                "method": "filter_profiles",
                "settings": {"linear": table.linear, "layers": [asdict(layer) for layer in table.layers]},
                "member_fingerprint": member.fingerprint,
                "fingerprint": self._marks.profiles(member.index, item.what, item.range),
                "code_version": code_version(),
            },
        )

    def _batch(
        self, model: nn.Module, table: FilterTable, part: Part, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Profiles (n, P) and predictions (n,) of some samples, in a pass of the fixed number of rows."""
        size = padded_size(self._spec.attribution.batch_size)
        inputs, _ = inputs_of(part, rows, self._data, self._device)
        labels = torch.from_numpy(part.labels[rows].astype(np.int64))
        profiles, logits = profiled(model, padded(inputs, size), padded(labels, size), table=table)
        found = profiles[: len(rows)].float().cpu().numpy()
        return found, logits[: len(rows)].argmax(1).cpu().numpy().astype(np.int32)

    def _subject(self, member: Member) -> experiments.Subject:
        """What the experiments on a member work with."""
        model, _ = self._loaded(member)
        parameters = self._marks.parameters
        return experiments.Subject(
            model=model,
            spec=self._spec,
            data=self._data,
            device=self._device,
            statistics=statistics_of(self._store, self._marks, member),
            profiles=self._read(member, parameters.held_out),
            independent=self._read(member, parameters.independent),
        )

    def _read(self, member: Member, split: str) -> Profiles:
        return Profiles(self._store, split, member.index, self._marks)

    def _loaded(self, member: Member) -> tuple[nn.Module, FilterTable]:
        """The member's network, and the table of its filters."""
        if self._network is None or self._network[0] != member.index:
            model = load_member(self._store, member, self._data).to(self._device)
            part = part_of(self._data, self._marks.parameters.held_out)
            sample, _ = inputs_of(part, part.index[:1], self._data, self._device)
            self._network = member.index, model, filter_table(model, sample, linear=self._marks.parameters.linear)
        return self._network[1], self._network[2]


def _head(mark: str) -> dict[bytes, str]:
    return {shards.METADATA: json.dumps({"fingerprint": mark, "code_version": code_version()})}
