"""What the runs of SalLM came to: accuracy, agreement of attention with explanations, and faithfulness, by network.

Everything is read from the run directories; networks are asked for their attention and for texts without words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from salcore import layout, shards
from salcore.borrowed import members_of
from salcore.data import Data
from salcore.data.batches import inputs_of
from salcore.data.part import Part
from salcore.explanations import Explanations, targets
from salcore.faithfulness import comprehensiveness, sufficiency
from salcore.faithfulness.human import HumanAgreement, by_word, human_agreement
from salcore.member_files import load_member
from salcore.runs import Run
from salcore.sallm.agreement import area, attention_of, mass, moved
from salcore.sallm.variants import LABELLED, VANILLA, networks
from salcore.spec import AttentionSpec, Spec
from salcore.tokens import embedded


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """The evaluated texts: tokens (N, T), which are no padding (N, T), their words (N, T), labels and rows (N,).

    `counted` (N, T) are the tokens that stand for words of the text itself: not special ones, and not its query.
    """

    inputs: Tensor
    valid: Tensor | None
    word_of: Tensor
    counted: Tensor
    labels: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, part: Part, data: Data) -> "Texts":
        """Those of a part. Raises ValueError for texts that are no tokens."""
        if part.word_of is None:
            raise ValueError("`part`: expected texts in tokens")
        inputs, valid = inputs_of(part, part.index, data)
        words = torch.from_numpy(part.word_of[part.index].astype(np.int64))
        counted = words >= 0
        if part.query is not None:
            counted &= torch.arange(words.shape[1]) >= torch.from_numpy(part.query[part.index])[:, None]
        return cls(
            inputs=inputs, valid=valid, word_of=words, counted=counted, labels=part.labels[part.index], rows=part.index
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """Of one network's M members: `validation` accuracy (M,), and of the N evaluated texts, (M, N) each.

    `right` is 1 where the prediction is; `comprehensiveness` and `sufficiency` are of the network's own maps, NaN where
    a map is not finite. Where people marked words, `attention_human` and `maps_human` say how far attention and maps
    agree with them, a value for each member.
    """

    validation: np.ndarray
    right: np.ndarray
    comprehensiveness: np.ndarray
    sufficiency: np.ndarray
    attention_human: tuple[HumanAgreement, ...] = ()
    maps_human: tuple[HumanAgreement, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How far attention agrees with an explanation, (M, N): see `area`, `mass`; `chance` is the area by chance."""

    area: np.ndarray
    mass: np.ndarray
    chance: np.ndarray


class Sallm:
    """The finished runs below a directory. Raises UserError where one is missing."""

    def __init__(self, spec: Spec, place: str, device: str | torch.device = "cpu") -> None:
        self.spec, self.place, self._device = spec, place, torch.device(device)
        self.pairs = networks(spec)
        self.runs = {name: Run(f"{place}/{name}") for name in dict.fromkeys([*self.pairs, *self.pairs.values()])}
        self._measures: dict[str, Measures] = {}
        self._attention: dict[tuple[str, int], Tensor] = {}
        self._explanations: dict[tuple[str, str, int], Tensor] = {}

    @property
    def attention(self) -> AttentionSpec:
        """What students are taught."""
        return self.spec.training.attention

    @cached_property
    def data(self) -> Data:
        """The texts, those of the test split evaluated."""
        return self.runs[VANILLA].data()

    @cached_property
    def texts(self) -> Texts:
        """The evaluated texts: of these no student has seen an explanation."""
        return Texts.of(self.data.evaluation, self.data)

    def baseline(self, name: str) -> str | None:
        """The network that a student is compared with: its like without explanations. None for these themselves."""
        if name.startswith(VANILLA):
            return None
        return VANILLA + LABELLED if name == "semi_supervised" else VANILLA

    def teachers(self, name: str) -> Literal["own", "mean"]:
        """Whose maps a network was taught: its own teacher's, or the mean over all."""
        return "mean" if name == "mean_teacher" else self.attention.teachers

    def measures(self, name: str) -> Measures:
        """What one network came to, measured once."""
        if name not in self._measures:
            self._measures[name] = self._measured(name)
        return self._measures[name]

    def all(self) -> Iterator[tuple[str, Measures]]:
        """Every network, in order."""
        for name in self.pairs:
            yield name, self.measures(name)

    def agreement(self, name: str, by: str) -> Agreement:
        """How far a network's attention agrees with what the network `by` was taught, by the same seed's teacher."""
        counted, found = self.texts.counted, []
        for member in self.runs[name].members:
            attention, marked = self.attention_of(name, member), self.marked(by, member)
            by_chance = moved(marked, counted, seed=member)
            found.append(
                (
                    area(attention, marked, counted),
                    mass(attention, marked, counted),
                    area(attention, by_chance, counted),
                )
            )
        areas, masses, chances = (torch.stack(each).numpy() for each in zip(*found, strict=True))
        return Agreement(area=areas, mass=masses, chance=chances)

    def marked(self, name: str, member: int) -> Tensor:
        """Which tokens of the evaluated texts the explanations of a network's member mark, (N, T) bool.

        As it is taught, but in place where it is taught shuffled, and the greatest where it is not binarized.
        """
        binary = self.attention.binary or "top"
        return self.explanation(name, member, binary=binary) > 0

    def explanation(self, name: str, member: int, *, binary: Literal["top", "threshold"] | None = None) -> Tensor:
        """What the teacher of a network's member says of the evaluated texts, (N, T), not negative; 0 of a query."""
        teachers, texts = self.teachers(name), self.texts
        key = self.pairs[name], teachers, member
        place = f"{self.place}/{self.pairs[name]}"
        asked = self.attention.model_copy(
            update={"explanations": place, "teachers": teachers, "shuffled": False, "binary": binary}
        )
        if key not in self._explanations:
            sample, maps = Explanations.of(asked).maps(member)
            # Of a set with a test split of its own, that stands behind the one that is trained on.
            before = 0 if self.data.evaluation.values is self.data.train.values else len(self.data.train.values)
            rows = {number: row for row, number in enumerate(sample.tolist())}
            self._explanations[key] = torch.from_numpy(maps[[rows[before + row] for row in texts.rows.tolist()]])
        return targets(self._explanations[key], texts.word_of.where(texts.counted, -1), asked)

    def attention_of(self, name: str, member: int) -> Tensor:
        """A member's attention to the evaluated texts, (N, T); 0 to what does not count."""
        if (name, member) not in self._attention:
            for index, network in self._networks(name):
                self._look(name, index, network)
        return self._attention[name, member]

    @cached_property
    def rationale(self) -> Tensor | None:
        """Which words of the evaluated texts people marked, (N, W) bool; None where nobody was asked."""
        marked, texts = self.data.evaluation.rationale, self.texts
        if marked is None or not marked[texts.rows].any():
            return None
        return by_word(torch.from_numpy(marked[texts.rows]).float(), texts.word_of.where(texts.counted, -1))[0] > 0

    def _look(self, name: str, member: int, network: torch.nn.Module) -> Tensor:
        texts, batch = self.texts, self.spec.attribution.batch_size
        words = texts.word_of.where(texts.counted, -1)
        found = attention_of(network, texts.inputs, texts.valid, words, self.attention, batch=batch)
        self._attention[name, member] = found
        return found

    def _networks(self, name: str) -> Iterator[tuple[int, torch.nn.Module]]:
        run = self.runs[name]
        for member in members_of(run.spec, run.store):
            if member.index in run.members:
                yield member.index, load_member(run.store, member, self.data).to(self._device)

    def _measured(self, name: str) -> Measures:
        run, faithful, looked, said = self.runs[name], [], [], []
        labels, logits = run.logits()
        for member, network in self._networks(name):
            attention, maps = self._look(name, member, network), self._maps(run, member)
            faithful.append(self._faithful(network, maps))
            if self.rationale is not None:
                looked.append(self._with_people(attention))
                said.append(self._with_people(maps))
        removed, kept = (np.stack(each) for each in zip(*faithful, strict=True))
        return Measures(
            validation=np.array([run.record(member)["metrics"].get("eval_accuracy", np.nan) for member in run.members]),
            right=(logits.argmax(2) == labels).astype(np.float64),
            comprehensiveness=removed,
            sufficiency=kept,
            attention_human=tuple(looked),
            maps_human=tuple(said),
        )

    def _maps(self, run: Run, member: int) -> Tensor:
        """A member's own maps of the evaluated texts by the first method, (N, T)."""
        folder = layout.maps_folder(run.methods[0], member)
        parts = layout.ranges(len(self.texts.rows), run.spec.attribution.shard_samples)
        found = [shards.read(run.store, f"{folder}/{layout.part_file(part.part)}").maps() for part in parts]
        return torch.from_numpy(np.concatenate(found))

    def _with_people(self, scores: Tensor) -> HumanAgreement:
        """Agreement of scores of tokens (N, T) with people's rationales, word by word: as many words as they mark."""
        assert self.rationale is not None
        words, there = by_word(scores.float().nan_to_num(), self.texts.word_of.where(self.texts.counted, -1))
        share = float((self.rationale.sum(1) / there.sum(1))[self.rationale.any(1)].mean())
        return human_agreement(words.abs(), self.rationale, there, share=share)

    def _faithful(self, network: torch.nn.Module, maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Comprehensiveness and sufficiency of each text, (N,) each: what does not count is always kept."""
        texts, finite = self.texts, torch.isfinite(maps).all(1)
        inputs = embedded(network, texts.inputs.to(self._device)).cpu()
        found = []
        for score in (comprehensiveness, sufficiency):
            each = score(
                network, inputs, maps.nan_to_num(0, 0, 0), valid=texts.valid, query=~texts.counted, ranking="magnitude"
            )
            found.append(each.per_instance.cpu().masked_fill(~finite, torch.nan).numpy())
        return found[0], found[1]


def tokens(data: Data, row: np.ndarray) -> list[str]:
    """A text's tokens as they are read: marks for blanks of byte-level tokenizers are left out."""
    return [data.words[number].lstrip("\u0120\u2581") for number in row.tolist()]
