"""What the runs of SalLM came to: accuracy, agreement of attention with explanations, and faithfulness, by network.

Everything is read from the run directories; networks are asked for their attention and for texts without words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from salcore import layout
from salcore.borrowed import members_of
from salcore.data import Data
from salcore.data.batches import inputs_of
from salcore.data.part import Part
from salcore.faithfulness import comprehensiveness, sufficiency
from salcore.faithfulness.human import HumanAgreement, by_word, human_agreement
from salcore.member_files import load_member
from salcore.runs import Run
from salcore.sallm.agreement import Agreement, agreement, attention_of
from salcore.sallm.explanations import Explanations, targets
from salcore.sallm.variants import LABELLED, VANILLA, networks
from salcore.spec import AttentionSpec, Spec
from salcore.tokens import embedded

PLAIN = {"shuffled": False, "binary": None, "teachers": "own"}
"""An explanation as it is compared with: each member's own, not binarized, in its place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Texts:
    """The evaluated texts: tokens (N, T), which are no padding (N, T), the words they are of, and labels (N,)."""

    inputs: Tensor
    valid: Tensor | None
    word_of: Tensor
    labels: np.ndarray
    rows: np.ndarray

    @property
    def counted(self) -> Tensor:
        """Tokens that stand for words, (N, T) bool."""
        return self.word_of >= 0

    @classmethod
    def of(cls, part: Part, data: Data) -> "Texts":
        """Those of a part. Raises ValueError for texts that are no tokens."""
        if part.word_of is None:
            raise ValueError("`part`: expected texts in tokens")
        inputs, valid = inputs_of(part, part.index, data)
        words = torch.from_numpy(part.word_of[part.index].astype(np.int64))
        return cls(inputs=inputs, valid=valid, word_of=words, labels=part.labels[part.index], rows=part.index)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """Of one network's M members: `validation` accuracy (M,), and of the N evaluated texts, (M, N) each.

    `right` is 1 where the prediction is, `area`, `mass`, `distance` and `chance` are as in `salcore.sallm.agreement`,
    with the explanations by the network's teacher; `comprehensiveness` and `sufficiency` are of the network's own maps.
    Where people marked words, `attention_human` and `maps_human` say how far attention and maps agree with them, a
    value for each member.
    """

    validation: np.ndarray
    right: np.ndarray
    area: np.ndarray
    mass: np.ndarray
    distance: np.ndarray
    chance: np.ndarray
    comprehensiveness: np.ndarray
    sufficiency: np.ndarray
    attention_human: tuple[HumanAgreement, ...] = ()
    maps_human: tuple[HumanAgreement, ...] = ()


class Sallm:
    """The finished runs below a directory. Raises UserError where one is missing."""

    def __init__(self, spec: Spec, place: str, device: str | torch.device = "cpu") -> None:
        self.spec, self.place, self._device = spec, place, torch.device(device)
        self.pairs = networks(spec)
        self.runs = {name: Run(f"{place}/{name}") for name in {*self.pairs, *self.pairs.values()}}
        self._measures: dict[str, Measures] = {}
        self._attention: dict[tuple[str, int], Tensor] = {}

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

    def measures(self, name: str) -> Measures:
        """What one network came to, measured once."""
        if name not in self._measures:
            self._measures[name] = self._measured(name)
        return self._measures[name]

    def all(self) -> Iterator[tuple[str, Measures]]:
        """Every network, in order."""
        for name in self.pairs:
            yield name, self.measures(name)

    def explanation(self, name: str, member: int) -> Tensor:
        """What the teacher of a network's member says of the evaluated texts, (N, T), not negative, not binarized."""
        plain = self.attention.model_copy(update=PLAIN | {"explanations": f"{self.place}/{self.pairs[name]}"})
        sample, _, maps = Explanations.of(plain).maps(member)
        splits = len(self.data.train.values)  # the evaluated split stands behind the one that is trained on
        place = {number: row for row, number in enumerate(sample.tolist())}
        rows = [place[splits + row] for row in self.texts.rows.tolist()]
        return targets(torch.from_numpy(maps[rows]), self.texts.word_of, plain)

    def attention_of(self, name: str, member: int) -> Tensor:
        """A member's attention to the evaluated texts, (N, T)."""
        key = name, member
        if key not in self._attention:
            self._keep(name, member, dict(self._networks(name))[member])
        return self._attention[key]

    def _keep(self, name: str, member: int, network: torch.nn.Module) -> Tensor:
        texts = self.texts
        found = attention_of(network, texts.inputs, texts.valid, texts.word_of, self.attention)
        self._attention[name, member] = found
        return found

    def _networks(self, name: str) -> Iterator[tuple[int, torch.nn.Module]]:
        run = self.runs[name]
        for member in members_of(run.spec, run.store):
            if member.index in run.members:
                yield member.index, load_member(run.store, member, self.data).to(self._device)

    def _measured(self, name: str) -> Measures:
        run, found, looked, said = self.runs[name], [], [], []
        labels, logits = run.logits()
        method = run.methods[0]
        for place, (member, network) in enumerate(self._networks(name)):
            attention = self._keep(name, member, network)
            agrees = self._agreement(attention, self.explanation(name, member))
            maps = torch.from_numpy(run.maps(method, range(len(labels)))[place])
            found.append((agrees, *self._faithful(network, maps)))
            if self.rationale is not None:
                looked.append(self._with_people(attention))
                said.append(self._with_people(maps))
        return Measures(
            validation=np.array([run.record(member)["metrics"].get("eval_accuracy", np.nan) for member in run.members]),
            right=(logits.argmax(2) == labels).astype(np.float64),
            area=np.stack([each.area.numpy() for each, *_ in found]),
            mass=np.stack([each.mass.numpy() for each, *_ in found]),
            distance=np.stack([each.distance.numpy() for each, *_ in found]),
            chance=np.stack([each.chance.numpy() for each, *_ in found]),
            comprehensiveness=np.stack([each for _, each, _ in found]),
            sufficiency=np.stack([each for *_, each in found]),
            attention_human=tuple(looked),
            maps_human=tuple(said),
        )

    @cached_property
    def rationale(self) -> Tensor | None:
        """Which words of the evaluated texts people marked, (N, W) bool; None where nobody was asked."""
        marked = self.data.evaluation.rationale
        if marked is None or not marked[self.texts.rows].any():
            return None
        return by_word(torch.from_numpy(marked[self.texts.rows]).float(), self.texts.word_of)[0] > 0

    def _with_people(self, scores: Tensor) -> HumanAgreement:
        """Agreement of scores of tokens (N, T) with people's rationales, word by word: as many words as they mark."""
        assert self.rationale is not None
        words, there = by_word(scores.float(), self.texts.word_of)
        share = float((self.rationale.sum(1) / there.sum(1))[self.rationale.any(1)].mean())
        return human_agreement(words.abs(), self.rationale, there, share=share)

    def _agreement(self, attention: Tensor, explanation: Tensor) -> Agreement:
        share, divergence = self.attention.top, self.attention.divergence
        return agreement(attention, explanation, self.texts.counted, share=share, divergence=divergence)

    def _faithful(self, network: torch.nn.Module, maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Comprehensiveness and sufficiency of each text, (N,) each: what stands for no word is always kept."""
        texts = self.texts
        inputs = embedded(network, texts.inputs.to(self._device)).cpu()
        scores = (comprehensiveness, sufficiency)
        return tuple(  # type: ignore[return-value]
            score(network, inputs, maps, valid=texts.valid, query=~texts.counted, ranking="magnitude")
            .per_instance.cpu()
            .numpy()
            for score in scores
        )


def tokens(data: Data, row: np.ndarray) -> list[str]:
    """A text's tokens in words, as the tokenizer writes them."""
    return [data.words[number] for number in row.tolist()]


def finished(spec: Spec, place: str) -> list[str]:
    """Names of the runs below `place` that have a spec, in the order of `networks`."""
    from salcore.storage import Store

    names = [*networks(spec), *networks(spec).values()]
    return [name for name in dict.fromkeys(names) if Store(f"{place}/{name}").exists(layout.SPEC)]
