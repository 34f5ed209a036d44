"""What takes the place of removed pixels decides what their removal shows: Fig. 4 of the paper."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from salcore.attribution import METHODS
from salcore.borrowed import members_of
from salcore.data import Data, Part
from salcore.data.batches import inputs_of
from salcore.faithfulness import Curve, accuracy_drop, over_members, remove_and_retrain
from salcore.faithfulness.retraining import Explained
from salcore.figures import canvas, method_charts
from salcore.member_files import load_member
from salcore.members import Member
from salcore.models import build
from salcore.seeds import forked
from salcore.studies.guided import ADADELTA, STANDARD, accuracies, told
from salcore.studies.networks import section
from salcore.studies.row import Picture, Row, claimed
from salcore.training import final_weights, fit

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Accuracy drop by what takes the place of removed pixels"
SOURCE = "Ismail et al. (NeurIPS 2021), Fig. 4"
ABOUT = (
    "Networks with the standard loss, the pixels of highest gradient removed. IID puts the image's own background in "
    "their place, which the network knows; OOD the image's mean value, which it does not; ROAR puts the mean of the "
    "training images there, in these too, and trains a network anew. The paper finds that neither OOD nor ROAR gives "
    "what IID gives, and draws it without numbers."
)
SMALL: dict[str, Any] = {
    "network": {"name": "mnist_cnn"},
    "data": {"name": "mnist", "train_samples": 4_000, "validation_fraction": 0.0},
    "members": 3,
    "epochs": 4,
    "batch_size": 64,
    "eval_samples": 1_000,
}
FULL = SMALL | {
    "data": {"name": "mnist", "validation_fraction": 0.0},
    "members": 5,
    "epochs": 20,
    "batch_size": 512,
    "eval_samples": 10_000,
}
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"
IID, OOD, ROAR = "IID", "OOD", "ROAR"
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares that are removed: a network is trained for each, by every member."""
BATCH = 256


def ensembles(
    *,
    network: dict | str,
    data: dict | str,
    members: int,
    epochs: int,
    batch_size: int,
    eval_samples: int,
) -> dict[str, dict[str, Any]]:
    """Spec values of the standard ensemble."""
    return {
        STANDARD: {
            "data": {"eval_samples": eval_samples, **section(data)},
            "model": section(network),
            "ensemble": {"members": members},
            "training": {"epochs": epochs, "batch_size": batch_size, **ADADELTA},
            "attribution": {"methods": [METHOD]},
        }
    }


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Area and accuracies on the way by each of the three, and how far two of them are from the first."""
    run = runs[STANDARD]
    yield told("accuracy", accuracies(run))
    curves = _curves(run)
    for name, found in curves.items():
        yield told(f"{name}: area", [curve.area for curve in found])
        for fraction, values in zip(found[0].fractions, _accuracies(found), strict=True):
            yield told(f"{name}: accuracy without {fraction:.0%} of the pixels", values)
    for name in (OOD, ROAR):
        apart = [_apart(curve, iid) for curve, iid in zip(curves[name], curves[IID], strict=True)]
        what = f"{name}: mean distance of its accuracies from those of IID, above 0.05"
        yield claimed(what, over_members(apart), above=0.05)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """The three curves, as in Fig. 4."""
    curves = _curves(runs[STANDARD])
    shares = [round(100 * fraction) for fraction in curves[IID][0].fractions]
    series = {name: [over_members(values) for values in _accuracies(found)] for name, found in curves.items()}
    figure = method_charts.lines(shares, series, "pixels removed (%)", y_label="accuracy")
    yield Picture(caption="What takes the place of the pixels", content=canvas.svg(figure, "masking"))


def _accuracies(curves: list[Curve]) -> Iterator[tuple[float, ...]]:
    return zip(*(curve.accuracy for curve in curves), strict=True)


def _apart(curve: Curve, other: Curve) -> float:
    """Mean absolute distance of two curves' accuracies, where anything is removed."""
    return float(np.abs(np.subtract(curve.accuracy, other.accuracy))[1:].mean())


@cache
def _curves(run: "Run") -> dict[str, list[Curve]]:
    """The curves of each member, by what takes the place of the pixels."""
    data = run.data()
    found: dict[str, list[Curve]] = {IID: [], OOD: [], ROAR: []}
    for member in members_of(run.spec, run.store):
        if member.index not in run.members:
            continue
        print(f"measure  member {member.index}: {len(FRACTIONS) + 1} networks are trained anew", flush=True)
        model = load_member(run.store, member, data)
        train, evaluation = (_explained(model, part, data) for part in (data.train, data.evaluation))
        shown = evaluation.inputs, evaluation.labels, evaluation.attributions
        found[IID].append(accuracy_drop(model, *shown, fractions=FRACTIONS, fill="background"))
        found[OOD].append(accuracy_drop(model, *shown, fractions=FRACTIONS, fill="mean"))
        retrain = _Retrain(member, data)
        found[ROAR].append(remove_and_retrain(train, evaluation, retrain, fractions=FRACTIONS))
    return found


def _explained(model: nn.Module, part: Part, data: Data) -> Explained:
    """A part's inputs and labels, and the gradient of each label's logit."""
    inputs, _ = inputs_of(part, part.index, data)
    labels = torch.from_numpy(part.labels[part.index])
    pieces = zip(inputs.split(BATCH), labels.split(BATCH), strict=True)
    maps = [METHODS[METHOD](model, some, of) for some, of in pieces]
    return Explained(inputs=inputs, labels=labels, attributions=torch.cat(maps))


class _Retrain:
    """Trains a member anew, with its own seeds, on inputs as they are."""

    def __init__(self, member: Member, data: Data) -> None:
        self._member, self._data = member, data

    def __call__(self, inputs: Tensor, labels: Tensor, place: int) -> nn.Module:
        """The network trained on inputs (N, C, H, W) that are normalised already."""
        part = Part(values=inputs.numpy(), labels=labels.numpy(), index=np.arange(len(labels)))
        zeros, nothing = np.zeros(inputs.shape[1], np.float32), replace(part, index=part.index[:0])
        data = replace(self._data, train=part, validation=nothing, mean=zeros, std=zeros + 1)
        *_, last = fit(self._member, data)
        with forked(0):  # its initial values are not kept
            model = build(self._member.model, input_shape=data.shape, classes=len(data.classes))
        model.load_state_dict(final_weights(last.state))
        return model.eval()
