"""Public data sets through torchvision: found in `data.root`, or fetched into it, from `data.mirror` if given."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from salcore.data.root import data_root, decoded_root
from salcore.data.source import Labelled, Source
from salcore.data.tree import by_class, read_trees
from salcore.errors import UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec

IMAGENETTE_SIZE = "320px"
BROKEN = (RuntimeError, OSError, EOFError, ValueError, AssertionError, IndexError)
"""What torchvision raises on a set that is not there, and on files that are cut short."""


@dataclass(frozen=True, kw_only=True)
class _Download:
    """How torchvision opens a set below a root, and the archives (path below the root: MD5) that it is made from."""

    build: Callable[..., Any]
    archives: Mapping[str, str]


def mnist(spec: "DataSpec", argument: str) -> Source:
    """Handwritten digits, grey, 28 x 28: 60,000 and 10,000 (LeCun et al., 1998)."""
    from torchvision.datasets import MNIST

    return _mnist_like(spec, MNIST, classes=tuple(map(str, range(10))))


def mnist_series(spec: "DataSpec", argument: str) -> Source:
    """MNIST as series: 28 features, the rows, over 28 steps, the columns; float32 between 0 and 1.

    Rows at the margin are empty but for a pixel here and there, which a deviation of their own would make enormous.
    """
    found = mnist(spec.model_copy(update={"name": "mnist"}), argument)
    train, test = _as_series(found.train), found.test and _as_series(found.test)
    return replace(found, train=train, test=test, kind="series", one_unit=True)


def _as_series(images: Labelled) -> Labelled:
    return replace(images, values=images.values[:, 0] / np.float32(255))


def fashion_mnist(spec: "DataSpec", argument: str) -> Source:
    """Pictures of clothes, grey, 28 x 28: 60,000 and 10,000 (Xiao et al., 2017)."""
    from torchvision.datasets import FashionMNIST

    return _mnist_like(spec, FashionMNIST, classes=tuple(FashionMNIST.classes))


def cifar10(spec: "DataSpec", argument: str) -> Source:
    """Photographs of ten kinds of things, RGB, 32 x 32: 50,000 and 10,000 (Krizhevsky, 2009)."""
    from torchvision.datasets import CIFAR10

    url = _mirror_url(spec)
    kind = CIFAR10 if url is None else type("CIFAR10", (CIFAR10,), {"url": url + CIFAR10.filename})
    return _arrays(spec, _Download(build=kind, archives={CIFAR10.filename: CIFAR10.tgz_md5}))


def imagenette(spec: "DataSpec", argument: str) -> Source:
    """Photographs of ten easy classes of ImageNet, RGB, 320 pixels and more: 9,469 and 3,925 (Howard, 2019)."""
    from torchvision.datasets import Imagenette

    original, checksum = Imagenette._ARCHIVES[IMAGENETTE_SIZE]
    name = original.rpartition("/")[2]
    url = _mirror_url(spec)
    archives = {IMAGENETTE_SIZE: (original if url is None else url + name, checksum)}
    kind = type("Imagenette", (Imagenette,), {"_ARCHIVES": archives})
    found = _found(spec, _Download(build=kind, archives={name: checksum}), split="train", size=IMAGENETTE_SIZE)
    top = Path(found._size_root)
    splits = {split: by_class(top / folder, found.wnids) for split, folder in (("train", "train"), ("test", "val"))}
    sets = read_trees(splits, top=top, image_size=spec.image_size, cache=decoded_root(spec))
    return Source(train=sets["train"], test=sets["test"], classes=tuple(synonyms[0] for synonyms in found.classes))


def _mnist_like(spec: "DataSpec", base: Any, classes: tuple[str, ...]) -> Source:
    url = _mirror_url(spec)
    # A subclass, so that torchvision's own list stays as it is; its folder is called after the class.
    kind = base if url is None else type(base.__name__, (base,), {"mirrors": [url]})
    archives = {f"{base.__name__}/raw/{name}": checksum for name, checksum in base.resources}
    return _arrays(spec, _Download(build=kind, archives=archives), classes)


def _arrays(spec: "DataSpec", download: _Download, classes: tuple[str, ...] | None = None) -> Source:
    train, test = (_found(spec, download, train=train) for train in (True, False))
    return Source(train=_labelled(train), test=_labelled(test), classes=classes or tuple(train.classes))


def _labelled(dataset: Any) -> Labelled:
    """Grey `(N, H, W)` or colour `(N, H, W, C)` images as `(N, C, H, W)`."""
    images = np.asarray(dataset.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Labelled(values=np.ascontiguousarray(images), labels=np.asarray(dataset.targets, dtype=np.int64))


def _found(spec: "DataSpec", download: _Download, **settings: Any) -> Any:
    """The set in `data.root`; if it is not there, or not whole, it is fetched first."""
    root = data_root(spec)
    try:
        return download.build(root, download=False, **settings)
    except BROKEN:
        _fetch(spec, download, root, **settings)
    return download.build(root, download=False, **settings)


def _fetch(spec: "DataSpec", download: _Download, root: Path, **settings: Any) -> None:
    """Fetches into a folder of its own and moves what is complete: torchvision takes half-written files for whole."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{spec.name}-", dir=root))
    except OSError as error:
        raise UserError("data.root", "a folder that can be written", str(error)) from error
    try:
        if spec.mirror is not None and _mirror_url(spec) is None:
            _copy_archives(spec, download.archives, staging)
        download.build(staging, download=True, **settings)
        for entry in sorted(staging.iterdir()):
            _move(entry, root / entry.name)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        wanted = f"{spec.name} to be fetched; pass data.mirror (a folder or URL) or data.root (a folder that has it)"
        raise UserError("data.mirror", wanted, " ".join(str(error).split())) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _mirror_url(spec: "DataSpec") -> str | None:
    """`data.mirror` with a final slash if it is the URL of another machine."""
    mirror = str(spec.mirror)
    return mirror.rstrip("/") + "/" if "://" in mirror and not mirror.startswith("file:") else None


def _copy_archives(spec: "DataSpec", archives: Mapping[str, str], staging: Path) -> None:
    """Puts the mirror's archives where torchvision looks for finished downloads, their checksums verified."""
    from torchvision.datasets.utils import check_integrity

    mirror = str(spec.mirror)
    given = expanded(url2pathname(urlparse(mirror).path) if mirror.startswith("file:") else mirror)
    names = [Path(path).name for path in archives]
    folder = next((f for f in (given, given / spec.name) if all((f / name).is_file() for name in names)), None)
    if folder is None:
        raise UserError("data.mirror", f"a folder with {', '.join(names)}", mirror)
    for path, checksum in archives.items():
        original, target = folder / Path(path).name, staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, target)
        if not check_integrity(target, checksum):
            raise UserError("data.mirror", f"{original.name} with the MD5 sum {checksum}", f"another file: {original}")


def _move(source: Path, target: Path) -> None:
    """Renames a file or a whole folder; what belongs in a folder that exists already is moved piece by piece."""
    try:
        source.replace(target)
    except OSError:
        if not (source.is_dir() and target.is_dir()):
            raise
        for entry in sorted(source.iterdir()):
            _move(entry, target / entry.name)
