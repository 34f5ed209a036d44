"""Width, depth and non-linearity: what in a network makes its gradients noisy? Fig. 6 of the paper."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np

from salcore.figures import canvas, method_charts
from salcore.statistics import Estimate
from salcore.studies.row import UNKNOWN, Picture, Row, claimed, difference, measured
from salcore.studies.summaries import accuracy, debiased, rows_of

if TYPE_CHECKING:
    from salcore.runs import Run

TITLE = "Width, depth and non-linearity"
SOURCE = "Woerl et al. (CVPR 2023), Fig. 6"
ABOUT = (
    "Debiased SNR of the input gradient of small CNNs on FashionMNIST. The paper draws its figure without numbers: "
    "SNR rises with width, about as its square root, falls with depth, and falls where max-pooling or ReLU are added. "
    "What ReLU does is judged with average pooling and what max-pooling does without ReLU, so that each is the only "
    "non-linearity; the other rows are shown beside them. With average pooling and no ReLU a network is affine in its "
    "pixels, and the noise left is that of imperfect optimisation: on the small preset such networks of width 4, 16 "
    "and 64 have 2.41, 2.70 and 1.96 at the learning rate 0.01, but 2.45, 3.56 and 4.78 at 0.001."
)
SMALL: dict[str, Any] = {
    "widths": [4, 16, 64],
    "depths": [1, 2, 4],
    "poolings": ["average", "max"],
    "relus": [False, True],
    "every": False,
    "members": 6,
    "epochs": 3,
    "train_samples": 10_000,
    "eval_samples": 500,
}
FULL = SMALL | {
    "widths": [4, 8, 16, 32, 64, 128],
    "depths": [1, 2, 3, 4],
    "every": True,
    "members": 20,
    "train_samples": 60_000,
    "eval_samples": 10_000,
}
PRESETS = {"small": SMALL, "full": FULL}
METHOD = "gradient"
AFFINE = "affine in the pixels: its noise is imperfect optimisation, and less at a lower training.learning_rate"
POOLED = "each layer that is added pools once more by averaging, which smooths"
"""Why a statement may not come out."""


@dataclass(frozen=True, kw_only=True, order=True)
class Network:
    """One network of the study, and the name of its ensemble."""

    depth: int
    width: int
    pooling: str
    relu: bool

    @classmethod
    def named(cls, name: str) -> "Network":
        """The network of a name that `name` gives."""
        depth, width, pooling, kind = name.split("-")
        return cls(depth=int(depth[5:]), width=int(width[5:]), pooling=pooling, relu=kind == "relu")

    @property
    def name(self) -> str:
        """Such as `depth2-width16-max-relu`."""
        return f"depth{self.depth}-width{self.width}-{self.pooling}-{'relu' if self.relu else 'linear'}"

    @property
    def affine(self) -> bool:
        """Whether the logits are an affine function of the pixels."""
        return not self.relu and (self.pooling == "average" or self.depth == 1)

    def changed(self, **values: Any) -> "Network":
        """The same network but for these."""
        return Network(**{**vars(self), **values})

    def without(self, *names: str) -> str:
        """What it is, in words, but for the properties named."""
        words = {
            "depth": f"depth {self.depth}",
            "width": f"width {self.width}",
            "pooling": f"{self.pooling} pooling" if self.depth > 1 else "no pooling",
            "relu": "ReLU" if self.relu else "no ReLU",
        }
        return ", ".join(text for name, text in words.items() if name not in names)


def ensembles(
    *,
    widths: list,
    depths: list,
    poolings: list,
    relus: list,
    every: bool,
    members: int,
    epochs: int,
    train_samples: int,
    eval_samples: int,
) -> dict[str, dict[str, Any]]:
    """Spec values by `depth-width-pooling-relu`: every combination, or a cross through the middle.

    The cross has all widths at the second depth and all depths at the middle width, each with every pooling and ReLU.
    A network of depth 1 has no pooling, so there is one of it, under the first of `poolings`.
    """
    middle = widths[len(widths) // 2], depths[min(1, len(depths) - 1)]
    grid = product(depths, widths, poolings, relus)
    chosen = {
        Network(depth=depth, width=width, pooling=poolings[0] if depth == 1 else pooling, relu=relu)
        for depth, width, pooling, relu in grid
        if every or width == middle[0] or depth == middle[1]
    }
    return {
        network.name: {
            "data": {"name": "fashion_mnist", "train_samples": train_samples, "eval_samples": eval_samples},
            "model": {
                "name": "small_cnn",
                "width": network.width,
                "depth": network.depth,
                "pooling": network.pooling if network.depth > 1 else "none",
                "activation": network.relu,
            },
            "ensemble": {"members": members},
            "training": {"epochs": epochs, "batch_size": 128, "learning_rate": 0.01},
            "attribution": {"methods": [METHOD]},
        }
        for network in sorted(chosen)
    }


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """Every network's SNR, then the paper's statements, each with everything else held fixed."""
    found = _found(runs)
    for network, snr in found.items():
        run = runs[network.name]
        raw = rows_of(run)[METHOD]["snr"]
        yield measured(network.name, snr, note=f"members' accuracy {accuracy(run):.3f}; raw SNR {raw:.3f}")
    for network, other in _neighbours(found, "width"):
        what = f"SNR rises from width {network.width} to {other.width}: {network.without('width')}"
        yield claimed(what, difference(found[network], found[other]), note=AFFINE if network.affine else "")
    for line in _lines(found, "width"):
        if len(line) > 2:
            note = "slope of log SNR against log width, least squares; 0.5 is a square root"
            yield measured(f"power of the width: {line[0].without('width')}", _power(line, found), paper=0.5, note=note)
    for network, other in _neighbours(found, "depth"):
        what = f"SNR falls from depth {network.depth} to {other.depth}: {other.without('depth')}"
        note = POOLED if other.pooling == "average" else ""
        yield claimed(what, difference(found[other], found[network]), note=note)
    for network in found:
        yield from _non_linearity(network, found)


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """SNR against width and against depth: solid without ReLU, dashed with it, as in the paper."""
    found = _found(runs)
    for axis in ("width", "depth"):
        lines = [line for line in _lines(found, axis) if len(line) > 1]
        if not lines:
            continue
        at = sorted({getattr(network, axis) for line in lines for network in line})
        nothing = Estimate(value=np.nan, low=np.nan, high=np.nan)
        series = {}
        for line in lines:
            known = {getattr(network, axis): found[network] for network in line}
            series[line[-1].without(axis)] = [known.get(value, nothing) for value in at]
        dashed = [line[-1].without(axis) for line in lines if line[-1].relu]
        figure = method_charts.lines(at, series, axis, dashed=dashed, log2=axis == "width")
        yield Picture(caption=f"Debiased SNR against {axis}", content=canvas.svg(figure, f"architecture-{axis}"))


def _non_linearity(network: Network, found: Mapping[Network, Estimate]) -> Iterator[Row]:
    """What ReLU, and what max-pooling takes away from a network."""
    with_relu = network.changed(relu=True)
    if not network.relu and with_relu in found:
        gain, what = difference(found[with_relu], found[network]), f"ReLU lowers the SNR: {network.without('relu')}"
        alone = network.pooling == "average" or network.depth == 1
        yield claimed(what, gain) if alone else measured(what, gain, note="not judged")
    with_max = network.changed(pooling="max")
    if network.pooling == "average" and with_max in found:
        gain = difference(found[with_max], found[network])
        what = f"max-pooling lowers the SNR: {network.without('pooling')}"
        yield measured(what, gain, note="not judged") if network.relu else claimed(what, gain)


def _found(runs: "Mapping[str, Run]") -> dict[Network, Estimate]:
    return dict(sorted((Network.named(name), debiased(rows_of(run)[METHOD])) for name, run in runs.items()))


def _lines(found: Mapping[Network, Estimate], axis: str) -> list[list[Network]]:
    """Networks that differ in one property alone, in its order. Depth 1 has no pooling: it begins every line."""
    lines: dict[str, list[Network]] = {}
    for network in sorted(found, key=lambda each: getattr(each, axis)):
        lines.setdefault(network.without(axis), []).append(network)
    if axis != "depth":
        return list(lines.values())
    deep = [line for line in lines.values() if line[0].depth > 1]
    starts = {(line[0].width, line[0].relu): line[0] for line in lines.values() if line[0].depth == 1}
    return [[*([starts[key]] if (key := (line[0].width, line[0].relu)) in starts else []), *line] for line in deep]


def _neighbours(found: Mapping[Network, Estimate], axis: str) -> Iterator[tuple[Network, Network]]:
    for line in _lines(found, axis):
        yield from pairwise(line)


def _power(line: list[Network], found: Mapping[Network, Estimate]) -> Estimate:
    """Slope of log SNR against log width, its interval from those of the SNRs as independent normal errors."""
    snrs = [found[network] for network in line]
    if not all(0 < snr.value < math.inf for snr in snrs):
        return UNKNOWN
    x, y = np.log([network.width for network in line]), np.log([snr.value for snr in snrs])
    errors = np.array([(snr.high - snr.low) / 2 / snr.value for snr in snrs])
    weights = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    slope, reach = float(weights @ y), float(np.sqrt(np.sum((weights * errors) ** 2)))
    return Estimate(value=slope, low=slope - reach, high=slope + reach)
