"""Folders of pictures: what they hold, in the order of their names."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from salcore.data.pictures import Entry, Pictures, decode
from salcore.data.source import Labelled

Listing = list[tuple[Path, int]]
"""Paths and class numbers."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def subfolders(folder: Path) -> list[Path]:
    """Folders directly below, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures_in(folder: Path) -> list[Path]:
    """Picture files directly in a folder, sorted, without hidden ones."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in files if not path.name.startswith(".") and path.is_file())


def pictures_below(folder: Path) -> list[Path]:
    """Picture files at any depth, a folder's own before those of its subfolders."""
    return pictures_in(folder) + [path for below in subfolders(folder) for path in pictures_below(below)]


def by_class(folder: Path, classes: Sequence[str]) -> Listing:
    """Pictures and class numbers of a tree with one folder per class; a class may have no folder."""
    places = [(folder / name, number) for number, name in enumerate(classes)]
    return [(path, number) for place, number in places if place.is_dir() for path in pictures_below(place)]


def read_trees(splits: dict[str, Listing], *, top: Path, image_size: int | None, cache: Path) -> dict[str, Labelled]:
    """Decoded pictures of several splits, with one shape and number of channels for all."""
    pictures = {name: _pictures([path for path, _ in entries], top) for name, entries in splits.items()}
    images = decode(pictures, image_size=image_size, cache=cache)
    labels = {name: np.array([label for _, label in entries], dtype=np.int64) for name, entries in splits.items()}
    return {name: Labelled(values=images[name], labels=labels[name]) for name in splits}


def _pictures(paths: list[Path], top: Path) -> Pictures:
    listing = hashlib.sha256()
    for path in paths:
        status = path.stat()
        listing.update(f"{path.relative_to(top)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())

    def entries() -> Iterator[Entry]:
        return ((str(path), path) for path in paths)

    return Pictures(count=len(paths), entries=entries, stamp=listing.hexdigest())
