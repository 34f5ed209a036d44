"""The experiments of parameter-space saliency on one member: each makes a table of some of its mistakes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from salcore import shards
from salcore.blame.splits import boxes_of, part_of
from salcore.blame.stored import Profiles
from salcore.data import Data
from salcore.data.batches import inputs_of
from salcore.moments import Moments
from salcore.parameter_space import ProfileStatistics, filter_profiles
from salcore.parameter_space.effects import Choice, Effect, order
from salcore.parameter_space.finetuning import Tuned, fine_tune
from salcore.parameter_space.input_space import input_space_saliency
from salcore.parameter_space.layers import by_depth, layer_means
from salcore.parameter_space.masking import masking_effect, most_salient_outside, outside, random_outside
from salcore.parameter_space.neighbours import Neighbours, depth_half, nearest, same_pair
from salcore.parameter_space.pruning import Mode, prune
from salcore.spec import ParametersSpec, Spec

CHOICES: tuple[Choice, ...] = get_args(Choice)
MODES: tuple[Mode, ...] = get_args(Mode)
LAYERS = ("all", "early", "deep")
"""Filters by which neighbours are searched."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One member's network, its profiles of both splits, and what the experiments are to do."""

    model: nn.Module
    spec: Spec
    data: Data
    device: torch.device
    statistics: ProfileStatistics
    profiles: Profiles
    independent: Profiles

    @property
    def parameters(self) -> ParametersSpec:
        """What is to be done."""
        assert self.spec.parameters is not None
        return self.spec.parameters

    def boxes(self, samples: np.ndarray) -> np.ndarray:
        """The objects' boxes (N, 4) of some held-out samples."""
        return boxes_of(self.spec, part_of(self.data, self.parameters.held_out), samples)

    def inputs(self, split: str, samples: np.ndarray) -> Tensor:
        """What the network takes of some samples of a split, by their numbers."""
        return inputs_of(part_of(self.data, split), samples, self.data, self.device)[0]

    def standardised(self, places: np.ndarray) -> np.ndarray:
        """The standardised profiles (n, P) of some held-out samples, by their places."""
        return self.statistics.standardise(self.profiles.rows(places))

    def others(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All standardised profiles of the independent split, some at a time."""
        for where, block in self.independent.blocks():
            yield where, self.statistics.standardise(block)

    def orders(self, places: np.ndarray, count: int) -> dict[Choice, Tensor]:
        """The first filters (n, count) of each choice, by the standardised profiles of some mistakes."""
        profiles, numbers = torch.from_numpy(self.standardised(places)), self.profiles.sample[places].tolist()
        return {each: order(profiles, each, count, samples=numbers, seed=self.parameters.seed) for each in CHOICES}

    @cached_property
    def own(self) -> dict[str, np.ndarray]:
        """Sample, label and prediction of the held-out samples."""
        return {name: getattr(self.profiles, name) for name in ("sample", "label", "prediction")}


def filters(subject: Subject, places: np.ndarray) -> pa.Table:
    """Mean profile of every filter: as it is, and standardised over right and over wrong samples (Fig. 1 and 2)."""
    table, wrong = subject.statistics.table, subject.profiles.wrong
    moments = {False: Moments.empty((len(table),)), True: Moments.empty((len(table),))}
    for where, block in subject.profiles.blocks():
        standardised = subject.statistics.standardise(block)
        for kind, so_far in moments.items():
            moments[kind] = so_far.merge(Moments.from_batch(standardised[wrong[where] == kind]))
    means = {"right": moments[False].mean, "wrong": moments[True].mean}
    return pa.table({**table.columns(), "raw": subject.statistics.mean, **means})


def layers(subject: Subject, places: np.ndarray) -> pa.Table:
    """Mean standardised profile of every held-out sample, over all filters and over those of each layer (N, L)."""
    table = subject.statistics.table
    found, overall = [], []
    for _, block in subject.profiles.blocks():
        standardised = subject.statistics.standardise(block)
        found.append(layer_means(standardised, table))
        overall.append(standardised.mean(1, dtype=np.float64))
    by_layer = pa.FixedSizeListArray.from_arrays(np.concatenate(found).ravel(), len(table.layers))
    return pa.table({**subject.own, "mean": np.concatenate(overall), "layers": by_layer})


def neighbours(subject: Subject, places: np.ndarray) -> pa.Table:
    """The nearest samples of the independent split by all filters, and by those of early or deep layers alone."""
    profiles, table = subject.standardised(places), subject.statistics.table
    found = []
    for name in LAYERS if len(by_depth(table)) > 1 else LAYERS[:1]:
        columns = None if name == "all" else depth_half(table, name)
        near = nearest(profiles, subject.others(), subject.parameters.neighbours, columns=columns)
        found.append(_neighbour_rows(subject, places, near, name))
    return pa.concat_tables(found)


def pruning(subject: Subject, places: np.ndarray) -> pa.Table:
    """What turning off the most, random and least salient filters does to each mistake, in both ways of doing so."""
    budgets = subject.parameters.pruned
    samples = subject.profiles.sample[places]
    inputs = subject.inputs(subject.parameters.held_out, samples)
    labels = torch.from_numpy(subject.profiles.label[places].astype(np.int64))
    found = []
    for choice, columns in subject.orders(places, budgets[-1]).items():
        for mode in MODES:
            effect = prune(subject.model, inputs, labels, columns, budgets, subject.statistics.table, mode=mode)
            found.append(_effect_rows(subject, places, effect, budgets, choice=choice, mode=mode))
    return pa.concat_tables(found)


def finetuning(subject: Subject, places: np.ndarray) -> pa.Table:
    """What one step on each mistake does to it, and to its nearest mistakes of the independent split."""
    others = subject.independent
    near = nearest(
        subject.standardised(places), subject.others(), subject.parameters.neighbours, among=others.wrong
    )  # fmt: skip
    budgets, table = subject.parameters.tuned, subject.statistics.table
    orders = subject.orders(places, budgets[-1])
    inputs = subject.inputs(subject.parameters.held_out, subject.profiles.sample[places])
    found = []
    for row, place in enumerate(places):
        rows = near.place[row]
        by_choice, whole = fine_tune(
            subject.model,
            inputs[row],
            int(subject.profiles.label[place]),
            {choice: columns[row] for choice, columns in orders.items()},
            budgets,
            table,
            subject.inputs(subject.parameters.independent, others.sample[rows]),
            torch.from_numpy(others.label[rows].astype(np.int64)),
            step=subject.parameters.step,
        )
        for name, tuned in by_choice.items():
            found.append(_tuned_rows(subject, place, tuned, budgets, choice=name))
        found.append(_tuned_rows(subject, place, whole, [0], choice="network"))
    return pa.concat_tables(found)


def masking(subject: Subject, places: np.ndarray) -> pa.Table:
    """What becomes of each mistake without the pixels that drive its salient filters, and without random ones.

    A row for each mistake: the map, how many pixels of each kind are masked, and for each kind the change of the
    incorrect and of the true class's confidence, whether it is corrected, and the mean saliency of the filters that
    were the most salient before (`salience`). Mistakes whose object fills the image are left out.
    """
    boxes = subject.boxes(subject.profiles.sample[places])
    free = outside(boxes, subject.data.shape[1:]).any((1, 2))
    if not free.any():  # nothing to mask: the columns of a table without rows
        return masking_columns(subject, places[:1], boxes[:1] * 0).slice(0, 0)
    return masking_columns(subject, places[free], boxes[free])


def masking_columns(subject: Subject, places: np.ndarray, boxes: np.ndarray) -> pa.Table:
    """The table of `masking` of mistakes whose boxes leave pixels outside."""
    parameters, samples = subject.parameters, subject.profiles.sample[places]
    inputs = subject.inputs(parameters.held_out, samples)
    labels = torch.from_numpy(subject.profiles.label[places].astype(np.int64))
    statistics, count = subject.statistics, parameters.boosted
    maps = _by_batch(
        lambda *batch: input_space_saliency(subject.model, *batch, statistics=statistics, filters=count), inputs, labels
    )
    salient = most_salient_outside(maps, boxes, parameters.masked).cpu()
    counts = salient.flatten(1).sum(1)
    random = random_outside(
        boxes, (salient.shape[1], salient.shape[2]), counts, samples=samples.tolist(), seed=parameters.seed
    )
    masks = {"salient": salient, "random": random}
    effect = masking_effect(subject.model, inputs, labels, torch.stack(list(masks.values()), 1))
    columns: dict[str, Any] = {name: own[places] for name, own in subject.own.items()}
    columns |= {"pixels": counts.numpy(), "map": shards.tensors(maps.float().cpu().numpy(), pa.float32())}
    before = torch.from_numpy(subject.standardised(places))
    top = before.topk(count, dim=1).indices
    columns["salience"] = before.gather(1, top).mean(1).numpy()
    for place, (name, mask) in enumerate(masks.items()):
        columns |= {f"{name}_{what}": getattr(effect, what)[:, place] for what in ("incorrect", "true", "corrected")}
        masked = inputs.masked_fill(mask[:, None].to(inputs.device), 0.0)
        profiles = _by_batch(
            lambda *batch: filter_profiles(subject.model, *batch, table=statistics.table), masked, labels
        )
        after = statistics.standardise(profiles.cpu())
        columns[f"{name}_salience"] = after.gather(1, top).mean(1).numpy()
    return pa.table(columns)


EXPERIMENTS: dict[str, Callable[[Subject, np.ndarray], pa.Table]] = {
    "filters": filters,
    "layers": layers,
    "neighbours": neighbours,
    "pruning": pruning,
    "finetuning": finetuning,
    "masking": masking,
}

BATCH = 16
"""Samples of one pass that is differentiated twice."""


def _by_batch(work: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """What is computed of some samples, a batch at a time."""
    return torch.cat([work(*batch) for batch in zip(inputs.split(BATCH), labels.split(BATCH), strict=True)])


def _neighbour_rows(subject: Subject, places: np.ndarray, near: Neighbours, layers: str) -> pa.Table:
    """A row for each neighbour of each mistake.

    `chance` is the share of all candidates that share the pair, `chance_of_mistakes` that of the candidates that are
    mistaken: to find mistakes is not yet to find mistakes of a kind.
    """
    others, count = subject.independent, near.place.shape[1]
    label, prediction = (own[places][:, None] for own in (subject.profiles.label, subject.profiles.prediction))
    shared = same_pair(label, prediction, others.label[near.place], others.prediction[near.place])
    pairs = _pairs(others, len(subject.data.classes))
    alike = pairs[label[:, 0], prediction[:, 0]] + pairs[prediction[:, 0], label[:, 0]]
    return pa.table(
        {
            **_repeated(subject, places, count),
            "layers": [layers] * (len(places) * count),
            "rank": np.tile(np.arange(1, count + 1, dtype=np.int32), len(places)),
            "neighbour": others.sample[near.place].ravel(),
            "neighbour_label": others.label[near.place].ravel(),
            "neighbour_prediction": others.prediction[near.place].ravel(),
            "similarity": near.similarity.ravel(),
            "same_pair": shared.ravel(),
            "chance": np.repeat(alike / len(others), count),
            "chance_of_mistakes": np.repeat(alike / max(1, int(others.wrong.sum())), count),
        }
    )


def _pairs(profiles: Profiles, classes: int) -> np.ndarray:
    """How many samples there are of each true class and prediction, (K, K)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (profiles.label, profiles.prediction), 1)
    return counts


def _effect_rows(subject: Subject, places: np.ndarray, effect: Effect, budgets: Any, **constants: str) -> pa.Table:
    """A row for each mistake and budget."""
    rows = len(places) * len(budgets)
    return pa.table(
        {
            **_repeated(subject, places, len(budgets)),
            **{name: [value] * rows for name, value in constants.items()},
            "filters": np.tile(np.array(budgets, np.int32), len(places)),
            "incorrect": effect.incorrect.ravel(),
            "true": effect.true.ravel(),
            "corrected": effect.corrected.ravel(),
        }
    )


def _tuned_rows(subject: Subject, place: int, tuned: Tuned, budgets: Any, *, choice: str) -> pa.Table:
    """A row for each budget of one mistake: what became of it, and on average of its neighbours."""
    rows = _effect_rows(subject, np.array([place]), tuned.own, budgets, choice=choice)
    means = {
        "neighbours": np.full(len(budgets), len(tuned.others.true), np.int32),
        "neighbours_corrected": tuned.others.corrected.mean(0),
        "neighbours_true": tuned.others.true.mean(0).astype(np.float64),
    }
    for name, values in means.items():
        rows = rows.append_column(name, pa.array(values))
    return rows


def _repeated(subject: Subject, places: np.ndarray, times: int) -> dict[str, np.ndarray]:
    """Sample, label and prediction of some mistakes, each so many times."""
    return {name: np.repeat(values[places], times) for name, values in subject.own.items()}
