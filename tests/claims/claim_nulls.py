"""What is noise is measured as noise, and what is exact as exact.

Two nulls and an oracle: untrained networks, and trained ones whose maps are dealt out to other samples, have the SNR of
pure noise, 1 / sqrt(M), and a debiased one near 0; a linear network's gradient is its weights, the same for all samples
of a class. `python -m tests.claims nulls`, 2 cores, about 2 minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from salcore import statistics
from salcore.spec import Spec, from_dict
from tests.claims.ensembles import Ensemble, mirror
from tests.claims.table import Row, interval

TITLE = "Nulls and oracle"
EXPLAINED, MEMBERS = 512, 8
SETTING = (
    f"`small_cnn` of width 16 and depth 2, FashionMNIST: 10,000 training and {EXPLAINED} evaluation samples, 3 epochs, "
    f"{MEMBERS} members. The linear network has depth 1 and no ReLU."
)
DATA = {"name": "fashion_mnist", "train_samples": 12_500, "validation_fraction": 0.2, "eval_samples": EXPLAINED}
NEAR = 0.1
"""An SNR is near the null within this share of it: a debiased one is then below half the null."""


def spec(epochs: int = 3, **changes: Any) -> Spec:
    """The spec of one ensemble; `changes` are of the network."""
    return from_dict(
        {
            "data": {**DATA, "mirror": mirror("fashion_mnist")},
            "model": {"name": "small_cnn", "width": 16, "depth": 2, **changes},
            "ensemble": {"members": MEMBERS},
            "training": {"epochs": epochs, "batch_size": 128, "learning_rate": 0.01},
        }
    )


def specs() -> dict[str, Spec]:
    """Untrained, trained, and linear."""
    return {
        "untrained": spec(epochs=0),
        "trained": spec(),
        "linear": spec(activation=False, pooling="none", depth=1),
    }


def rows(ensembles: dict[str, Ensemble]) -> Iterator[Row]:
    """Both nulls, the trained ensemble beside them, and the oracle."""
    yield _null("untrained networks", ensembles["untrained"], shuffled=False)
    left = f"{shared_by_all(ensembles['trained']):.3f} is expected of what the maps of all samples share"
    yield _null("maps of trained members, shuffled", ensembles["trained"], shuffled=True, why=left)
    for key in ("trained", "linear"):
        found = ensembles[key].summary()
        low = found["snr_debiased_low"]
        yield Row(
            claim=f"debiased SNR of {key} networks is not that of noise",
            paper="0.44 to 0.59 (VGG19, ResNet; Table 1); small and linear networks more (Fig. 6)",
            ours=f"{found['snr_debiased']:.3f}",
            interval=interval(low, found["snr_debiased_high"]),
            holds=low > 0,
            why=f"raw {found['snr']:.3f}, at 30 members {found['snr_at_30']:.3f}",
        )
    spread = same_class_spread(ensembles["linear"])
    yield Row(
        claim="a linear network's maps of one class are all equal",
        paper="exact",
        ours=f"{spread:.1e} of the largest value",
        interval="",
        holds=spread < 1e-5,
        why="the gradient of an affine function is constant",
    )


def near_null(found: dict[str, float]) -> bool:
    """Whether a summary is that of noise."""
    return abs(found["snr"] / found["null"] - 1) < NEAR and found["snr_debiased"] < found["null"] / 2


def shared_by_all(ensemble: Ensemble) -> float:
    """Debiased SNR that shuffling leaves: members' maps averaged over all samples are not nothing.

    Dealt out at random, maps of two members have the expected product <g, g'> of these averages g, and all of the
    variance that is between samples becomes noise.
    """
    maps = [ensemble.maps(member).astype(np.float64).reshape(ensemble.explained, -1) for member in ensemble.members]
    averages = np.stack([values.mean(0) for values in maps])
    signal2 = statistics.signal2(np.sum(averages.mean(0) ** 2), np.sum(averages.var(0, ddof=1)), len(ensemble.members))
    power = np.mean([np.sum(values**2) / len(values) for values in maps])
    return float(statistics.debiased(signal2, power - signal2))


def same_class_spread(ensemble: Ensemble) -> float:
    """Largest difference between two maps of one class and member, as a share of the largest value."""
    worst = 0.0
    for member in ensemble.members:
        maps = ensemble.maps(member)
        ranges = [np.ptp(maps[ensemble.labels == label], axis=0).max() for label in np.unique(ensemble.labels)]
        worst = max(worst, float(max(ranges) / np.abs(maps).max()))
    return worst


def _null(what: str, ensemble: Ensemble, *, shuffled: bool, why: str = "") -> Row:
    found = ensemble.summary(shuffled=shuffled)
    return Row(
        claim=f"SNR of {what} is that of noise",
        paper=f"1 / sqrt(M) = {found['null']:.3f}; debiased 0",
        ours=f"{found['snr']:.3f}; debiased {found['snr_debiased']:.3f}",
        interval=f"{interval(found['snr_low'], found['snr_high'])}; "
        f"{interval(found['snr_debiased_low'], found['snr_debiased_high'])}",
        holds=near_null(found),
        why=why or f"{found['negatives']} of {found['samples']} samples have a negative signal",
    )
