"""From the maps of a run over texts to what attention is taught: how much of it each token is to have.

Training Language Models with Saliency Explanations (Lake, 2021): explanations are extractive, tokens of the input.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from pyarrow import ipc
from torch import Tensor

from salcore import layout, shards
from salcore.data import Data
from salcore.data.part import text_digests
from salcore.errors import UserError
from salcore.faithfulness.ranking import at_least, ranks
from salcore.seeds import derive, generator
from salcore.spec import AttentionSpec, Spec, parse
from salcore.storage import Store

if TYPE_CHECKING:
    from salcore.members import Member

KEY = "training.attention.explanations"


def targets(maps: Tensor, word_of: Tensor, attention: AttentionSpec, draws: Sequence[int] = ()) -> Tensor:
    """What each token is to have of attention, (N, T) float32, not negative; 0 where nothing counts.

    Maps (N, T), signed, one number per token; `word_of` (N, T) numbers the words, -1 for what is no word and never
    counts. Of `attention`:

    - `words`: a word has the sum over its pieces, and each piece has its word's;
    - `sign`: magnitudes, or what is positive;
    - `binary`: `top` marks the ceil(top * n) units of n with the greatest values, `threshold` those of at least so much
      of the text's greatest; a unit is a token, or a word with `words`. One without any value is not marked;
    - `shuffled`: the values of a text's tokens stand on its tokens in an order drawn from its number in `draws` (N,).

    A text whose map is not finite has no explanation: zeros. Raises ValueError for shapes that differ.
    """
    if maps.shape != word_of.shape or maps.ndim != 2:
        raise ValueError(f"`maps`: expected (N, T) = {tuple(word_of.shape)}, got {tuple(maps.shape)}")
    counted = word_of >= 0
    finite = torch.isfinite(maps.where(counted, 0)).all(1, keepdim=True)
    values = maps.where(counted & finite, 0.0).float()
    unit, there = word_of.clamp(min=0), counted
    if attention.words:
        values = torch.zeros_like(values).scatter_add_(1, unit, values)
        there = torch.zeros_like(unit).scatter_add_(1, unit, counted.long()) > 0
    values = values.abs() if attention.sign == "magnitude" else values.clamp(min=0)
    values = _marked(values, there, attention)
    if attention.words:
        values = values.gather(1, unit)
    values = values * counted
    return _shuffled(values, counted, draws) if attention.shuffled else values


def _marked(values: Tensor, there: Tensor, attention: AttentionSpec) -> Tensor:
    """The values of units (N, U), or 1 and 0 where they are made binary."""
    if attention.binary is None:
        return values
    if attention.binary == "top":
        chosen = ranks(values, there) < at_least(attention.top, there.sum(1))[:, None]
    else:
        chosen = there & (values >= attention.threshold * values.amax(1, keepdim=True))
    return (chosen & (values > 0)).float()


def _shuffled(values: Tensor, counted: Tensor, draws: Sequence[int]) -> Tensor:
    found = torch.zeros_like(values)
    for row, (own, seed) in enumerate(zip(counted, draws, strict=True)):
        places = own.nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator(seed))
        found[row, places] = values[row, places[order]]
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanations:
    """The maps of a run that explains every text of a data set (`data.eval_split: all`), by one method."""

    store: Store
    spec: Spec
    method: str
    attention: AttentionSpec

    @classmethod
    def of(cls, attention: AttentionSpec) -> "Explanations":
        """Those that the spec names. Raises UserError where there are none."""
        if attention.explanations is None:
            expected = "a run directory with maps of these texts (python -m jobs.sallm makes it)"
            raise UserError(KEY, expected, None)
        store = Store(attention.explanations)
        if not store.exists(layout.SPEC):
            raise UserError(KEY, f"a run directory (with a {layout.SPEC})", attention.explanations)
        spec = parse(store.read(layout.SPEC))
        known = [method.folder for method in spec.attribution.methods]
        method = attention.method or known[0]
        if method not in known:
            raise UserError("training.attention.method", f"one of {', '.join(known)}, as {store} has them", method)
        return cls(store=store, spec=spec, method=method, attention=attention)

    def digest(self, member: int) -> str:
        """SHA-256 of the maps that a member learns from. Raises UserError where they are not there."""
        digest = hashlib.sha256()
        for name in self._files(member):
            digest.update(hashlib.sha256(self.store.read(name)).digest())
        return digest.hexdigest()

    def texts(self) -> dict[int, str]:
        """The digests of the explained texts by their numbers (`salcore.data.part.text_digests`)."""
        if not self.store.exists(layout.TEXTS):
            raise UserError(KEY, f"a run over texts for a language model (with a {layout.TEXTS})", str(self.store))
        table = self.store.read_parquet(layout.TEXTS)
        return dict(zip(table["sample"].to_pylist(), table["digest"].to_pylist(), strict=True))

    def maps(self, member: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the samples (N,) and maps (N, T) that a member learns from."""
        if self.attention.teachers == "mean":
            table = pa.concat_tables(ipc.open_file(self.store.open(name)).read_all() for name in self._files(member))
            return table["sample"].to_numpy(), table["mean"].combine_chunks().to_numpy_ndarray()
        parts = [shards.read(self.store, name) for name in self._files(member)]
        sample = np.concatenate([part.column("sample") for part in parts])
        return sample, np.concatenate([part.maps() for part in parts])

    def _files(self, member: int) -> list[str]:
        """The shards of a member's maps, or the statistics of the mean over members. Raises UserError without any."""
        mean = self.attention.teachers == "mean"
        folder = layout.stats_folder(self.method) if mean else layout.maps_folder(self.method, member)
        samples, size = self.spec.data.eval_samples, self.spec.attribution.shard_samples
        names = [f"{folder}/{layout.part_file(part.part)}" for part in layout.ranges(samples, size)]
        there = self.store.files(folder)
        if lacking := [name for name in names if name not in there]:
            whose = "the mean over members" if mean else f"member {member}"
            raise UserError(KEY, f"maps of {whose} by {self.method} in {self.store}", f"{len(lacking)} shards missing")
        return names


def check(member: "Member", data: Data) -> None:
    """Raise UserError unless the explanations are of the very tokens that the member is trained on."""
    explanations = Explanations.of(member.training.attention)
    store = explanations.store
    own = store.read(layout.TOKENIZER).decode() if store.exists(layout.TOKENIZER) else None
    if own != data.tokenizer:
        got = "others" if own is not None else f"no {layout.TOKENIZER}"
        raise UserError(KEY, f"explanations of the tokens of this spec's tokenizer in {store}", got)
    _rows(explanations, data, member.index)


def explained(member: "Member", data: Data) -> Data:
    """The data with what the member's attention is taught. Raises UserError for maps of other texts or other maps."""
    explanations = Explanations.of(member.training.attention)
    if member.taught_by != explanations.digest(member.index):
        raise UserError(KEY, f"the maps that this training began with in {explanations.store}", "others")
    rows, maps = _rows(explanations, data, member.index)
    train = data.train
    assert train.word_of is not None
    whole = np.zeros(train.values.shape, np.float32)
    draws = [derive(member.seeds["masking"], int(row)) for row in rows] if member.training.attention.shuffled else ()
    word_of = torch.from_numpy(train.word_of[rows].astype(np.int64))
    whole[rows] = targets(torch.from_numpy(np.array(maps)), word_of, member.training.attention, draws).numpy()
    return replace(data, train=replace(train, explanation=whole))


def _rows(explanations: Explanations, data: Data, member: int) -> tuple[np.ndarray, np.ndarray]:
    """The training rows and their maps (n, T). Raises UserError where some are not explained, or are other texts."""
    sample, maps = explanations.maps(member)
    train, store = data.train, explanations.store
    place = {number: row for row, number in enumerate(sample.tolist())}
    rows = train.index.tolist()
    if lacking := sum(row not in place for row in rows):
        expected = f"maps of all {len(train)} training texts in {store} (data.eval_split: all)"
        raise UserError(KEY, expected, f"none of {lacking} of them")
    if maps.shape[1:] != train.values.shape[1:]:
        expected = f"maps of texts of up to {train.values.shape[1]} tokens in {store}, as data.length says"
        raise UserError(KEY, expected, f"of up to {maps.shape[-1]}")
    explained = explanations.texts()
    others = sum(
        explained.get(row) != digest for row, digest in zip(rows, text_digests(train, train.index), strict=True)
    )
    if others:
        expected = f"maps of the training texts in {store}"
        raise UserError(KEY, expected, f"those of other texts under {others} of their {len(rows)} numbers")
    return train.index, maps[np.array([place[row] for row in rows])]
