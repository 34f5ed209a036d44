"""What the tests of data share: specs with a root of their own, small pictures on disk, and real data unpacked once."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salcore.spec import DataSpec


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., DataSpec]:
    """A data spec whose root is this test's own."""
    return lambda name, **keys: DataSpec(
        **{"name": str(name), "root": str(tmp_path / "root"), "eval_samples": 4} | keys
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tree of lossless colour pictures: {folder: how many}; the pixels depend on the folder and the number."""

    def write(counts: dict[str, int], size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Path:
        top = tmp_path / "pictures"
        for number, (folder, count) in enumerate(counts.items()):
            (top / folder).mkdir(parents=True, exist_ok=True)
            for picture in range(count):
                pixels = np.random.default_rng([number, picture]).integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(top / folder / f"{picture:03}.png")
        return top

    return write


@pytest.fixture(scope="session")
def imagenette(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 training and 3 validation photographs of each of ten classes, as a tree."""
    top = tmp_path_factory.mktemp("imagenette")
    wanted = {"train": 10, "val": 3}
    taken: dict[str, int] = {}
    with tarfile.open(test_data / "imagenette_224_subset" / "imagenette_224_subset.tar") as archive:
        for entry in archive:
            folder = entry.name.rpartition("/")[0]
            if entry.isfile() and taken.get(folder, 0) < wanted[folder.split("/")[1]]:
                taken[folder] = taken.get(folder, 0) + 1
                archive.extract(entry, top, filter="data")
    return top / "imagenette_224_subset"


@pytest.fixture(scope="session")
def cifar10(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 training and 1,000 test images of CIFAR-10 as an archive of arrays, channels last."""
    folder = test_data / "cifar10_subset"

    def sheets(split: str, count: int) -> np.ndarray:
        opened = (np.asarray(Image.open(folder / f"{split}_{sheet}.png")) for sheet in range(count))
        return np.concatenate([sheet.reshape(-1, 32, 32, 3) for sheet in opened])

    path = tmp_path_factory.mktemp("cifar10") / "cifar10.npz"
    np.savez(
        path,
        train_images=sheets("train", 2),
        train_labels=np.loadtxt(folder / "train_labels.txt", dtype=np.int64)[:2000],
        test_images=sheets("test", 1),
        test_labels=np.loadtxt(folder / "test_labels.txt", dtype=np.int64),
        classes=np.array((folder / "class_names.txt").read_text().split()),
    )
    return path
