"""DeepLIFT against closed forms, matrices of multipliers, Captum where it is right, and its own completeness."""

import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from salcore.attribution import METHODS
from salcore.attribution.baseline import as_baseline
from salcore.attribution.linear import non_linear
from salcore.models import build
from salcore.seeds import forked
from salcore.spec import ModelSpec
from tests.oracles import deeplift_by_matrices

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum.attr import DeepLift

CHANNELS, CLASSES = 3, 5
deeplift = METHODS["deeplift"]


class Around(nn.Module):
    """A convolution, then what a test does with its output, then a linear layer. `parts` are the test's own modules."""

    def __init__(self, middle, side=8, **parts):
        super().__init__()
        with forked(3):
            self.conv = nn.Conv2d(CHANNELS, 6, 3, padding=1)
            self.again = nn.Conv2d(6, 6, 3, padding=1)
            self.parts = nn.ModuleDict(parts)
            self.middle = middle
            for part in self.parts.values():
                for parameter in part.parameters():
                    nn.init.normal_(parameter)
            width = self.body(torch.randn(2, CHANNELS, side, side)).shape[1]
            self.head = nn.Linear(width, CLASSES)

    def body(self, x):
        return self.middle(self, self.conv(x)).flatten(1)

    def forward(self, x):
        return self.head(self.body(x))


def images(count=3, side=8, dtype=torch.float64):
    inputs = torch.randn(count, CHANNELS, side, side, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return inputs.to(dtype), torch.arange(count) % CLASSES


def share_missed(model, inputs, targets, maps, baseline):
    """What the maps' sums leave of f(x) - f(b), as a share of it or of 1 % of their magnitudes where that is more.

    The change is that of the network in float64: in float32 a difference of near logits is itself mostly rounding.
    """
    exact, inputs, maps = deepcopy(model).double().eval(), inputs.double(), maps.double().flatten(1)
    with torch.no_grad():
        change = (exact(inputs) - exact(as_baseline(baseline, inputs).double())).gather(1, targets[:, None])[:, 0]
    return ((maps.sum(1) - change).abs() / torch.maximum(change.abs(), 0.01 * maps.abs().sum(1))).max().item()


FUNCTIONS = [
    *("relu", "leaky_relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "sigmoid", "tanh", "softplus", "gelu"),
    *("silu", "mish", "elu", "selu", "celu", "softsign", "logsigmoid", "tanhshrink", "hardshrink", "softshrink"),
]
NETWORKS = {
    **{name: lambda m, h, name=name: getattr(functional, name)(h) for name in FUNCTIONS},
    "a method": lambda m, h: h.relu(),
    "of torch, by keyword": lambda m, h: torch.clamp(input=h, min=0.1),
    "gelu by tanh": lambda m, h: functional.gelu(h, approximate="tanh"),
    "in place": lambda m, h: functional.relu(h, inplace=True),
    "in place by position": lambda m, h: functional.relu(h, True),
    "in place, seen by another name": lambda m, h: (g := h + 0).relu_() + g,
    "in place on a slice": lambda m, h: torch.cat([h[:, :3].relu_(), h], 1),
    "modules used again": lambda m, h: m.again(functional.relu(m.again(functional.relu(h)))).relu(),
    "max-pooling after an activation": lambda m, h: functional.max_pool2d(functional.relu(h), 2),
    "max-pooling before an activation": lambda m, h: functional.relu(functional.max_pool2d(h, 2)),
    "overlapping max-pooling": lambda m, h: functional.max_pool2d(functional.softplus(h), 3, 2, 1),
    "max-pooling to the ceiling": lambda m, h: functional.max_pool2d(h, 3, 2, ceil_mode=True),
    "adaptive max-pooling": lambda m, h: functional.adaptive_max_pool2d(h, 3),
    "global maximum": lambda m, h: h.amax((2, 3)),
    "maximum of an axis, kept": lambda m, h: h.amax(-1, keepdim=True),
    "average pooling": lambda m, h: functional.avg_pool2d(functional.gelu(h), 3, 2, 1),
    "residual addition": lambda m, h: functional.relu(m.again(functional.gelu(h)) + h),
    "residual addition in place": lambda m, h: functional.relu(m.again(h.sigmoid()).add_(h)),
    "dense connection": lambda m, h: torch.cat([h, m.again(h.tanh()).relu()], 1).sigmoid(),
    "squeeze and excitation": lambda m, h: h * h.mean((2, 3), keepdim=True).sigmoid(),
    "a product in place": lambda m, h: (h + 0).mul_(h.mean(1, keepdim=True).sigmoid()),
    "a square": lambda m, h: h * h + h**2,
    "a quotient": lambda m, h: h / (1 + h.abs()) + 2 / (3 + h.sigmoid()),
    "a matrix product": lambda m, h: h @ h.mT,
    "a gate": lambda m, h: (halves := h.chunk(2, 1))[0] * halves[1].sigmoid(),
    "batch folded into another axis": lambda m, h: (
        h.unflatten(2, (2, 4)).permute(0, 2, 1, 3, 4).flatten(0, 1).relu().unflatten(0, (-1, 2))
    ),
    "batch on another axis": lambda m, h: functional.gelu(h.permute(2, 3, 0, 1)).permute(2, 3, 0, 1),
    "one pixel, squeezed": lambda m, h: functional.adaptive_avg_pool2d(h.relu(), 1).squeeze(),
    "sample by sample": lambda m, h: torch.stack([functional.relu(each) for each in h]),
    "max-pooling of flat features": lambda m, h: functional.max_pool1d(h.flatten(1), 2),
    "max-pooling over channels": lambda m, h: functional.max_pool3d(h, (2, 1, 1)),
    "max-pooling of one map": lambda m, h: functional.max_pool2d(h.mean(1), 2),
    "dilated max-pooling": lambda m, h: functional.max_pool2d(h, 3, 1, 1, dilation=2),
    "the larger and the smaller": lambda m, h: torch.maximum(h, -0.5 * h) + torch.minimum(h, h.flip(3)),
    "global minimum": lambda m, h: h.amin((2, 3)),
    "a gated linear unit": lambda m, h: functional.glu(h, 1),
    "clipped by a tensor in place": lambda m, h: (h + 0).clamp_(min=torch.zeros(6, 1, 1, dtype=h.dtype)).clip(max=0.4),
    "powers of two": lambda m, h: 2**h,
    "division without rounding": lambda m, h: torch.div(h, 1 + h.abs(), rounding_mode=None),
    "norms by keyword": lambda m, h: (
        torch.layer_norm(h, normalized_shape=[8]) + torch.group_norm(input=h, num_groups=2)
    ),
    "instance norm of torch": lambda m, h: torch.instance_norm(
        h, torch.arange(6).to(h), None, None, None, True, 0.1, 1e-5, False
    ),
    "enlarged": lambda m, h: functional.interpolate(h.relu(), scale_factor=2, mode="bilinear"),
    "reciprocal, root and logarithm": lambda m, h: (1 + h.exp()).reciprocal() + (1 + h * h).sqrt().log(),
}
PARTS = {
    "batch normalisation": lambda: nn.BatchNorm2d(6),
    "layer normalisation": lambda: nn.LayerNorm(8),
    "group normalisation": lambda: nn.GroupNorm(2, 6),
    "instance normalisation": lambda: nn.InstanceNorm2d(6, affine=True),
    "instance normalisation of the training": lambda: nn.InstanceNorm2d(6, track_running_stats=True),
    "a slope per channel": lambda: nn.PReLU(6),
}


def network(name):
    if name in NETWORKS:
        return Around(NETWORKS[name])
    return Around(lambda m, h: m.parts["part"](h).relu(), part=PARTS[name]())


@pytest.mark.parametrize("name", [*NETWORKS, *PARTS])
@pytest.mark.parametrize("baseline", [None, "uniform"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_maps_account_for_the_whole_change_of_the_logit(name, baseline, dtype, limit):
    model, (inputs, targets) = network(name).to(dtype), images(dtype=dtype)
    maps = deeplift(model, inputs, targets, baseline=baseline)
    assert maps.dtype == dtype
    assert share_missed(model, inputs, targets, maps, baseline) < limit


STOCK = {
    **dict.fromkeys(("resnet18", "vgg19", "densenet121"), 32),
    **dict.fromkeys(
        ("resnet50", "squeezenet1_1", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "shufflenet_v2_x0_5"),
        64,
    ),
}


@pytest.mark.parametrize(("name", "side"), STOCK.items(), ids=list(STOCK))
def test_stock_networks_of_torchvision(name, side):
    with forked(1):
        model = build(ModelSpec(name=name), input_shape=(3, side, side), classes=CLASSES)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            model.train()(torch.randn(16, 3, side, side))  # norms with statistics, as a trained network has
    for baseline in (None, "uniform"):
        inputs, targets = images(2, side, torch.float32)
        maps = deeplift(model, inputs, targets, baseline=baseline)
        assert maps.abs().max() > 0
        assert share_missed(model, inputs, targets, maps, baseline) < 1e-4
    inputs = inputs.double()
    maps = deeplift(model.double(), inputs, targets, baseline="uniform")
    assert share_missed(model, inputs, targets, maps, "uniform") < 1e-9


def test_softplus_vgg_of_the_noise_paper():
    """Its ReLUs are replaced by softplus."""
    with forked(1):
        model = build(ModelSpec(name="vgg19"), input_shape=(3, 32, 32), classes=CLASSES)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    inputs, targets = images(2, 32, torch.float32)
    maps = deeplift(model, inputs, targets)
    assert share_missed(model, inputs, targets, maps, None) < 1e-4


def test_one_neuron_by_hand():
    """f(x) = softplus(w x): each pixel's share of the change is its share of w x - w b."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False), nn.Softplus()).double()
    x, start = torch.tensor([[[[1.0, -2.0, 0.5, 3.0]]]]).double(), torch.tensor([[[[0.0, 1.0, 0.5, -1.0]]]]).double()
    weight = model[1].weight.detach()
    before, after = (weight * start.flatten()).sum(), (weight * x.flatten()).sum()
    share = (functional.softplus(after) - functional.softplus(before)) / (after - before)
    expected = share * weight.view_as(x) * (x - start)
    torch.testing.assert_close(deeplift(model, x, torch.zeros(1).long(), baseline=start), expected)


def test_a_saturated_unit_gets_its_share_where_the_gradient_gives_none():
    """f = 1 - relu(1 - x1 - x2) at (1, 1): flat there, but the change from 0 is 1 and either input's share is half."""

    class Saturated(nn.Module):
        def forward(self, x):
            return (1 - functional.relu(1 - x.flatten(1).sum(1)))[:, None]

    x, target = torch.ones(1, 1, 1, 2, dtype=torch.float64), torch.zeros(1).long()
    assert torch.equal(METHODS["gradient"](Saturated(), x, target), torch.zeros_like(x))
    torch.testing.assert_close(deeplift(Saturated(), x, target), torch.full_like(x, 0.5))


def test_a_product_is_shared_out_by_its_shapley_values():
    class Product(nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            return (x[:, 0] * x[:, 1])[:, None]

    x, start = torch.tensor([[[[3.0, 5.0]]]]).double(), torch.tensor([[[[1.0, 2.0]]]]).double()
    maps = deeplift(Product(), x, torch.zeros(1).long(), baseline=start)
    first, second = ((3 - 1) * 2 + (3 - 1) * 5) / 2, ((5 - 2) * 1 + (5 - 2) * 3) / 2
    torch.testing.assert_close(maps.flatten(), torch.tensor([first, second]).double())


def test_multipliers_are_those_of_dense_matrices():
    """A convolution, softplus, overlapping max-pooling, a residual block and a read-out, one sample at a time."""
    with forked(0):
        first, second, head = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(27, CLASSES)
    for module in (first, second, head):
        module.double()
    inputs = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    class Network(nn.Module):
        def forward(self, x):
            h = functional.max_pool2d(functional.softplus(first(x)), 3, 2, 1)
            return head((h + functional.relu(second(h))).flatten(1))

    windows = [
        [
            channel * 36 + row * 6 + column
            for row in range(2 * up - 1, 2 * up + 2)
            for column in range(2 * left - 1, 2 * left + 2)
            if 0 <= row < 6 and 0 <= column < 6
        ]
        for channel in range(3)
        for up in range(3)
        for left in range(3)
    ]
    maps = deeplift(Network(), inputs, torch.arange(4), baseline=start)
    for sample in range(4):
        steps = [
            ("linear", lambda x: first(x[None])[0]),
            ("elementwise", functional.softplus),
            ("max", windows),
            (
                "residual",
                [("linear", lambda x: second(x.view(1, 3, 3, 3)).flatten()), ("elementwise", functional.relu)],
            ),
            ("linear", lambda x, sample=sample: head(x)[sample : sample + 1]),
        ]
        expected = deeplift_by_matrices(steps, inputs[sample], start)
        torch.testing.assert_close(maps[sample], expected.detach(), rtol=1e-9, atol=1e-12)


def captum(model, inputs, targets, start):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the hooks that it sets
        return DeepLift(model, eps=1e-30).attribute(inputs.clone(), start, target=targets).detach()


def plain(activation, pooling=False):
    """Captum's own ground: a module for each activation, none used twice, pooling away from activations."""
    with forked(5):
        layers = [nn.Conv2d(CHANNELS, 6, 3), activation(), nn.Conv2d(6, 6, 3), *([nn.MaxPool2d(2)] if pooling else [])]
        side = 2 if pooling else 4
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * side * side, CLASSES)).double()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LeakyReLU, nn.ELU])
@pytest.mark.parametrize("pooling", [False, True])
def test_captum_agrees_where_it_is_right(activation, pooling):
    model, (inputs, targets) = plain(activation, pooling), images()
    start = as_baseline("uniform", inputs)
    expected = captum(model, inputs, targets, start)
    torch.testing.assert_close(deeplift(model, inputs, targets, baseline=start), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["relu", "gelu", "max-pooling after an activation"])
def test_captum_is_silently_wrong_on_functional_activations_and_ours_is_not(name):
    model, (inputs, targets) = Around(NETWORKS[name]).double(), images()
    start = as_baseline("uniform", inputs)
    wrong = captum(model, inputs, targets, start)
    assert share_missed(model, inputs, targets, wrong, start) > 0.05
    assert share_missed(model, inputs, targets, deeplift(model, inputs, targets, baseline=start), start) < 1e-12


def test_captum_refuses_a_module_that_is_used_again_and_ours_does_not():
    model, (inputs, targets) = (
        Around(lambda m, h: m.parts["part"](m.again(m.parts["part"](h))), part=nn.ReLU()).double(),
        images(),
    )
    with pytest.raises((RuntimeError, AssertionError)):
        captum(model, inputs, targets, torch.zeros_like(inputs))
    assert share_missed(model, inputs, targets, deeplift(model, inputs, targets), None) < 1e-12


class Secret(torch.autograd.Function):
    """A ReLU that says it is the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


REFUSED = {
    "softmax": (lambda m, h: h.softmax(1), "no rule for softmax"),
    "attention": (
        lambda m, h: functional.scaled_dot_product_attention(*[h.flatten(2)] * 3),
        "no rule for attention",
    ),
    "where": (lambda m, h: torch.where(h > 0, h, 0), "no rule for where"),
    "maximum of an axis": (lambda m, h: h.max(1)[0], "no rule for max"),
    "fewer calls on the input": (lambda m, h: h if h.std() > 0.3 else h.relu(), "calls nothing on the input"),
    "log-sum-exp": (lambda m, h: h.logsumexp(1), "no rule for logsumexp"),
    "a norm": (lambda m, h: functional.normalize(h), "no rule for"),
    "einsum of two": (lambda m, h: torch.einsum("nchw,nchw->nc", h, h), "no rule for bmm"),
    "a custom function": (lambda m, h: Secret.apply(h), "no rule for secret"),
    "pooling with indices": (
        lambda m, h: functional.max_pool2d(h, 2, return_indices=True)[0],
        "no rule for max_pool2_d_with_indices",
    ),
    "rounding": (lambda m, h: torch.div(h, 1 + h.abs(), rounding_mode="floor"), "division with rounding"),
    "maximum over samples": (lambda m, h: h.amax(0).expand_as(h), "amax over samples"),
    "a mask": (lambda m, h: h * (h > 0), "hides an operation"),
    "a detached branch": (lambda m, h: h + 2 * h.detach().relu(), "hides an operation"),
    "a small detached branch": (lambda m, h: h + 0.001 * h.detach().abs(), "hides an operation"),
    "in place on a part": (lambda m, h: (h + 0)[:, 0, :2].atan2_(torch.ones(2, 8).to(h)), "hides an operation|no rule"),
    "a lower precision inside": (lambda m, h: h.to(torch.bfloat16).to(h.dtype), "lower precision"),
    "a base that is constant": (lambda m, h: torch.pow(2.0, h), "no rule for pow"),
    "another path": (lambda m, h: h.relu() if h.std() > 0.3 else h, "calls relu on the input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_named_and_something_that_works_is_said(name):
    middle, words = REFUSED[name]
    model = Around(middle).double()
    with pytest.raises(ValueError, match=f"`model`.*{words}.*integrated_gradients") as error:
        deeplift(model, *images())
    assert "\n" not in str(error.value)


def test_normalisation_by_the_batch_is_refused():
    model = Around(lambda m, h: functional.batch_norm(h, None, None, training=True)).double()
    with pytest.raises(ValueError, match="no rule for native_batch_norm"):
        deeplift(model, *images())


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_transformers_are_refused_by_the_name_of_their_attention(name):
    model = build(ModelSpec(name=name), input_shape=(3, 32, 32), classes=CLASSES)
    with pytest.raises(ValueError, match=r"no rule for .*(softmax|attention).*integrated_gradients"):
        deeplift(model, *images(1, 32, torch.float32))


def test_a_network_that_is_linear_is_the_gradient_times_the_difference():
    model, (inputs, targets) = Around(lambda m, h: functional.avg_pool2d(m.again(h), 2)).double(), images()
    expected = METHODS["gradient"](model, inputs, targets) * (inputs - 0.3)
    torch.testing.assert_close(deeplift(model, inputs, targets, baseline=0.3), expected)


def test_where_input_and_baseline_are_equal_the_multiplier_is_the_slope():
    """Units that do not change still pass the changes of others on: their quotient is 0 / 0."""
    model, (inputs, targets) = Around(NETWORKS["gelu"]).double(), images()
    near = inputs + 1e-12 * torch.ones_like(inputs)
    multiplier = deeplift(model, near, targets, baseline=inputs) / (near - inputs)
    torch.testing.assert_close(multiplier, METHODS["gradient"](model, inputs, targets), rtol=1e-3, atol=1e-6)
    assert torch.equal(deeplift(model, inputs, targets, baseline=inputs), torch.zeros_like(inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_explained_in_float32_and_a_mask_is_refused_there_too(dtype):
    inputs, targets = images(dtype=dtype)
    maps = deeplift(Around(NETWORKS["gelu"]).to(dtype), inputs, targets)
    exact = deeplift(Around(NETWORKS["gelu"]).to(dtype).float(), inputs.float(), targets)
    assert maps.dtype == dtype
    assert torch.equal(maps, exact.to(dtype))
    with pytest.raises(ValueError, match="hides an operation"):
        deeplift(Around(REFUSED["a mask"][0]).to(dtype), inputs, targets)


class Stubborn(nn.Module):
    """A flat network that insists on float32, so that no float64 copy of it can tell rounding from a fault."""

    def __init__(self, masked):
        super().__init__()
        self.masked = masked
        with forked(0):
            self.body, self.head = nn.Linear(192, 64), nn.Linear(64, CLASSES)
        with torch.no_grad():
            self.body.weight *= 1e-5
            self.head.bias += 100

    def forward(self, x):
        h = functional.linear(x.float().flatten(1), self.body.weight.float(), self.body.bias.float())
        h = 1e3 * h * (h > 0) if self.masked else functional.softplus(h)
        return functional.linear(h, self.head.weight.float(), self.head.bias.float())


def test_a_network_that_insists_on_float32_keeps_its_maps_where_rounding_explains_what_they_miss():
    inputs, targets = images(dtype=torch.float32)
    assert deeplift(Stubborn(masked=False), inputs, targets).isfinite().all()


def test_one_baseline_for_all_costs_one_row_and_gives_what_many_give():
    rows = []
    model, (inputs, targets) = Around(lambda m, h: rows.append(len(h)) or functional.gelu(h)).double(), images()
    rows.clear()
    shared = deeplift(model, inputs, targets)
    assert rows == [1, 3]
    torch.testing.assert_close(deeplift(model, inputs, targets, baseline=torch.zeros_like(inputs)), shared)


def test_a_network_too_flat_for_float32_is_explained_in_float64():
    """Its logit changes by less than float32 resolves; the maps still account for the true change."""
    with forked(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Softplus(), nn.Linear(64, CLASSES))
        with torch.no_grad():
            model[1].weight *= 1e-7
            model[3].bias += 100
    inputs, targets = images(dtype=torch.float32)
    maps = deeplift(model, inputs, targets)
    exact = deeplift(model.double(), inputs.double(), targets)
    torch.testing.assert_close(maps.double(), exact, rtol=1e-4, atol=0)


def test_every_operation_of_a_graph_is_looked_at():
    x = torch.ones(2, 3, requires_grad=True)
    weight = torch.ones(3, 3)
    assert non_linear((x @ weight + 1).view(6)[1:].sum() / 3, x) is None
    assert non_linear((x @ weight.requires_grad_().exp()).sum(), x) is None
    assert non_linear((x * x).sum(), x) == "mul"
    assert non_linear((1 / (x + 1)).sum(), x) == "reciprocal"
    assert non_linear(x.exp().cumsum(0).sum(), x) == "exp"
    assert non_linear(x.exp().sum(), x, frozenset({"ExpBackward0"})) is None
