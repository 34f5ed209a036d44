"""Wider networks have less noise in their gradients, and ReLUs add some.

Initialization Noise in Image Gradients and Saliency Maps (Woerl et al., 2023), section 4.2 and Fig. 6: 20 members on
48,000 images of FashionMNIST. Here 8 members on 10,000, `small_cnn` of depth 2 with max-pooling. `python -m
tests.claims width`, 2 cores, about 6 minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from salcore.spec import Spec, from_dict
from tests.claims.ensembles import Ensemble, differs, mirror
from tests.claims.table import Row, interval

TITLE = "Width and ReLU (Woerl et al., Fig. 6)"
SETTING = (
    "`small_cnn`, depth 2, max-pooling, FashionMNIST: 10,000 training and 512 evaluation samples, 3 epochs, 8 members. "
    "Debiased SNR of the input gradient of the label's logit."
)
EXPLAINED, MEMBERS, WIDTHS = 512, 8, (4, 16, 64)
DATA = {"name": "fashion_mnist", "train_samples": 12_500, "validation_fraction": 0.2, "eval_samples": EXPLAINED}
TRAINING = {"epochs": 3, "batch_size": 128, "learning_rate": 0.01}


def spec(width: int, *, data: dict[str, Any] | None = None, members: int = MEMBERS, **changes: Any) -> Spec:
    """The spec of one ensemble; `changes` are of the model and, under `training`, of the training."""
    training = {**TRAINING, **changes.pop("training", {})}
    return from_dict(
        {
            "data": data or {**DATA, "mirror": mirror("fashion_mnist")},
            "model": {"name": "small_cnn", "width": width, "depth": 2, **changes},
            "ensemble": {"members": members},
            "training": training,
        }
    )


def specs() -> dict[str, Spec]:
    """Every width with and without ReLU."""
    return {name(width, relu): spec(width, activation=relu) for width in WIDTHS for relu in (True, False)}


def name(width: int, relu: bool) -> str:
    """Name of one ensemble."""
    return f"width-{width}-{'relu' if relu else 'linear'}"


def rows(ensembles: dict[str, Ensemble]) -> Iterator[Row]:
    """SNR of each ensemble, then the two statements."""
    found = {key: ensembles[key].summary() for key in specs()}
    for key, row in found.items():
        yield Row(
            claim=f"SNR, {key.replace('-', ' ').replace('linear', 'without ReLU')}",
            paper="in Fig. 6, no number",
            ours=f"{row['snr_debiased']:.3f}",
            interval=interval(row["snr_debiased_low"], row["snr_debiased_high"]),
            holds=None,
            why=f"members' accuracy {_accuracy(ensembles[key]):.3f}; raw SNR {row['snr']:.3f}",
        )
    for relu in (True, False):
        for narrow, wide in pairwise([name(width, relu) for width in WIDTHS]):
            yield _larger(f"SNR rises with width: {narrow} to {wide}", found[narrow], found[wide])
    for width in WIDTHS:
        with_relu, without = name(width, True), name(width, False)
        yield _larger(f"SNR is lower with ReLU, width {width}", found[with_relu], found[without])


def _larger(claim: str, first: dict[str, Any], second: dict[str, Any]) -> Row:
    value, low, high = differs(first, second, "snr_debiased")
    sure = "the interval excludes 0" if low > 0 else "the interval includes 0" if high > 0 else "the other way round"
    return Row(
        claim=claim, paper="rises", ours=f"{value:+.3f}", interval=interval(low, high), holds=value > 0, why=sure
    )


def _accuracy(ensemble: Ensemble) -> float:
    return sum(map(ensemble.accuracy, ensemble.members)) / len(ensemble.members)
