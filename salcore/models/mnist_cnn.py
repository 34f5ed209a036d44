"""The convolutional network of the saliency guided training paper for MNIST."""

from collections import OrderedDict

from torch import nn


def mnist_cnn(*, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two convolutions of 3 x 3 (32 and 64 channels), max-pooling, two linear layers: (N, C, H, W) -> logits (N, K).

    Convolution, ReLU, convolution, ReLU, max-pool 2, dropout 0.25, linear to 128, ReLU, dropout 0.5, linear to K. No
    padding: 28 x 28 pixels become 64 maps of 12 x 12, so 9216 features. The published code ends in a log-softmax; this
    network returns the logits, to which attribution and losses apply theirs.

    Raises ValueError for sides under 6 pixels.

    Improving Deep Learning Interpretability by Saliency Guided Training (Ismail et al., 2021), published code.

    >>> mnist_cnn(input_shape=(1, 28, 28), classes=10).linear1.in_features
    9216
    """
    channels, *sides = input_shape
    rows, columns = ((side - 4) // 2 for side in sides)
    if min(rows, columns) < 1:
        raise ValueError(f"`input_shape`: expected sides of 6 or more, got {input_shape}")
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(channels, 32, 3),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(32, 64, 3),
        "relu2": nn.ReLU(),
        "pool": nn.MaxPool2d(2),
        "dropout1": nn.Dropout(0.25),
        "flatten": nn.Flatten(),
        "linear1": nn.Linear(64 * rows * columns, 128),
        "relu3": nn.ReLU(),
        "dropout2": nn.Dropout(0.5),
        "linear2": nn.Linear(128, classes),
    }
    return nn.Sequential(OrderedDict(layers))
