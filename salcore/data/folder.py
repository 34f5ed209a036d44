"""A user's own folder of pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

from salcore.data.root import decoded_root
from salcore.data.source import Source
from salcore.data.tree import Listing, by_class, pictures_in, read_trees, subfolders
from salcore.errors import UserError
from salcore.paths import expanded

if TYPE_CHECKING:
    from salcore.spec import DataSpec

EVALUATION_NAMES = ("test", "val", "valid", "validation")


def read(spec: "DataSpec", argument: str) -> Source:
    """`folder:PATH`: one folder per class, below `train/` and one of `EVALUATION_NAMES`, or directly in PATH.

    Of several evaluation folders the first of `EVALUATION_NAMES` counts. Where there is none, a fixed stratified
    fifth is set apart. A PATH with pictures and no folders has no classes: all pictures are evaluation samples.
    """
    top = expanded(argument)
    if not top.is_dir():
        raise UserError("data.name", "folder:PATH of a folder that exists", argument)
    splits, classes = _listing(top) if subfolders(top) else _flat(top)
    found = read_trees(splits, top=top, image_size=spec.image_size, cache=decoded_root(spec))
    return Source(train=found["train"], test=found.get("test"), classes=classes)


def files(argument: str) -> dict[str, list[str]]:
    """The paths below PATH of the pictures of each split, train and test, in the order of their samples' numbers."""
    top = expanded(argument)
    splits, _ = _listing(top) if subfolders(top) else _flat(top)
    return {split: [path.relative_to(top).as_posix() for path, _ in listing] for split, listing in splits.items()}


def _flat(top: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    listing = [(path, -1) for path in pictures_in(top)]
    _refuse_none(top, listing)
    return {"train": [], "test": listing}, ()


def _listing(top: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """Paths and labels of every split, and the classes' names."""
    names = [path.name for path in subfolders(top)]
    tests = [name for name in EVALUATION_NAMES if name in names]
    if tests and "train" not in names:
        raise UserError("data.name", f"a folder train beside {tests[0]}", str(top))
    train = top / "train" if "train" in names else top
    stray = pictures_in(train)
    if stray:
        raise UserError("data.name", "images in one folder per class, or all of them in one folder", str(stray[0]))
    classes = tuple(path.name for path in subfolders(train))
    splits = {"train": by_class(train, classes)}
    _refuse_none(train, splits["train"])
    filled = {label for _, label in splits["train"]}
    for number, name in enumerate(classes):
        if number not in filled:
            raise UserError("data.name", "images in every class folder", str(train / name))
    if tests:
        splits["test"] = _test_listing(top / tests[0], classes)
    return splits, classes


def _test_listing(test: Path, classes: tuple[str, ...]) -> Listing:
    unknown = [path.name for path in subfolders(test) if path.name not in classes]
    if unknown:
        raise UserError("data.name", f"in {test} only the classes of the training folder", unknown[0])
    listing = by_class(test, classes)
    _refuse_none(test, listing)
    return listing


def _refuse_none(folder: Path, listing: Listing) -> None:
    if not listing:
        raise UserError("data.name", "a folder with images", str(folder))
