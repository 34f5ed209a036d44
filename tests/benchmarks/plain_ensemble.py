"""What a researcher writes: a loop over seeds with a `DataLoader`, Captum for the maps, NumPy for the statistics.

`python -m tests.benchmarks.plain_ensemble IMAGES.npz NETWORK MEMBERS EPOCHS OUT.npz`; the other side of the
whole-job benchmark. Threads are torch's own choice, all cores; the `DataLoader` has no workers, which on 2 cores take
from the loop more than they bring: it is 12 % slower with two.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from salcore.models import build
from salcore.spec import ModelSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum import attr

BATCH, STEPS = 128, 16


class Pictures(Dataset):
    """Items as torchvision's own data sets give them: a PIL image through the transforms, and its label."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: transforms.Compose) -> None:
        self._images = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
        self._labels, self._transform = labels, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[item])), int(self._labels[item])


def network(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network that both sides train."""
    return build(ModelSpec(name=name), input_shape=shape, classes=classes)


def train(model: nn.Module, pictures: Pictures, epochs: int) -> nn.Module:
    """The loop; Adam, a constant rate."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = DataLoader(pictures, batch_size=BATCH, shuffle=True)
    model.train()
    for _ in range(epochs):
        for inputs, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()


def explain(model: nn.Module, pictures: Pictures) -> dict[str, np.ndarray]:
    """Maps (N, C, H, W) of the labels, by method."""
    methods = {
        "gradient": lambda inputs, labels: attr.Saliency(model).attribute(inputs, target=labels, abs=False),
        "integrated_gradients": lambda inputs, labels: attr.IntegratedGradients(model).attribute(
            inputs, target=labels, n_steps=STEPS, internal_batch_size=BATCH
        ),
    }
    batches = list(DataLoader(pictures, batch_size=BATCH))
    return {
        name: np.concatenate([method(*batch).detach().numpy() for batch in batches]) for name, method in methods.items()
    }


def statistics(maps: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and variance over the members (M, N, C, H, W), and each image's SNR."""
    mean, variance = maps.mean(0), maps.var(0, ddof=1)
    axes = 1, 2, 3
    return {"mean": mean, "variance": variance, "snr": np.sqrt((mean**2).sum(axes) / variance.sum(axes))}


def pictures(images: np.ndarray, labels: np.ndarray, of: np.ndarray) -> Pictures:
    """With the usual transforms: normalised by mean and deviation of the images `of`."""
    mean, std = ((reduced(of, (0, 2, 3)) / 255).tolist() for reduced in (np.mean, np.std))
    return Pictures(images, labels, transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)]))


def main(arguments: Sequence[str]) -> None:
    """Train, explain, reduce, save."""
    path, name, members, epochs, out = arguments
    with np.load(path) as arrays:
        images, labels = arrays["x_train"], arrays["y_train"]
        train_set, test_set = (pictures(arrays[f"x_{part}"], arrays[f"y_{part}"], images) for part in ("train", "test"))
        shape, classes = images.shape[1:], int(labels.max()) + 1
    maps: dict[str, list[np.ndarray]] = {}
    for seed in range(int(members)):
        torch.manual_seed(seed)
        model = train(network(name, shape, classes), train_set, int(epochs))
        for method, found in explain(model, test_set).items():
            maps.setdefault(method, []).append(found)
    found = {method: statistics(np.stack(each)) for method, each in maps.items()}
    np.savez(out, **{f"{method}_{key}": value for method, of in found.items() for key, value in of.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
