"""Wider networks have less noise in their gradients, and ReLUs add some.

Initialization Noise in Image Gradients and Saliency Maps (Woerl et al., 2023), section 4.2 and Fig. 6: 20 members on
48,000 images of FashionMNIST. Here 8 members on 10,000, `small_cnn` of depth 2. `python -m tests.claims width`, 2
cores, about 15 minutes.

The effect of ReLU is judged with average pooling, where it is the only non-linearity. Max-pooling is another one of
similar effect, as the paper says, and beside it ReLU may help or harm: those rows are shown and not judged.
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
    "`small_cnn`, depth 2, FashionMNIST: 10,000 training and 512 evaluation samples, 3 epochs, 8 members. Debiased SNR "
    "of the input gradient of the label's logit. With average pooling ReLU is the only non-linearity, so it is judged "
    "there; max-pooling is a non-linearity of its own."
)
EXPLAINED, MEMBERS = 512, 8
WIDTHS, POOLINGS = (4, 16, 64), ("average", "max")
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
    """Every width with and without ReLU, under either pooling."""
    return {
        name(pooling, width, relu): spec(width, activation=relu, pooling=pooling)
        for pooling in POOLINGS
        for width in WIDTHS
        for relu in (True, False)
    }


def name(pooling: str, width: int, relu: bool) -> str:
    """Name of one ensemble."""
    return f"{pooling}-{width}-{'relu' if relu else 'without'}"


def rows(ensembles: dict[str, Ensemble]) -> Iterator[Row]:
    """SNR of each ensemble, then the two statements."""
    found = {key: ensembles[key].summary() for key in specs()}
    for key, row in found.items():
        pooling, width, relu = key.split("-")
        yield Row(
            claim=f"SNR of width {width}, {pooling} pooling, {relu}{'' if relu == 'relu' else ' ReLU'}",
            paper="Fig. 6, no number",
            ours=f"{row['snr_debiased']:.3f}",
            interval=interval(row["snr_debiased_low"], row["snr_debiased_high"]),
            holds=None,
            why=f"members' accuracy {_accuracy(ensembles[key]):.3f}; raw SNR {row['snr']:.3f}",
        )
    for pooling in POOLINGS:
        for relu in (True, False):
            for narrow, wide in pairwise(WIDTHS):
                first, second = (found[name(pooling, width, relu)] for width in (narrow, wide))
                what = "with ReLU" if relu else "without ReLU"
                yield _larger(f"SNR rises from width {narrow} to {wide}, {pooling} pooling, {what}", first, second)
        for width in WIDTHS:
            first, second = (found[name(pooling, width, relu)] for relu in (True, False))
            claim = f"SNR is lower with ReLU, {pooling} pooling, width {width}"
            yield _larger(claim, first, second, judged=pooling == "average")


def _larger(claim: str, first: dict[str, Any], second: dict[str, Any], *, judged: bool = True) -> Row:
    value, low, high = differs(first, second, "snr_debiased")
    return Row(
        claim=claim,
        paper="yes, Fig. 6 (no number)",
        ours=f"{value:+.3f}",
        interval=interval(low, high),
        holds=low > 0 if judged and (low > 0 or high < 0) else None,
        why="" if low > 0 else "undecided: the interval includes 0" if high > 0 else "the other way round",
    )


def _accuracy(ensemble: Ensemble) -> float:
    return sum(map(ensemble.accuracy, ensemble.members)) / len(ensemble.members)
