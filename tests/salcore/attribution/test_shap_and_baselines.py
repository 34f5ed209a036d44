"""GradientSHAP, DeepSHAP and the baselines: closed forms, Captum with the same draws, and what draws may depend on."""

import warnings

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from salcore.attribution import COMPLETE, METHODS
from salcore.attribution.baseline import BLUR, as_baseline, as_baselines
from salcore.attribution.gradient_shap import _draw
from salcore.models import build
from salcore.seeds import forked, generator
from salcore.spec import ModelSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum.attr import DeepLiftShap, GradientShap, NoiseTunnel, Saliency


def images(count=4, shape=(3, 8, 8)):
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return inputs, torch.arange(count) % 5


def network(activation=nn.Softplus):
    with forked(0):
        layers = (nn.Conv2d(3, 4, 3), activation(), nn.Flatten(), nn.Linear(144, 5))
        return nn.Sequential(*layers).double()


def small_cnn():
    with forked(0):
        return build(ModelSpec(name="small_cnn"), input_shape=(3, 8, 8), classes=5).double().eval()


def random_set(count, seed=3):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic(nn.Module):
    """f(x) = (w . x)^2: its gradient at b + a (x - b) is 2 w (w . b + a w . (x - b))."""

    def __init__(self, pixels):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, pixels, dtype=torch.float64))

    def forward(self, x):
        return (x.flatten(1) @ self.weight).square()[:, None]


def test_gradient_shap_is_the_plain_mean_over_its_draws():
    inputs, model, starts = images(3)[0], Quadratic(192), random_set(4)
    expected = torch.zeros_like(inputs)
    weight = model.weight.detach().view(3, 8, 8)
    for draw in range(6):
        place, chosen, field = _draw(inputs, 4, 9, draw)
        for sample, image in enumerate(inputs):
            noisy = image + 0.1 * (image.max() - image.min()) * field
            path = noisy - starts[chosen]
            at = (weight * (starts[chosen] + place * path)).sum()
            expected[sample] += path * 2 * weight * at / 6
    settings = {"num_samples": 6, "noise_level": 0.1, "seed": 9, "baselines": starts}
    maps = METHODS["gradient_shap"](model, inputs, torch.zeros(3).long(), **settings)
    torch.testing.assert_close(maps, expected)


def test_gradient_shap_converges_to_integrated_gradients_averaged_over_the_set():
    model, (inputs, targets), starts = network(), images(), random_set(3)
    exact = sum(METHODS["integrated_gradients"](model, inputs, targets, baseline=start) for start in starts) / 3
    errors = []
    for draws in (8, 128, 2048):
        each = [
            METHODS["gradient_shap"](model, inputs, targets, baselines=starts, num_samples=draws, seed=seed)
            for seed in range(4 if draws < 2048 else 1)
        ]
        errors.append(sum((maps - exact).square().mean() for maps in each).item() / len(each))
    assert 4 < errors[0] / errors[1] < 64
    assert 4 < errors[1] / errors[2] < 64
    rest = COMPLETE["gradient_shap"](model, inputs, targets, exact, baselines=starts)
    assert rest.abs().max() < 1e-6


def test_captum_agrees_on_gradient_shap_given_its_draws(monkeypatch):
    """Captum draws with numpy and torch, a place per sample: it is made to draw ours, without noise."""
    model, (inputs, targets), start = network(), images(), random_set(1)
    place, _, _ = _draw(inputs, 1, 0, 0)
    monkeypatch.setattr("captum.attr._core.gradient_shap.np.random.uniform", lambda *_, **__: [place] * 4)
    expected = GradientShap(model).attribute(inputs, start, n_samples=1, stdevs=0.0, target=targets)
    maps = METHODS["gradient_shap"](model, inputs, targets, baselines=start, num_samples=1)
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-6, atol=1e-9)  # its places are float32


def test_captum_agrees_on_gradient_shap_with_our_noise_put_into_its_input(monkeypatch):
    model, (inputs, targets), start = network(), images(), random_set(1)
    place, _, field = _draw(inputs, 1, 0, 0)
    monkeypatch.setattr("captum.attr._core.gradient_shap.np.random.uniform", lambda *_, **__: [place] * 4)
    scale = 0.1 * (inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3)))[:, None, None, None]
    noisy = inputs + scale * field
    expected = GradientShap(model).attribute(noisy, start, n_samples=1, stdevs=0.0, target=targets)
    settings = {"baselines": start, "num_samples": 1, "noise_level": 0.1}
    maps = METHODS["gradient_shap"](model, inputs, targets, **settings)
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-6, atol=1e-9)


def test_captum_agrees_on_smoothgrad_with_our_noise(monkeypatch):
    model, (inputs, targets) = network(), images()
    scale = (0.15 * (inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3))))[:, None, None, None]
    fields = [torch.randn(3, 8, 8, generator=generator(0, draw)).double() for draw in range(3)]
    noise = torch.stack([scale * field for field in fields], 1).flatten(0, 1)  # Captum repeats each image in turn
    monkeypatch.setattr("captum.attr._core.noise_tunnel.torch.normal", lambda mean, std: noise)
    tunnel = NoiseTunnel(Saliency(model))
    expected = tunnel.attribute(inputs, nt_samples=3, stdevs=1.0, target=targets, abs=False).detach()
    torch.testing.assert_close(METHODS["smoothgrad"](model, inputs, targets, num_samples=3), expected)


def test_captum_agrees_on_deepshap():
    model, (inputs, targets), starts = network(nn.ReLU), images(), random_set(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the hooks that it sets
        expected = DeepLiftShap(model).attribute(inputs, starts, target=targets).detach()
    maps = METHODS["deepshap"](model, inputs, targets, baselines=starts)
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-9)


def test_deepshap_is_the_mean_of_maps_and_not_of_multipliers():
    model, (inputs, targets), starts = small_cnn(), images(), random_set(3)
    each = [METHODS["deeplift"](model, inputs, targets, baseline=start) for start in starts]
    maps = METHODS["deepshap"](model, inputs, targets, baselines=starts)
    torch.testing.assert_close(maps, sum(each) / 3)
    multipliers = sum(values / (inputs - start) for values, start in zip(each, starts, strict=True)) / 3
    assert not torch.allclose(maps, multipliers * (inputs - starts.mean(0)), rtol=1e-2)


@pytest.mark.parametrize("baselines", ["uniform", "zero", "mean", "blurred"])
def test_deepshap_is_complete_for_every_set(baselines):
    model, (inputs, targets) = small_cnn(), images()
    settings = {"baselines": baselines, "num_baselines": 3, "seed": 4}
    maps = METHODS["deepshap"](model, inputs, targets, **settings)
    assert COMPLETE["deepshap"](model, inputs, targets, maps, **settings).abs().max() < 1e-12
    assert COMPLETE["deepshap"](model, inputs, targets, maps, **settings | {"seed": 5}).abs().max() > 1e-6 or (
        baselines != "uniform"
    )


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
@pytest.mark.parametrize("baseline", [0.4, "zero", "mean", "blurred", "uniform"])
def test_one_baseline_is_accounted_for(name, baseline):
    model, (inputs, targets) = small_cnn(), images()
    maps = METHODS[name](model, inputs, targets, baseline=baseline, seed=2)
    rest = COMPLETE[name](model, inputs, targets, maps, baseline=baseline, seed=2)
    assert rest.abs().max() < (1e-12 if name == "deeplift" else 0.05)


def test_the_mean_is_each_samples_own_by_channel():
    inputs, _ = images()
    start = as_baseline("mean", inputs)
    for sample in range(4):
        for channel in range(3):
            assert start[sample, channel].unique().numel() == 1
            assert start[sample, channel, 0, 0].item() == pytest.approx(inputs[sample, channel].mean().item())


def test_the_blur_is_gaussian_inside_and_keeps_a_constant_at_the_edge():
    inputs = torch.randn(2, 1, 64, 48, dtype=torch.float64)
    blurred = as_baseline("blurred", inputs)
    expected = gaussian_filter(inputs[0, 0].numpy(), BLUR * 64, mode="constant", truncate=20)
    weight = gaussian_filter(torch.ones(64, 48).double().numpy(), BLUR * 64, mode="constant", truncate=20)
    torch.testing.assert_close(blurred[0, 0], torch.from_numpy(expected / weight), rtol=1e-6, atol=1e-8)
    constant = torch.full((1, 2, 9, 7), 3.0, dtype=torch.float64)
    torch.testing.assert_close(as_baseline("blurred", constant), constant)
    with pytest.raises(ValueError, match="images"):
        as_baseline("blurred", torch.ones(2, 3))


def test_uniform_noise_fills_each_samples_range_and_is_one_field():
    inputs = images()[0] * torch.tensor([1.0, 3.0, 0.1, 10.0])[:, None, None, None]
    start = as_baseline("uniform", inputs, seed=3)
    flat, own = start.flatten(1), inputs.flatten(1)
    low, span = own.amin(1, keepdim=True), own.amax(1, keepdim=True) - own.amin(1, keepdim=True)
    share = (flat - low) / span
    assert share.min() >= 0
    assert share.max() <= 1
    assert share.max() - share.min() > 0.9
    torch.testing.assert_close(share[:1].expand(4, -1), share)
    assert torch.equal(as_baseline("uniform", inputs, seed=3), start)
    assert not torch.equal(as_baseline("uniform", inputs, seed=4), start)


def test_a_random_set_is_not_empty():
    with pytest.raises(ValueError, match="`num_baselines`"):
        METHODS["deepshap"](small_cnn(), *images(), num_baselines=0)


def test_a_set_has_the_number_asked_for():
    inputs, _ = images()
    assert len(as_baselines("uniform", inputs, number=5)) == 5
    assert len(as_baselines("zero", inputs, number=5)) == 1
    assert len(as_baselines(random_set(7), inputs, number=5)) == 7


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        (torch.zeros(0, 3, 8, 8), "1 or more"),
        (torch.zeros(2, 3, 8, 7), r"\(K, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"\(K, 3, 8, 8\)"),
        ("training", "in a spec"),
        ("noise", "one of training, zero, mean, blurred, uniform"),
    ],
)
@pytest.mark.parametrize("name", ["deepshap", "gradient_shap"])
def test_a_wrong_set_is_refused(name, baselines, words):
    with pytest.raises(ValueError, match=f"`baselines?`.*{words}"):
        METHODS[name](small_cnn(), *images(), baselines=baselines)


@pytest.mark.parametrize("baseline", ["black", torch.zeros(3), torch.zeros(2, 3, 8, 8)])
@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
def test_a_wrong_baseline_is_refused(name, baseline):
    with pytest.raises(ValueError, match="`baseline`"):
        METHODS[name](small_cnn(), *images(), baseline=baseline)


@pytest.mark.parametrize(("setting", "value"), [("num_samples", 0), ("noise_level", -0.1)])
def test_gradient_shap_names_a_wrong_number(setting, value):
    with pytest.raises(ValueError, match=f"`{setting}`"):
        METHODS["gradient_shap"](small_cnn(), *images(), **{setting: value})


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
def test_a_mean_of_rows_is_refused_and_mixes_no_samples(name):
    model, rows = nn.Linear(4, 3), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"`baseline`: 'mean' expects inputs \(N, C, ...\), got \(5, 4\)"):
        METHODS[name](model, rows, torch.zeros(5).long(), baseline="mean")
