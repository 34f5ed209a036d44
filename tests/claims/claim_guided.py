"""Saliency guided training keeps the accuracy and makes the gradient sparser.

Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), section 4.1 and Fig. 2: the
MNIST CNN, k = 50 %, lambda = 1, Adadelta at rate 1. Members of the same seed start alike and see the same batches, so
the two trainings are compared in pairs. `python -m tests.claims guided`, 2 cores, about 12 minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from salcore.explain import read_predictions
from salcore.faithfulness import gradient_spread
from salcore.layout import LOGITS, member_folder, part_file
from salcore.spec import GuidanceSpec, Spec, from_dict
from tests.claims.ensembles import Ensemble, mean_interval, mirror
from tests.claims.table import Row, interval

TITLE = "Saliency guided training (Ismail et al., Fig. 2)"
SETTING = (
    "The MNIST CNN, MNIST: 20,000 training samples, 3 epochs, batch 128, Adadelta at rate 1, 3 members, paired by "
    "seed; accuracy on 10,000 validation samples; share of |gradient| in the 10 % largest pixels, mean over 512 "
    "evaluation samples."
)
EXPLAINED, MEMBERS, TOP = 512, 3, 0.1
TRAINING = {"epochs": 3, "batch_size": 128, "optimizer": "adadelta", "schedule": "constant", "learning_rate": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "guided": {},
    "guided-magnitude": {"ranking": "magnitude"},
    "guided-eval": {"mode": "eval"},
}
DEFAULTS = {
    "mask_fraction": 0.5,
    "weight": 1.0,
    "ranking": "signed",
    "of": "logit",
    "mode": "train",
    "fill": None,
    "detach_target": False,
}


def specs() -> dict[str, Spec]:
    """The standard ensemble, the guided one, and one for each option tried."""
    data = {"name": "mnist", "mirror": mirror("mnist"), "train_samples": 30_000, "validation_fraction": 1 / 3}
    return {"standard": spec(data), **{key: spec(data, guidance) for key, guidance in VARIANTS.items()}}


def spec(data: dict[str, Any], guidance: dict[str, Any] | None = None, **changes: Any) -> Spec:
    """The spec of one ensemble: standard where `guidance` is None."""
    objective = {"objective": "standard"} if guidance is None else {"objective": "guided", "guidance": guidance}
    return from_dict(
        {
            "data": {"eval_samples": EXPLAINED, **data},
            "model": changes.get("model", {"name": "mnist_cnn"}),
            "ensemble": {"members": changes.get("members", MEMBERS)},
            "training": {**TRAINING, **changes.get("training", {}), **objective},
        }
    )


def rows(ensembles: dict[str, Ensemble]) -> Iterator[Row]:
    """The two statements for the defaults, then what the options do to either, then the defaults themselves."""
    standard = ensembles["standard"]
    for key in VARIANTS:
        yield _accuracy(key, standard, ensembles[key], judged=key == "guided")
        yield _share(key, standard, ensembles[key], judged=key == "guided")
    found = GuidanceSpec().model_dump()
    wrong = {name: found[name] for name in DEFAULTS if found[name] != DEFAULTS[name]}
    yield Row(
        claim="defaults of `training.guidance`",
        paper="signed logit gradient, train mode, uniform fill, k 0.5, lambda 1, gradient through both",
        ours=f"other: {wrong}" if wrong else "the same",
        interval="",
        holds=not wrong and set(found) == set(DEFAULTS),
        why="where paper and published code differ is told at `salcore.objectives.guided`",
    )


def accuracies(ensemble: Ensemble) -> list[float]:
    """Validation accuracy of each member."""
    return [ensemble.accuracy(member) for member in ensemble.members]


def shares(ensemble: Ensemble) -> list[float]:
    """Each member's share of gradient magnitude in the top pixels, mean over the samples."""
    maps = (torch.tensor(ensemble.maps(member)) for member in ensemble.members)
    return [float(gradient_spread(each, TOP).top_share.nanmean()) for each in maps]


def paired(measure: Callable[[Ensemble], list[float]], standard: Ensemble, guided: Ensemble) -> list[float]:
    """guided - standard, seed by seed."""
    return [second - first for first, second in zip(measure(standard), measure(guided), strict=True)]


def _accuracy(key: str, standard: Ensemble, guided: Ensemble, *, judged: bool) -> Row:
    points = [100 * difference for difference in paired(accuracies, standard, guided)]
    before, after = (100 * _mean(accuracies(ensemble)) for ensemble in (standard, guided))
    voting = 100 * (_voting(guided) - _voting(standard))
    mean, low, high = mean_interval(points)
    return Row(
        claim=f"{key}: accuracy as standard, within 1 point",
        paper="performance is maintained, no number" if judged else "",
        ours=f"{mean:+.2f}: {before:.2f} % to {after:.2f} %",
        interval=interval(low, high, "+.2f"),
        holds=abs(mean) <= 1 if judged else None,
        why=f"by seed {_listed(points, '+.2f')}; mean probabilities of the ensemble on 512 samples {voting:+.2f}",
    )


def _share(key: str, standard: Ensemble, guided: Ensemble, *, judged: bool) -> Row:
    differences = paired(shares, standard, guided)
    before, after = (_mean(shares(ensemble)) for ensemble in (standard, guided))
    mean, low, high = mean_interval(differences)
    return Row(
        claim=f"{key}: more of the gradient in the top 10 % of pixels, every member",
        paper="Fig. 2, no number" if judged else "",
        ours=f"{mean:+.3f}: {before:.3f} to {after:.3f}",
        interval=interval(low, high, "+.3f"),
        holds=min(differences) > 0 if judged else None,
        why=f"by seed {_listed(differences, '+.3f')}",
    )


def _voting(ensemble: Ensemble) -> float:
    """Accuracy of the members' mean probabilities on the samples that are explained."""
    mean, label = 0.0, np.empty(0)
    for member in ensemble.members:
        found = read_predictions(ensemble.store, f"{member_folder(member)}/{LOGITS}/{part_file(0)}")
        assert found is not None, f"no logits of member {member}"
        mean, label = mean + softmax(found.logits, axis=1), found.label
    return float((np.asarray(mean).argmax(1) == label).mean())


def _mean(values: Any) -> float:
    return float(np.mean(values))


def _listed(values: Sequence[float], form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)
