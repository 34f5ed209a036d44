"""Does an ensemble dream of more complete features than one network does? Fig. 8 of the paper, with a measure of it."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from salcore.data import Data
from salcore.data.batches import normalise
from salcore.dreams import dream
from salcore.errors import UserError
from salcore.figures.canvas import INK, png
from salcore.figures.charts import class_name
from salcore.figures.colour import displayable
from salcore.member_files import load_member
from salcore.members import fingerprint, plan
from salcore.report.accuracy import softmax
from salcore.statistics import Estimate, jackknife
from salcore.studies import networks
from salcore.studies.row import Picture, Row, claimed, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from salcore.runs import Run

TITLE = "Ensemble dreams"
SOURCE = "Woerl et al. (CVPR 2023), section 4.4 and Fig. 8"
ABOUT = (
    "Images that raise the logit of a class: of one network, of another, and on average of many. The paper finds the "
    "ensemble's cleaner and more complete, by eye. If they show more of the class and less of one network's training, "
    "they should also convince a network that had no part in any of them: how much more of it the ensemble's image has "
    "than that of one network is what is measured here. Intervals are Student's t over classes."
)


def _preset(of: Mapping[str, Any], *, members: int) -> dict[str, Any]:
    data = {"imagenette": of["data"]["imagenette"]}
    return {"network": "resnet18", "data": data, "members": members} | {k: of[k] for k in ("epochs", "precision")}


PRESETS = {"small": _preset(networks.SMALL, members=6), "full": _preset(networks.FULL, members=21)}
"""The ensembles of the table of noise, which are trained once for both. In full as many networks dream as in the paper,
and one looks on."""
DREAMERS = 20
"""Most networks that dream together."""
CLASSES_SHOWN, STEPS, SEED = 4, 512, 0
PURPOSE = "two that dream alone, of which the ensemble is made, and one that looks at the images"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dreams:
    """What D dreamers (two single networks, then the ensemble) dreamt of K classes.

    `targets` (K,); `images` (D, K, C, H, W) in (0, 1); `logits` (D, K, classes) of the network that looks at them;
    `own` (D, K), the mean logit of the target that the dreamers themselves give.
    """

    targets: np.ndarray
    images: np.ndarray
    logits: np.ndarray
    own: np.ndarray


def ensembles(*, network: str, data: dict, members: int, epochs: int, precision: str) -> dict[str, dict[str, Any]]:
    """Spec values of the one ensemble, which is that of the table of noise; of its maps one method's are enough."""
    if members < 3:
        raise UserError("study.members", f"3 or more: {PURPOSE}", members)
    asked = {"networks": [network], "data": data}
    made = networks.ensembles(**networks.SMALL | asked | {"members": members, "epochs": epochs, "precision": precision})
    return {name: values | {"attribution": {"methods": ["gradient"]}} for name, values in made.items()}


def rows(runs: "Mapping[str, Run]") -> Iterator[Row]:
    """What the network that looks on gives to the dreams of one network, to the ensemble's, and the difference."""
    for name, run in runs.items():
        yield from _rows(name, dreams_of(run), *roles(run)[2:])


def figures(runs: "Mapping[str, Run]") -> Iterator[Picture]:
    """Classes across, dreamers down."""
    for name, run in runs.items():
        dreams, (first, second, crowd, _) = dreams_of(run), roles(run)
        classes = run.record(run.members[0])["classes"]
        titles = [class_name(classes, int(target)) for target in dreams.targets]
        dreamers = [f"member {first[0]} alone", f"member {second[0]} alone", f"{len(crowd)} together"]
        yield Picture(caption=f"{name}: {STEPS} steps", content=png(grid(dreams.images, dreamers, titles), dpi=160))


def roles(run: "Run") -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Members that dream alone (two), those that dream together, and the one that looks on. Raises UserError."""
    members = run.members
    if len(members) < 3:
        raise UserError("ensemble.members", f"3 or more that are trained: {PURPOSE}", len(members))
    together = members[: min(DREAMERS, len(members) - 1)]
    return members[:1], members[1:2], together, members[len(together)]


def dreams_of(run: "Run") -> Dreams:
    """The dreams of a run, kept in its directory: dreamt only where no file holds these members' yet."""
    *dreamers, looker = roles(run)
    classes = len(run.record(looker)["classes"])
    targets = np.unique(np.linspace(0, classes - 1, min(CLASSES_SHOWN, classes)).round().astype(int))
    prints = [[run.record(member)["fingerprint"] for member in each] for each in (*dreamers, (looker,))]
    name = f"dreams/{SEED}-{STEPS}-{fingerprint(prints, targets.tolist())[:16]}.npz"
    if not run.store.exists(name):
        run.store.write(name, _packed(_dreamt(run, dreamers, looker, targets)))
    with np.load(io.BytesIO(run.store.read(name)), allow_pickle=False) as kept:
        return Dreams(**{key: kept[key] for key in kept.files})


def over_classes(values: np.ndarray) -> Estimate:
    """Mean of `values` (K,), with the 95 % interval of Student's t over classes, which the jackknife of a mean is."""
    count = len(values)
    without = (values.sum() - values) / max(count - 1, 1)
    return jackknife(float(values.mean()), without)


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of every class `(..., classes)`: unlike p itself it tells the sure from the very sure.

    >>> log_odds(np.log([[0.2, 0.3, 0.5]])).round(3)
    array([[-1.386, -0.847,  0.   ]])
    """
    others = np.where(np.eye(logits.shape[-1], dtype=bool), -np.inf, logits[..., None, :])
    return logits - np.logaddexp.reduce(others, axis=-1)


def grid(images: np.ndarray, dreamers: Sequence[str], titles: Sequence[str]) -> "Figure":
    """Images `(D, K, C, H, W)` in [0, 1]: a row for each dreamer, a column for each class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (1.9 * len(titles) + 0.4, 1.9 * len(dreamers) + 0.3)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(dreamers), len(titles), squeeze=False)
    for place in np.ndindex(axes.shape):
        pixels = displayable(np.rint(255 * images[place]).astype(np.uint8))
        axes[place].imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[place].set(xticks=[], yticks=[])
        axes[place].spines[:].set_visible(False)
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=11, color=INK, parse_math=False)
    for row, dreamer in enumerate(dreamers):
        axes[row, 0].set_ylabel(dreamer, fontsize=11, color=INK)
    return figure


def _rows(name: str, dreams: Dreams, crowd: Sequence[int], looker: int) -> Iterator[Row]:
    count = len(dreams.targets)
    place = np.arange(3)[:, None], np.arange(count), dreams.targets
    logit, probability, odds = (
        each[place] for each in (dreams.logits, softmax(dreams.logits), log_odds(dreams.logits))
    )
    told, many = f"over {count} classes", f"{len(crowd)} networks"
    for what, values, ends in (("logit", logit, (-np.inf, np.inf)), ("probability", probability, (0.0, 1.0))):
        given = f"{name}: {what} that member {looker} gives to dreams of"
        alone, together = (_within(over_classes(each), *ends) for each in (values[:2].mean(axis=0), values[2]))
        yield measured(f"{given} one network", alone, note=f"mean of two; interval {told}")
        yield measured(f"{given} {many}", together, note=f"interval {told}")
    for what, values in (("logit", logit), ("log odds", odds)):
        alone, together = values[:2].mean(axis=0), values[2]
        note = f"{alone.mean():.2f} to {together.mean():.2f}; interval {told}, paired"
        yield claimed(f"{name}: {what} that dreaming together adds", over_classes(together - alone), note=note)
    own = dreams.own.mean(axis=1)
    note = f"{own[:2].mean():.2f} and {own[2]:.2f}: one network is easier to please than many at once"
    lead = Estimate(value=float(own[:2].mean() - own[2]), low=np.nan, high=np.nan)
    yield measured(f"{name}: logit of the dreamers themselves, of one less of {many}", lead, note=note)


def _within(found: Estimate, low: float, high: float) -> Estimate:
    """The interval cut to the values that are possible."""
    return Estimate(value=found.value, low=float(np.maximum(found.low, low)), high=float(np.minimum(found.high, high)))


def _dreamt(run: "Run", dreamers: Sequence[Sequence[int]], looker: int, targets: np.ndarray) -> Dreams:
    data = run.data()
    channels, height, width = data.shape
    shape = channels, height, width
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    members = {member.index: member for member in plan(run.spec, data.digest)}
    wanted = sorted({looker}.union(*dreamers))
    loaded = {index: load_member(run.store, members[index], data).to(device) for index in wanted}
    images, logits, own = [], [], []
    for each in dreamers:
        asleep = [loaded[index] for index in each]
        classes = targets.tolist()
        made = dream(asleep, classes, shape=shape, mean=data.mean, std=data.std, steps=STEPS, seed=SEED)
        images.append(made.cpu().numpy())
        logits.append(_logits(loaded[looker], made, data))
        awake = np.mean([_logits(network, made, data) for network in asleep], axis=0)
        own.append(awake[np.arange(len(targets)), targets])
    return Dreams(targets=targets, images=np.stack(images), logits=np.stack(logits), own=np.stack(own))


@torch.no_grad()
def _logits(network: nn.Module, images: torch.Tensor, data: Data) -> np.ndarray:
    """Logits (K, classes) of images in [0, 1] as they are, in float64."""
    return network(normalise(images, data.mean, data.std)).double().cpu().numpy()


def _packed(dreams: Dreams) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **vars(dreams))
    return buffer.getvalue()
