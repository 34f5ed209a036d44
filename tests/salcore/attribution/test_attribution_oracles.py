"""Methods against closed forms, slow re-derivations and Captum, in float64."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from salcore.attribution import COMPLETE, METHODS, non_negative, residual
from salcore.attribution.completeness import residual_over_set
from salcore.attribution.gradcam import top_layer
from salcore.attribution.integrated_gradients import quadrature
from salcore.models import build
from salcore.seeds import forked, generator
from salcore.spec import ModelSpec
from tests.oracles import gradcam_small, integrated_by_riemann

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum.attr import InputXGradient, IntegratedGradients, LayerAttribution, LayerGradCam, Saliency


def network(name="small_cnn", shape=(2, 8, 8), **settings):
    with forked(0):
        model = build(ModelSpec(name=name, **settings), input_shape=shape, classes=5)
    return model.double().eval()


def images(shape=(2, 8, 8), count=4):
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return inputs, torch.arange(count) % 5


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


class Quadratic(nn.Module):
    """f_k(x) = x^T A_k x over flattened pixels: gradient (A_k + A_k^T) x."""

    def __init__(self, pixels, classes=3):
        super().__init__()
        self.forms = nn.Parameter(torch.randn(classes, pixels, pixels, generator=generator(5), dtype=torch.float64))

    def forward(self, x):
        x = x.flatten(1)
        return torch.einsum("ni,kij,nj->nk", x, self.forms, x)

    def gradient(self, x, targets):
        forms = self.forms.detach()[targets]
        return torch.einsum("nij,nj->ni", forms + forms.mT, x.flatten(1)).view_as(x)


class Linear(nn.Module):
    """f(x) = W x + b."""

    def __init__(self, pixels, classes=5):
        super().__init__()
        with forked(2):
            self.layer = nn.Linear(pixels, classes, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5, 6, 7, 32])
@pytest.mark.parametrize("baseline", [None, 0.7, torch.linspace(-1, 1, 8, dtype=torch.float64)])
def test_integrated_gradients_are_exact_on_a_linear_model_for_every_number_of_steps(rule, num_steps, baseline):
    model, (inputs, targets) = Linear(128), images()
    start = torch.zeros_like(inputs) + (0 if baseline is None else baseline)
    expected = model.layer.weight.detach()[targets].view_as(inputs) * (inputs - start)
    settings = {"baseline": baseline, "num_steps": num_steps}
    maps = METHODS["integrated_gradients"](model, inputs, targets, rule=rule, **settings)
    close(maps, expected, 1e-13)
    assert residual(model, inputs, targets, maps, baseline=baseline).abs().max() < 1e-12


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint"])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 50])
def test_quadrature_weights_sum_to_one_inside_the_interval(rule, num_steps):
    places, weights = quadrature(rule, num_steps)
    assert sum(weights) == pytest.approx(1, abs=1e-15)
    assert all(0 < place < 1 for place in places)
    assert np.allclose(np.add(places, places[::-1]), 1)


def test_gauss_legendre_integrates_polynomials_to_twice_its_order():
    for steps in (1, 2, 3, 6):
        places, weights = map(np.array, quadrature("gauss_legendre", steps))
        for degree in range(2 * steps):
            assert weights @ places**degree == pytest.approx(1 / (degree + 1), abs=1e-14)
        assert weights @ places ** (2 * steps) != pytest.approx(1 / (2 * steps + 1), abs=1e-9)


@pytest.mark.parametrize(("argument", "value"), [("num_steps", 0), ("rule", "trapezoid"), ("baseline", torch.zeros(3))])
def test_integrated_gradients_name_a_wrong_argument(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        METHODS["integrated_gradients"](Linear(128), *images(), **{argument: value})


def test_integrated_gradients_agree_with_a_fine_sum_along_the_path():
    model, (inputs, targets) = nn.Sequential(Linear(128), nn.Softplus(), nn.Linear(5, 5).double()), images()
    start = torch.full_like(inputs, 0.3)
    expected = integrated_by_riemann(lambda x: METHODS["gradient"](model, x, targets), start, inputs, 500)
    close(METHODS["integrated_gradients"](model, inputs, targets, baseline=0.3), expected, 1e-6)


@pytest.mark.parametrize("name", sorted(COMPLETE))
def test_what_promises_completeness_keeps_it(name):
    model, (inputs, targets) = nn.Sequential(Linear(128), nn.Softplus(), nn.Linear(5, 5).double()), images()
    settings = {"num_samples": 4096} if name == "gradient_shap" else {}
    maps = METHODS[name](model, inputs, targets, **settings)
    assert COMPLETE[name](model, inputs, targets, maps).abs().max() < (0.05 if name == "gradient_shap" else 1e-10)
    wrong = COMPLETE[name](model, inputs, (targets + 1) % 5, maps)
    assert wrong.shape == (4,)
    assert wrong.abs().min() > 1e-3


def test_the_residual_is_of_the_difference_to_the_baseline_and_keeps_its_sign():
    model, (inputs, targets) = network(), images()
    logits = (
        model(inputs).detach()[torch.arange(4), targets]
        - model(torch.ones_like(inputs)).detach()[torch.arange(4), targets]
    )
    close(residual(model, inputs, targets, torch.zeros_like(inputs), baseline=1.0), -logits)


def test_smoothgrad_converges_to_the_closed_form_on_a_quadratic():
    """The gradient is linear in x, so the error is (A + A^T) s mean(e): its mean square falls as 1 / n, and exactly
    as s^2 ||A + A^T||_F^2 / n.
    """
    shape = (1, 5, 5)
    model, (inputs, targets) = Quadratic(25), images(shape, 3)
    inputs = inputs * torch.tensor([1.0, 3.0, 0.1])[:, None, None, None]
    exact = model.gradient(inputs, targets)
    scale = 0.15 * (inputs.flatten(1).amax(1) - inputs.flatten(1).amin(1))
    forms = model.forms.detach()[targets]
    seeds = 30
    for draws in (1, 4, 16):
        error = torch.zeros(3, dtype=torch.float64)
        for seed in range(seeds):
            maps = METHODS["smoothgrad"](model, inputs, targets, num_samples=draws, seed=seed)
            error += (maps - exact).square().flatten(1).sum(1) / seeds
        expected = scale**2 * (forms + forms.mT).square().sum((1, 2)) / draws
        assert ((error / expected).log().abs() < 0.35).all(), (draws, error / expected)


def test_smoothgrad_without_noise_is_the_inner_method():
    model, (inputs, targets) = network(), images()
    for inner in ("gradient", "input_x_gradient", "gradcam", "integrated_gradients"):
        maps = METHODS["smoothgrad"](model, inputs, targets, of=inner, noise_level=0.0, num_samples=3)
        close(maps, METHODS[inner](model, inputs, targets))


def test_smoothgrad_is_the_plain_mean_over_its_draws():
    model, (inputs, targets) = network(), images()
    scale = 0.2 * (inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3)))[:, None, None, None]
    expected = torch.zeros_like(inputs)
    for draw in range(6):
        field = torch.randn(2, 8, 8, generator=generator(9, draw)).double()
        for sample in range(4):
            one = slice(sample, sample + 1)
            noisy = inputs[one] + scale[one] * field
            expected[one] += METHODS["integrated_gradients"](model, noisy, targets[one], num_steps=3) / 6
    settings = {"of": "integrated_gradients", "num_steps": 3, "num_samples": 6, "noise_level": 0.2, "seed": 9}
    close(METHODS["smoothgrad"](model, inputs, targets, **settings), expected)


def test_smoothgrad_takes_a_callable_and_more_draws_add_to_fewer():
    model, (inputs, targets) = network(), images()
    seen = []

    def inner(model, noisy, targets, *, factor):
        seen.append(noisy.clone())
        return factor * noisy

    maps = METHODS["smoothgrad"](model, inputs, targets, of=inner, factor=3.0, num_samples=4)
    close(maps, 3 * torch.stack(seen).mean(0))
    fewer, seen[:] = list(seen), []
    METHODS["smoothgrad"](model, inputs, targets, of=inner, factor=3.0, num_samples=6)
    assert all(torch.equal(one, other) for one, other in zip(fewer, seen[:4], strict=True))
    assert not torch.equal(seen[0], seen[1])


def test_all_members_see_the_same_draws_and_another_seed_others():
    seen = []

    def inner(model, noisy, targets):
        seen.append(noisy)
        return noisy

    inputs, targets = images()
    for model, seed in ((network(), 0), (network(width=3), 0), (network(), 1)):
        METHODS["smoothgrad"](model, inputs, targets, of=inner, num_samples=1, seed=seed)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(("argument", "value"), [("num_samples", 0), ("noise_level", -1.0)])
def test_smoothgrad_names_a_wrong_argument(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        METHODS["smoothgrad"](network(), *images(), **{argument: value})


@pytest.mark.parametrize("pooling", ["max", "average", "none"])
def test_captum_agrees_on_the_gradient_family(pooling):
    model, (inputs, targets) = network(pooling=pooling, depth=3, norm="batch"), images()
    pairs = {
        "gradient": Saliency(model).attribute(inputs.clone().requires_grad_(), target=targets, abs=False),
        "input_x_gradient": InputXGradient(model).attribute(inputs.clone().requires_grad_(), target=targets),
        "integrated_gradients": IntegratedGradients(model).attribute(inputs, target=targets, n_steps=32),
    }
    for name, expected in pairs.items():
        close(METHODS[name](model, inputs, targets), expected.detach(), 1e-9)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("name", "shape", "settings", "layer"),
    [
        ("small_cnn", (2, 9, 12), {"depth": 3, "norm": "batch"}, "features.relu3"),
        ("small_cnn", (2, 8, 8), {}, "features.conv1"),
        ("resnet18", (3, 64, 64), {}, "layer4"),
        ("resnet18", (3, 64, 64), {}, "layer2.0.conv1"),
        ("resnet18", (3, 64, 64), {}, "bn1"),
        ("squeezenet1_1", (3, 64, 64), {}, "features.12.expand3x3"),
    ],
)
def test_captum_agrees_on_gradcam(name, shape, settings, layer, relu):
    model, (inputs, targets) = network(name, shape, **settings), images(shape, 3)
    module = dict(model.named_modules())[layer]
    for other in model.modules():
        if isinstance(other, nn.ReLU):
            other.inplace = False  # Captum's hook keeps the tensor that the ReLU would overwrite
    small = LayerGradCam(model, module).attribute(inputs, target=targets, relu_attributions=relu)
    expected = LayerAttribution.interpolate(small, shape[1:], interpolate_mode="bilinear").detach()
    for other in model.modules():
        if isinstance(other, nn.ReLU):
            other.inplace = True
    close(METHODS["gradcam"](model, inputs, targets, layer=layer, relu=relu), expected, 1e-10)
    assert expected.abs().max() > 0


def test_gradcam_by_hand_on_a_layer_of_the_inputs_size():
    model, (inputs, targets) = network(pooling="none", depth=1), images()
    activation = model.features(inputs)
    selected = model.classifier(activation).gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(selected, activation)
    maps = METHODS["gradcam"](model, inputs, targets)
    for sample in range(4):
        expected = gradcam_small(activation[sample].detach().numpy(), gradient[sample].numpy())
        np.testing.assert_allclose(maps[sample, 0].numpy(), expected, atol=1e-12)


TOP = [
    ("small_cnn", (1, 28, 28), {}, "features"),
    ("small_cnn", (1, 8, 8), {"activation": False, "pooling": "none"}, "features"),
    ("mnist_cnn", (1, 28, 28), {}, "relu2"),
    ("resnet18", (3, 64, 64), {}, "layer4"),
    ("vgg19", (3, 32, 32), {}, "features.35"),
    ("vgg11", (3, 112, 112), {}, "features.19"),
    ("alexnet", (3, 64, 64), {}, "features.11"),
    ("densenet121", (3, 64, 64), {}, "features"),
    ("googlenet", (3, 64, 64), {}, "inception5b"),
    ("mobilenet_v3_small", (3, 64, 64), {}, "features"),
]


@pytest.mark.parametrize(("name", "shape", "settings", "expected"), TOP, ids=[f"{top[0]}-{top[1][1]}" for top in TOP])
def test_the_top_layer_is_found(name, shape, settings, expected):
    with torch.device("meta"):
        model = build(ModelSpec(name=name, **settings), input_shape=shape, classes=5).eval()
        assert top_layer(model, torch.zeros(2, *shape)) == expected


def test_a_layer_of_one_pixel_has_no_map_and_those_that_have_are_named():
    model, (inputs, targets) = network("resnet18", (3, 32, 32)), images((3, 32, 32), 2)
    for layer in (None, "layer4", "layer4.1.bn2"):
        with pytest.raises(ValueError, match=r"`layer`.*layer3 \(2 x 2\), layer2 \(4 x 4\), layer1 \(8 x 8\).*1 x 1"):
            METHODS["gradcam"](model, inputs, targets, layer=layer)
    assert METHODS["gradcam"](model, inputs, targets, layer="layer3").shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("features.relu3", "nearest: .*features.relu2"),
        ("", "the name of a module"),
        ("classifier.linear", r"\(N, C, h, w\).*\(4, 5\)"),
    ],
)
def test_a_layer_that_cannot_be_explained_is_named(layer, words):
    model = network()
    with pytest.raises(ValueError, match=f"`layer`.*{words}"):
        METHODS["gradcam"](model, *images(), layer=layer)
    assert not any(module._forward_hooks for module in model.modules())


class Reused(nn.Module):
    """One convolution run twice and one never: h = conv(relu(conv(x))), and spare."""

    def __init__(self):
        super().__init__()
        with forked(4):
            self.conv, self.spare = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3)
            self.head = nn.Linear(2, 5)

    def forward(self, x):
        return self.head(self.conv(self.conv(x).relu_()).relu_().mean((2, 3)))


def test_of_a_module_that_is_run_twice_the_last_call_counts():
    model, (inputs, targets) = Reused().double(), images()
    activation = model.conv(model.conv(inputs).relu()).detach().requires_grad_()
    selected = model.head(activation.relu().mean((2, 3))).gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(selected, activation)
    expected = (gradient.mean((2, 3), keepdim=True) * activation.detach()).sum(1, keepdim=True)
    close(METHODS["gradcam"](model, inputs, targets, layer="conv"), expected)
    close(METHODS["gradcam"](model, inputs, targets), expected)


def test_a_layer_that_is_not_run_is_refused():
    with pytest.raises(ValueError, match="the model runs, got 'spare'"):
        METHODS["gradcam"](Reused().double(), *images(), layer="spare")


def test_a_model_without_convolutions_has_no_top_layer():
    with pytest.raises(ValueError, match="two-dimensional convolution"):
        METHODS["gradcam"](Linear(128), *images())


def test_gradcam_with_relu_is_never_negative_and_says_so():
    model, (inputs, targets) = network(), images(count=16)
    maps = METHODS["gradcam"](model, inputs, targets, relu=True)
    assert maps.min() >= 0
    assert maps.max() > 0
    assert non_negative("gradcam", {"relu": True})
    assert non_negative("smoothgrad", {"of": "gradcam", "relu": True})
    assert not non_negative("gradcam", {})


@pytest.mark.parametrize("number", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_the_residual_over_a_set_that_samples_share_is_that_of_each_alone(number, samples):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, targets = torch.randn(samples, 1, 3, 4).double(), torch.arange(samples) % 3
    baselines, maps = torch.randn(number, 1, 3, 4).double(), torch.randn(samples, 1, 3, 4).double()
    expected = [
        maps[n].sum() - (model(inputs[n : n + 1])[0, target] - model(baselines)[:, target].mean())
        for n, target in enumerate(targets.tolist())
    ]
    sizes = []
    model.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    found = residual_over_set(model, inputs, targets, maps, baselines=baselines)
    close(found, torch.stack(expected))
    assert sum(sizes) <= samples + max(2, number)
