"""The small convolutional network whose width, depth and non-linearities can be varied one at a time."""

from typing import Annotated, Literal

from torch import nn

from salcore.settings import Within

_POOLING = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


def small_cnn(
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: Annotated[int, Within(1)] = 16,
    depth: Annotated[int, Within(1, 4)] = 2,
    activation: bool = True,
    pooling: Literal["average", "max", "none"] = "average",
    norm: Literal["none", "batch", "instance"] = "none",
    dropout: Annotated[float, Within(0, below=1)] = 0.0,
) -> nn.Module:
    """`depth` convolutions of 3 x 3 with `width` channels each, then one linear layer: (N, C, H, W) -> logits (N, K).

    A layer is convolution, norm, ReLU. Pooling by 2 stands between layers, so depth 1 is the paper's baseline of one
    convolution and a linear classifier, and 8 x 8 pixels are enough for depth 4. Without activation and norm, and with
    pooling average or none, the logits are an affine function of the pixels: with the default, ReLU is the only
    non-linearity, and max-pooling adds another. Dropout acts before the linear layer.

    The paper leaves padding (here 1), the place of pooling and the widths of later layers (here all equal) open.

    Raises ValueError if pooling leaves no pixel.

    Initialization Noise in Image Gradients and Saliency Maps (Woerl et al., 2023), section 4.2.

    >>> [name for name, _ in small_cnn(input_shape=(1, 8, 8), classes=10).features.named_children()]
    ['conv1', 'relu1', 'pool1', 'conv2', 'relu2']
    """
    channels, rows, columns = input_shape
    features = nn.Sequential()
    for layer in range(1, depth + 1):
        features.add_module(f"conv{layer}", nn.Conv2d(channels if layer == 1 else width, width, 3, padding=1))
        if norm == "batch":
            features.add_module(f"norm{layer}", nn.BatchNorm2d(width))
        if norm == "instance":
            features.add_module(f"norm{layer}", nn.InstanceNorm2d(width, affine=True))
        if activation:
            features.add_module(f"relu{layer}", nn.ReLU())
        if pooling != "none" and layer < depth:
            features.add_module(f"pool{layer}", _POOLING[pooling](2))
            rows, columns = rows // 2, columns // 2
    if not (rows and columns):
        raise ValueError(f"`input_shape`: expected sides of {2 ** (depth - 1)} or more, got {input_shape}")
    classifier = nn.Sequential(nn.Flatten())
    if dropout:
        classifier.add_module("dropout", nn.Dropout(dropout))
    classifier.add_module("linear", nn.Linear(width * rows * columns, classes))
    network = nn.Sequential()
    network.add_module("features", features)
    network.add_module("classifier", classifier)
    return network
