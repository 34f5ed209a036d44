"""Explaining: one range of evaluation samples of one member, by every method that is missing there."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import ipc
from torch import Tensor, nn

from salcore import shards
from salcore.attribution import COMPLETE, METHODS, inner_method, takes_statistics, with_statistics
from salcore.blame.marks import Marks
from salcore.blame.stored import statistics_of
from salcore.data import Data
from salcore.data.batches import inputs_of
from salcore.data.part import Kind
from salcore.draws import seeded, with_draws
from salcore.layout import Range, logits_folder, maps_folder, part_file
from salcore.member_files import load_member
from salcore.members import VARIES, Member, fingerprints
from salcore.models.quick import as_built, quick
from salcore.padding import bound
from salcore.parameter_space import ProfileStatistics
from salcore.precision import bfloat16_passes
from salcore.sealed import read_sealed, sealed
from salcore.spec import MethodSpec, Spec
from salcore.storage import Store
from salcore.tokens import embedded
from salcore.work import code_version, padded, padded_size, range_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A work item: the methods (by folder) that are missing for one range of one member. No method: its logits only."""

    member: int
    range: Range
    methods: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file that was written: whose, by which method, its manifest entry, and the samples whose map is not finite.

    Without a method it holds logits.
    """

    member: int
    method: str | None
    entry: shards.Entry
    non_finite: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """A member's logits `(n, K)` on a range of samples, their labels `(n,)` and predicted classes `(n,)`."""

    label: np.ndarray
    prediction: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Inputs of one pass, which steps of sequences count (N, T), and how many of the rows are samples."""

    inputs: Tensor
    valid: Tensor | None
    rows: int


class Explainer:
    """Works items off, one at a time, and keeps the last member's network loaded. Logits that are there are read."""

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
        self._methods = {method.folder: method for method in spec.attribution.methods}
        self._loaded: tuple[int, nn.Module] | None = None
        self._digest = cache(partial(range_digest, data))
        self._written: list[Made] = []
        self._voted: tuple[Range, np.ndarray] | None = None
        takes = any(takes_statistics(method.name, method.settings) for method in spec.attribution.methods)
        self._marks = Marks(spec, data, members) if takes and spec.parameters is not None else None

    def explain(self, item: Item) -> list[Made]:
        """Write the shards of an item, and the logits of its range where they are missing."""
        member, self._written = self._members[item.member], []
        predictions = self.predictions(member, item.range)
        for folder in item.methods:
            method = self._methods[folder]
            name = f"{maps_folder(folder, member.index)}/{part_file(item.range.part)}"
            data = self._shard(member, method, within(item.range, method), predictions)
            entry, shard = shards.write(self._store, name, data), shards.open_shard(data)
            self._written.append(Made(member=member.index, method=folder, entry=entry, non_finite=shard.non_finite()))
        return self._written

    def predictions(self, member: Member, part: Range) -> Predictions:
        """The member's logits on a range: read if they are there, else computed and written."""
        name = f"{logits_folder(member.index)}/{part_file(part.part)}"
        mark = predictions_mark(member, self._digest(part))
        found = read_predictions(self._store, name, mark)
        if found is None:
            batches = self._batches(np.arange(part.start, part.stop))
            logits = np.concatenate([self._logits(member, batch) for batch in batches])
            found = Predictions(label=self.labels(part), prediction=logits.argmax(1).astype(np.int32), logits=logits)
            content = _encode_predictions(found, self.samples(part), mark)
            self._store.write(name, content)
            entry = logits_entry(self._store, name, content, len(part), mark)
            self._written.append(Made(member=member.index, method=None, entry=entry))
        return found

    def targets(self, member: Member, part: Range) -> np.ndarray:
        """Class that is explained, per sample `(n,)`."""
        target = self._spec.attribution.target
        if target == "label":
            return self.labels(part)
        if target == "prediction":
            return self.predictions(member, self._whole(part)).prediction[: len(part)]
        if target == "ensemble":
            return self._majority(self._whole(part))[: len(part)]
        return np.full(len(part), target, np.int32)

    def _majority(self, part: Range) -> np.ndarray:
        if self._voted is None or self._voted[0] != part:
            votes = np.stack([self.predictions(voter, part).prediction for voter in self._members.values()])
            self._voted = part, majority(votes, len(self._data.classes))
        return self._voted[1]

    def _whole(self, part: Range) -> Range:
        """The range that a method's own number of samples may have cut this one from: logits are of all of it."""
        stop = min(part.start + self._spec.attribution.shard_samples, len(self._data.evaluation))
        return Range(part=part.part, start=part.start, stop=stop)

    def maps(
        self, member: Member, method: MethodSpec, positions: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Maps `(n, ...)` and, for methods that promise completeness, residuals `(n,)`, as shards hold them.

        `positions` `(n,)` are those of samples in the order of the evaluation samples, `targets` `(n,)` the classes
        explained. A sample's map does not depend on the others.
        """
        network = self._network(member)
        embed = partial(embedded, network)
        settings = with_draws(self._spec, method, member, self._data, self._device, embed)
        plain = takes_statistics(method.name, settings)
        if plain:
            settings = with_statistics(method.name, settings, self._statistics(member))
        maps, residuals = [], []
        start = 0
        for batch in self._batches(positions):
            inputs, rows, model = embed(batch.inputs), batch.rows, bound(network, batch.valid)
            known = torch.from_numpy(targets[start : start + rows].astype(np.int64))
            classes = padded(known, len(inputs))  # on the CPU, where methods check them and wait for no GPU
            with as_built(network) if plain else in_precision(network, self._spec, method, self._device):
                values = METHODS[method.name](model, inputs, classes, **settings)
            maps.append(stored(values, self._data.kind, batch.valid)[:rows].float().cpu().numpy())
            if method.name in COMPLETE:
                rest = COMPLETE[method.name](model, inputs, classes, values, **settings)
                residuals.append(rest[:rows].float().cpu().numpy())
            start += rows
        return np.concatenate(maps), np.concatenate(residuals) if residuals else None

    def _shard(self, member: Member, method: MethodSpec, part: Range, predictions: Predictions) -> pa.Buffer:
        targets = self.targets(member, part)
        maps, residuals = self.maps(member, method, np.arange(part.start, part.stop), targets)
        return shards.encode(
            sample=self.samples(part),
            label=predictions.label[: len(part)],
            target=targets,
            prediction=predictions.prediction[: len(part)],
            maps=maps,
            residual=residuals,
            length=self._lengths(part),
            dtype=self._spec.attribution.dtype,
            metadata=self._metadata(member, method, part),
        )

    @torch.no_grad()
    def _logits(self, member: Member, batch: "Batch") -> np.ndarray:
        logits = bound(self._network(member), batch.valid)(batch.inputs)
        return logits[: batch.rows].float().cpu().numpy()

    def _network(self, member: Member) -> nn.Module:
        if self._loaded is None or self._loaded[0] != member.index:
            network = load_member(self._store, member, self._data).to(self._device)
            self._loaded = member.index, quick(network, member.model)
        return self._loaded[1]

    def _statistics(self, member: Member) -> ProfileStatistics:
        """What the member's filter profiles are standardised by. Raises ValueError where there are no profiles."""
        if self._marks is None:
            raise ValueError("`spec`: expected one with the section parameters, got none")
        try:
            return statistics_of(self._store, self._marks, member)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from None

    def _batches(self, positions: np.ndarray) -> Iterator["Batch"]:
        """Batches of the fixed size, the last padded with samples of zeros, all of whose steps count."""
        size = padded_size(self._spec.attribution.batch_size)
        evaluation, step = self._data.evaluation, self._spec.attribution.batch_size
        for start in range(0, len(positions), step):
            rows = evaluation.index[positions[start : start + step]]
            inputs, valid = inputs_of(evaluation, rows, self._data, self._device)
            valid = None if valid is None else ~padded(~valid, size)
            yield Batch(inputs=padded(inputs, size), valid=valid, rows=len(rows))

    def samples(self, part: Range) -> np.ndarray:
        """Numbers `(n,)` of a range's samples in the evaluation split."""
        return self._data.evaluation.index[part.start : part.stop]

    def labels(self, part: Range) -> np.ndarray:
        """Their labels `(n,)`."""
        return self._data.evaluation.labels[self.samples(part)].astype(np.int32)

    def _lengths(self, part: Range) -> np.ndarray | None:
        lengths = self._data.evaluation.lengths
        return None if lengths is None else lengths[self.samples(part)]

    def _metadata(self, member: Member, method: MethodSpec, part: Range) -> dict[str, Any]:
        voters = list(self._members.values())
        return {
            "member": member.index,
            "seeds": dict(member.seeds),
            "method": method.name,
            "settings": seeded(self._spec, method, member),
            "member_fingerprint": member.fingerprint,
            "fingerprint": maps_fingerprint(member, method, self._spec, self._digest(part), voters, self._marks),
            "code_version": code_version(),
        }


def maps_fingerprint(
    member: Member, method: MethodSpec, spec: Spec, digest: str, voters: Sequence[Member], marks: Marks | None = None
) -> str:
    """Fingerprint of one shard, whose range has the `digest`: as `maps_fingerprints` gives it."""
    return maps_fingerprints(member, method, spec, voters, marks)(digest)


def maps_fingerprints(
    member: Member, method: MethodSpec, spec: Spec, voters: Sequence[Member], marks: Marks | None = None
) -> Callable[[str], str]:
    """Fingerprints of a member's shards by the digest of their ranges.

    They hold the member, the method, and all that decides what is explained. The voters count only where their majority
    is explained, and the `marks` of filter profiles only for a method that is standardised by them.
    """
    standardised = marks is not None and takes_statistics(method.name, method.settings)
    attribution = spec.attribution
    return fingerprints(
        member.fingerprint,
        method.name,
        seeded(spec, method, member),
        attribution.target,
        attribution.dtype,
        padded_size(attribution.batch_size),
        VARIES,
        [voter.fingerprint for voter in voters] if attribution.target == "ensemble" else None,
        *([marks.statistics(member.index)] if marks is not None and standardised else []),
        *(["bfloat16"] if in_bfloat16(spec) else []),
    )


def in_bfloat16(spec: Spec) -> bool:
    """Whether members are trained, and their maps made, by bfloat16 passes."""
    return spec.training.precision == "bfloat16"


EXACT = {"deeplift", "deepshap"}
"""Methods whose quotients of near numbers have no digits in bfloat16."""


@contextmanager
def in_precision(network: nn.Module, spec: Spec, method: MethodSpec, device: torch.device) -> Iterator[None]:
    """A block in which the network's passes have the precision of its training, all else that of its inputs.

    Logits and completeness residuals are made outside of it, in float32.
    """
    inner = inner_method(method.settings)[0] if method.name == "smoothgrad" else method.name
    if not in_bfloat16(spec) or inner in EXACT:
        yield
        return
    with bfloat16_passes(network, device):
        yield


def stored(values: Tensor, kind: Kind, valid: Tensor | None = None) -> Tensor:
    """What is kept of a method's maps: of embedded texts (N, T, E) one number per word (N, T), the sum over E.

    Padding has 0, whatever a method with a random baseline says of it.
    """
    if kind == "text":
        values = values.sum(-1)
    if valid is None:
        return values
    return values * (valid if values.ndim == 2 else valid[:, None])


def within(part: Range, method: MethodSpec) -> Range:
    """The part of a range without the samples beyond the method's own number."""
    stop = part.stop if method.samples is None else min(part.stop, method.samples)
    return Range(part=part.part, start=part.start, stop=stop)


def majority(votes: np.ndarray, classes: int) -> np.ndarray:
    """The most frequent class of each column of votes `(M, n)`, the smallest one where several are.

    >>> majority(np.array([[0, 2], [1, 2], [1, 0]]), 3).tolist()
    [1, 2]
    """
    counts = np.stack([(votes == value).sum(0) for value in range(classes)])
    return counts.argmax(0).astype(np.int32)


def predictions_mark(member: Member, digest: str) -> str:
    """What the logits of a member on a range carry: whose they are, and the digest of what they are of."""
    return predictions_marks(member)(digest)


def predictions_marks(member: Member) -> Callable[[str], str]:
    """What the logits of a member carry, by the digest of the range."""
    return fingerprints(member.fingerprint, VARIES)


def logits_entry(store: Store, name: str, content: bytes | pa.Buffer, rows: int, mark: str) -> shards.Entry:
    """What an index says of a file of logits with this content, which carries the `mark`. Raises FileNotFoundError."""
    info, digest, path = store.info(name), hashlib.sha256(content).hexdigest(), name.rpartition("/")[2]
    if info is None:
        raise FileNotFoundError(f"{store.path(name)} disappeared while it was looked at")
    return shards.Entry(path=path, rows=rows, bytes=info.size, sha256=digest, mtime_ns=info.mtime_ns, fingerprint=mark)


def read_predictions(store: Store, name: str, mark: str | None = None) -> Predictions | None:
    """Logits of one range from their file; None if there is none, it is damaged, or it does not carry `mark`."""
    try:
        table = read_sealed(store, name)
    except (FileNotFoundError, shards.CorruptShard):
        return None
    metadata = shards.header(table.schema)
    if not isinstance(metadata, dict) or {"label", "prediction", "logits"} - {*table.column_names}:
        return None
    if mark is not None and metadata.get("fingerprint") != mark:
        return None
    logits = table["logits"].combine_chunks()
    return Predictions(
        label=table["label"].to_numpy(),
        prediction=table["prediction"].to_numpy(),
        logits=logits.flatten().to_numpy().reshape(len(table), -1),
    )


def _encode_predictions(predictions: Predictions, samples: np.ndarray, mark: str) -> pa.Buffer:
    logits = np.ascontiguousarray(predictions.logits, np.float32)
    table = pa.table(
        {
            "sample": pa.array(samples, pa.int64()),
            "label": pa.array(predictions.label, pa.int32()),
            "prediction": pa.array(predictions.prediction, pa.int32()),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1]),
        }
    ).replace_schema_metadata({shards.METADATA: json.dumps({"fingerprint": mark})})
    sink = pa.BufferOutputStream()
    table = sealed(table)
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
