"""Every kind of layer, every way to use one, and real networks: profiles against the slow re-derivation."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from salcore.parameter_space import kernel
from salcore.seeds import forked
from tests.salcore.parameter_space.networks import CLASSES, Net, agree, conv, noise, one

LAYERS = {
    "plain": lambda: one(nn.Conv2d(4, 6, 3)),
    "strided so that the last row is not seen": lambda: one(nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(0, 2))),
    "dilated": lambda: one(nn.Conv2d(4, 6, (3, 2), dilation=(2, 3), padding=2, bias=False)),
    "padding same": lambda: one(nn.Conv2d(4, 6, (3, 5), padding="same")),
    "padding same, uneven": lambda: one(nn.Conv2d(4, 6, 3, padding="same", dilation=2)),
    **{
        f"padding {mode}": lambda mode=mode: one(nn.Conv2d(4, 6, 3, padding=2, padding_mode=mode))
        for mode in ("reflect", "replicate", "circular")
    },
    "1 x 1": lambda: one(nn.Conv2d(4, 6, 1)),
    "1 x 1 strided": lambda: one(nn.Conv2d(4, 6, 1, stride=3)),
    "output 1 x 1": lambda: one(nn.Conv2d(4, 6, (9, 8))),
    "grouped, output 1 x 1": lambda: one(nn.Conv2d(4, 6, (9, 8), groups=2)),
    "depthwise, output 1 x 1": lambda: one(nn.Conv2d(4, 8, (9, 8), groups=4)),
    "grouped": lambda: one(nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1)),
    "depthwise": lambda: one(nn.Conv2d(4, 4, 3, groups=4, stride=2, padding=2)),
    "depthwise, several filters a channel, dilated": lambda: one(nn.Conv2d(4, 12, 3, groups=4, stride=2, dilation=2)),
    "one channel": lambda: one(nn.Conv2d(1, 6, 5), (1, 9, 8)),
    "1-d": lambda: one(nn.Conv1d(4, 6, 3, stride=2, dilation=2, padding=1, groups=2), (4, 11)),
    "1-d depthwise": lambda: one(nn.Conv1d(4, 4, 3, padding=1, groups=4), (4, 11)),
    "3-d": lambda: one(nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 2), padding=1), (2, 4, 5, 6)),
    "transposed": lambda: one(nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)),
    "transposed, dilated more than strided": lambda: one(nn.ConvTranspose2d(4, 3, 3, dilation=3, output_padding=2)),
    "transposed, grouped": lambda: one(nn.ConvTranspose2d(4, 6, (2, 3), stride=3, groups=2)),
    "transposed, depthwise": lambda: one(nn.ConvTranspose2d(4, 8, 2, stride=2, groups=4)),
    "transposed, from one pixel": lambda: one(nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 1, 1)),
    "transposed, 1-d": lambda: one(nn.ConvTranspose1d(4, 3, 5, stride=2, padding=2), (4, 7)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("cached", [2**22, 2048])
def test_every_kind_of_convolution_agrees_with_autograd(build, cached, monkeypatch):
    monkeypatch.setattr(kernel, "_CACHED_BYTES", cached)  # the small one cuts samples, groups, channels and marks
    model = build()
    agree(model, noise(5, *model.shape))


def kernel_parameter():
    return nn.Parameter(torch.randn(4, 4, 3, 3))


def routed(m, x):
    """Samples go through the layer in two groups, in another order."""
    order = x[:, 0, 0, 0].argsort()
    halves = [m.layer(part).relu() for part in (x[order[:1]], x[order[1:]])]
    return torch.cat(halves)[order.argsort()]


def folded(m, x, swapped=False):
    """Both halves of the picture as rows of their own, by sample or by half first."""
    rows = x[:, :, :8].unflatten(2, (2, 4)).movedim(2, 0 if swapped else 1)
    return m.layer(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).movedim(0, int(swapped))


PATHS = {
    "used twice": lambda: Net(lambda m, x: m.layer(m.layer(x).relu()), layer=conv()),
    "used at two sizes": lambda: Net(
        lambda m, x: torch.cat([m.layer(x).mean(2), m.layer(x[..., 3:]).mean(2)], 2), layer=conv()
    ),
    "used twice, once down to 1 x 1": lambda: Net(
        lambda m, x: m.layer(m.layer(x[..., :3, :5])), layer=nn.Conv2d(4, 4, (2, 3))
    ),
    "depthwise used twice": lambda: Net(
        lambda m, x: m.layer(m.layer(x).relu()), layer=nn.Conv2d(4, 4, 3, padding=1, groups=4)
    ),
    "in place after": lambda: Net(lambda m, x: m.layer(x).relu_(), layer=conv()),
    "functional": lambda: Net(lambda m, x: functional.conv2d(x, m.kernel, padding=1), kernel=kernel_parameter()),
    "of torch, one stride": lambda: Net(
        lambda m, x: torch.convolution(x, m.kernel, None, [2], [1], [1], False, [0], 1), kernel=kernel_parameter()
    ),
    "functional beside a module": lambda: Net(
        lambda m, x: functional.conv2d(m.layer(x), m.layer.weight) + functional.conv2d(x, m.kernel),
        layer=conv(),
        kernel=kernel_parameter(),
    ),
    "with a constant kernel": lambda: Net(
        lambda m, x: m.layer(functional.conv2d(x, torch.ones(4, 1, 2, 2).to(x), groups=4)), layer=conv()
    ),
    "two names for one module": lambda: Net(lambda m, x: m.again(m.layer(x)), layer=(shared := conv()), again=shared),
    "TorchScript": lambda: Net(lambda m, x: m.layer(x), layer=torch.jit.script(conv())),
    "checkpointed": lambda: Net(
        lambda m, x: checkpoint(lambda h: m.layer(m.layer(h).relu()), x, use_reentrant=False), layer=conv()
    ),
    "residual": lambda: Net(lambda m, x: x + m.again(m.layer(x).relu()), layer=conv(), again=conv()),
    "branches": lambda: Net(
        lambda m, x: torch.cat([m.layer(x), m.again(x)], 1), layer=conv(), again=nn.Conv2d(4, 2, 1)
    ),
    "never run": lambda: Net(lambda m, x: m.layer(x), layer=conv(), again=conv()),
    "run without effect": lambda: Net(lambda m, x: m.layer(x) + 0 * m.again(x).detach(), layer=conv(), again=conv()),
    "multiplied by zero": lambda: Net(lambda m, x: m.layer(x) + 0 * m.again(x), layer=conv(), again=conv()),
    "cut off from the input": lambda: Net(
        lambda m, x: m.again(m.layer(x).detach().round()), layer=conv(), again=conv()
    ),
    "one sample at a time": lambda: Net(lambda m, x: torch.cat([m.layer(row[None]) for row in x]), layer=conv()),
    "without the batch axis": lambda: Net(lambda m, x: torch.stack([m.layer(row) for row in x]), layer=conv()),
    "routed": lambda: Net(routed, layer=conv()),
    "folded, sample first": lambda: Net(folded, layer=conv()),
    "folded, sample last": lambda: Net(lambda m, x: folded(m, x, True), layer=conv()),
    "folded depthwise": lambda: Net(lambda m, x: folded(m, x, True), layer=nn.Conv2d(4, 4, 3, groups=4)),
    "folded transposed": lambda: Net(lambda m, x: folded(m, x, True), layer=nn.ConvTranspose2d(4, 2, 3, stride=2)),
    "instance-norm": lambda: Net(lambda m, x: m.norm(m.layer(x)), layer=conv(), norm=nn.InstanceNorm2d(4, affine=True)),
    "batch-norm": lambda: Net(lambda m, x: m.norm(m.layer(x)), layer=conv(), norm=nn.BatchNorm2d(4)),
    "dropout": lambda: Net(lambda m, x: m.drop(m.layer(x)), layer=conv(), drop=nn.Dropout(0.5)),
    "channels last": lambda: Net(lambda m, x: m.layer(x.to(memory_format=torch.channels_last)), layer=conv()),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("build", PATHS.values(), ids=PATHS)
def test_every_way_to_use_a_convolution_agrees_with_autograd(build):
    agree(build(), noise(3, 4, 9, 8))


def test_more_rows_than_two_digits_tell_are_still_their_samples():
    agree(Net(lambda m, x: folded(m, x, True), layer=conv()), noise(37, 4, 9, 8))


def tokens(m, x):
    x = x.flatten(2).mT[:, :7]
    return m.out(m.attend(x, x, x)[0].transpose(0, 1)).transpose(0, 1)


LINEAR = {
    "head": lambda: one(conv()),
    "tokens, samples last": lambda: Net(
        tokens, attend=nn.MultiheadAttention(4, 2, batch_first=True), out=nn.Linear(4, 3)
    ),
    "as many tokens as samples": lambda: Net(
        lambda m, x: m.out(x[:, 0, :3].mT.transpose(0, 1)).movedim(1, 0), out=nn.Linear(3, 2)
    ),
    "pixels, no bias": lambda: Net(lambda m, x: m.out(x.movedim(1, -1)), out=nn.Linear(4, 3, bias=False)),
    "used twice": lambda: Net(lambda m, x: m.out(m.out(x.mean((2, 3))).tanh()), out=nn.Linear(4, 4)),
}


@pytest.mark.parametrize("build", LINEAR.values(), ids=LINEAR)
def test_rows_of_linear_layers_agree_with_autograd(build):
    model = build()
    table = agree(model, noise(3, *model.shape), linear=True)
    assert table.linear


def randomised(model):
    """Weights, running means and variances that no special case hides behind, in float64."""
    with forked(1):
        model = model.double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.BatchNorm2d):
                nn.init.normal_(module.weight, 0.5, 0.5)
    return model


SIDES = [
    ("resnet18", 40),
    ("resnet18", 32),  # whose last maps are 1 x 1
    ("resnet50", 64),
    ("vgg11", 64),
    ("vgg19", 32),
    ("vgg19_bn", 32),
    ("densenet121", 32),
    ("inception_v3", 75),
    ("mobilenet_v3_small", 40),
    ("convnext_tiny", 40),
    ("swin_t", 32),
]


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_real_networks_agree_with_autograd(name, side):
    options = {"init_weights": False} if name == "inception_v3" else {}
    with forked(0):
        model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
        if name.startswith("vgg"):  # without the 100 million weights behind the convolutions
            model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, CLASSES)
        model = randomised(model)
    linear = name in ("convnext_tiny", "swin_t")
    agree(model, noise(3, 3, side, side), linear=linear, rtol=1e-8)
