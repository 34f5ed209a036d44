"""LIME against closed forms, scikit-learn and Captum, and what LIME and KernelSHAP promise of masks and batches."""

import math
import warnings

import pytest
import torch
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from torch import nn

from salcore.attribution import perturbation
from salcore.attribution.baseline import as_baseline
from salcore.attribution.kernel_shap import kernel_shap
from salcore.attribution.least_squares import lasso, ridge
from salcore.attribution.lime import draw_masks, lime, proximity
from salcore.attribution.superpixels import segment
from salcore.models import build
from salcore.seeds import forked
from salcore.settings import find_mistake
from salcore.spec import ModelSpec
from tests.oracles import masked_superpixels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Captum's imports warn of its own dependencies
    from captum._utils.models.linear_model import SkLearnLinearModel
    from captum.attr import Lime

SHAPE, CLASSES = (2, 8, 8), 5
both = pytest.mark.parametrize("method", [lime, kernel_shap])
CHEAP = {"num_superpixels": 8, "num_samples": 40}


def network(dtype=torch.float64, **settings):
    with forked(0):
        spec = ModelSpec(name="small_cnn", **({"width": 6} | settings))
        model = build(spec, input_shape=SHAPE, classes=CLASSES).to(dtype).eval()
    with torch.no_grad():
        model.classifier.linear.weight *= 20  # logits as large as those of a trained one
    return model


def images(count=7, shape=SHAPE):
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return inputs, torch.arange(count) % CLASSES


def close(actual, expected, tolerance=1e-11):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def ragged(count=7):
    """A segmentation of an image of its own for each: 3 to 5 superpixels of any shape, in any numbers."""
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randint(0, 3 + place % 3, (8, 8), generator=generator) * 7 - 5 for place in range(count)])


class Linear(nn.Module):
    """f(x) = W x + c: linear in any superpixels."""

    def __init__(self):
        super().__init__()
        with forked(2):
            self.layer = nn.Linear(math.prod(SHAPE), CLASSES, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def contributions(self, inputs, targets, off, labels):
        """The sum of w (x - b) over each superpixel, on its pixels."""
        shares = (self.layer.weight.detach()[targets].view_as(inputs) * (inputs - off)).sum(1, keepdim=True)
        maps = torch.zeros_like(shares)
        for sample, own in enumerate(labels):
            for label in own.unique():
                maps[sample, 0, own == label] = shares[sample, 0, own == label].sum()
        return maps


class Recording(nn.Module):
    """Remembers what it was shown, less the second pass: the images once more, in another layout."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.shown = inner, []

    def forward(self, x):
        self.shown.append(x.clone())
        return self.inner(x)

    @property
    def seen(self):
        return self.shown[:1] + self.shown[2:]


CUTS = {"grid": "grid", "slic": "slic", "labels": torch.arange(64).view(8, 8) % 6, "own labels": ragged()}
BASELINES = {
    "none": None,
    "number": 0.7,
    "field": torch.linspace(-1, 1, 64, dtype=torch.float64).view(8, 8),
    "mean": "mean",
    "blurred": "blurred",
    "uniform": "uniform",
    "superpixel": "superpixel",
}


@both
@pytest.mark.parametrize("superpixels", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
def test_a_model_linear_in_the_superpixels_gives_its_coefficients(method, superpixels, baseline):
    model, (inputs, targets) = Linear(), images()
    segmentation = segment(inputs, superpixels, 8)
    off = segmentation.averaged(inputs) if baseline == "superpixel" else as_baseline(baseline, inputs, seed=3)
    expected = model.contributions(inputs, targets, off, segmentation.labels.expand(7, -1, -1))
    settings = CHEAP | {"superpixels": superpixels, "baseline": baseline, "seed": 3}
    close(method(model, inputs, targets, **settings), expected)
    assert expected.abs().max() > 0.1


def outputs_of(model, inputs, targets, labels, masks, off):
    """The logits (S, N) of images masked pixel by pixel, one image at a time."""
    rows = []
    for mask in masks:
        on = frozenset(mask.nonzero()[:, 0].tolist())
        shown = [masked_superpixels(x, b, own, on) for x, b, own in zip(inputs, off, labels, strict=True)]
        rows.append(torch.stack([model(x[None])[0, t] for x, t in zip(shown, targets.tolist(), strict=True)]))
    return torch.stack(rows).detach()


@pytest.mark.parametrize(
    ("settings", "regression"),
    [
        ({}, LinearRegression()),
        ({"kernel_width": 0.05}, LinearRegression()),
        ({"penalty": "ridge"}, Ridge(alpha=1.0)),
        ({"penalty": "ridge", "alpha": 0.3, "kernel_width": 0.1}, Ridge(alpha=0.3)),
        ({"penalty": "lasso"}, Lasso(alpha=0.01, tol=1e-14, max_iter=10**6)),
        ({"penalty": "lasso", "alpha": 0.03, "kernel_width": 0.1}, Lasso(alpha=0.03, tol=1e-14, max_iter=10**6)),
    ],
)
def test_scikit_learn_agrees_on_a_network(settings, regression):
    """The weights, the intercept and the scale of alpha, sample by sample, on outputs made pixel by pixel."""
    model, (inputs, targets) = network(), images(3)
    labels, masks = segment(inputs, "grid", 8).labels.expand(3, -1, -1), draw_masks(8, 40, 2)
    outputs = outputs_of(model, inputs, targets, labels, masks, torch.full_like(inputs, 0.2))
    distance = 1 - torch.nn.functional.cosine_similarity(masks.double(), torch.ones(1, 8).double())
    weights = torch.exp(-(distance**2) / (2 * settings.get("kernel_width", 0.25) ** 2))
    maps = lime(model, inputs, targets, baseline=0.2, seed=2, **CHEAP, **settings)
    found = []
    for sample in range(3):
        regression.fit(masks.double().numpy(), outputs[:, sample].numpy(), sample_weight=weights.numpy())
        coefficients = torch.from_numpy(regression.coef_)
        close(maps[sample, 0], coefficients[labels[sample]], 1e-9)
        found.append(coefficients)
    assert torch.stack(found).abs().max() > 0.2
    if settings.get("penalty") == "lasso":
        assert (torch.stack(found) == 0).any()


def test_alpha_zero_is_no_penalty():
    model, (inputs, targets) = network(), images()
    plain = lime(model, inputs, targets, **CHEAP)
    for penalty in ("ridge", "lasso"):
        close(lime(model, inputs, targets, penalty=penalty, alpha=0, **CHEAP), plain)
        assert not torch.allclose(lime(model, inputs, targets, penalty=penalty, **CHEAP), plain, rtol=1e-3)


@pytest.mark.parametrize("penalty", ["ridge", "lasso"])
def test_a_penalty_makes_do_with_fewer_samples_than_superpixels(penalty):
    maps = lime(network(), *images(), num_superpixels=64, num_samples=20, penalty=penalty)
    assert maps.isfinite().all()
    assert maps.abs().max() > 0


def test_lasso_meets_its_optimality_conditions_image_by_image():
    """Where b is not 0 the slope of the squares is -alpha sign(b), elsewhere at most alpha; for every scale."""
    generator = torch.Generator().manual_seed(0)
    design = (torch.rand(30, 40, generator=generator) < 0.5).double()
    weights = torch.rand(30, generator=generator).double() + 0.1
    outputs = torch.randn(30, 6, generator=generator).double() * torch.logspace(-3, 3, 6).double()
    alpha = 0.02
    found = lasso(design, weights, alpha, outputs)
    share = weights / weights.sum()
    centred = design - share @ design
    slope = centred.T @ (share[:, None] * (centred @ found - outputs))
    off = 1e-11 * outputs.abs().amax(0)
    assert ((slope + alpha * found.sign()).abs()[found != 0] < off.expand_as(found)[found != 0]).all()
    assert (slope.abs() <= alpha + off).all()
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] != 0).any()
    for image in range(6):
        alone = lasso(design, weights, alpha, outputs[:, image : image + 1])[:, 0]
        torch.testing.assert_close(alone, found[:, image], rtol=1e-9, atol=1e-11)


def test_an_image_whose_outputs_are_not_finite_spoils_no_other():
    design, weights = draw_masks(6, 30, 0).double(), torch.ones(30).double()
    outputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).double()
    broken = outputs.clone()
    broken[4, 1] = torch.nan
    for fit in (lambda y: lasso(design, weights, 0.01, y), lambda y: ridge(design, weights, 1.0) @ y):
        assert torch.equal(fit(broken)[:, ::2], fit(outputs)[:, ::2])
        assert fit(broken)[:, 1].isnan().all()


def test_a_lasso_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr("salcore.attribution.least_squares.STEPS", 2)
    with pytest.raises(ValueError, match=r"^`alpha`.* converges in 2 steps, got 0.01"):
        lime(network(), *images(), penalty="lasso", **CHEAP)


def test_masks_start_all_on_and_are_fair_coins_and_fewer_are_the_first_of_more():
    masks = draw_masks(16, 4000, 5)
    assert masks[0].all()
    assert (masks[1:].double().mean(0) - 0.5).abs().max() < 0.05
    assert torch.equal(draw_masks(16, 100, 5), masks[:100])
    assert not torch.equal(draw_masks(16, 100, 6), masks[:100])


def test_proximity_is_that_of_the_cosine():
    masks = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    expected = [1, math.exp(-(0.5**2) / (2 * 0.25**2)), math.exp(-1 / (2 * 0.25**2))]
    close(proximity(masks, 0.25), torch.tensor(expected, dtype=torch.float64), 1e-15)


@pytest.mark.parametrize(
    ("penalty", "sklearn"),
    [("none", "LinearRegression"), ("ridge", "Ridge"), ("lasso", "Lasso")],
)
def test_captum_agrees_given_the_same_masks_and_weights(penalty, sklearn):
    """Its own default measures the distance between images, and its regression is in float32."""
    model, (inputs, targets) = network(), images(3)
    labels, masks = segment(inputs, "grid", 8).labels, draw_masks(8, 40, 0)
    weights = {tuple(mask.tolist()): weight for mask, weight in zip(masks, proximity(masks, 0.25), strict=True)}

    def similarity(original, masked, mask, **_):
        return weights[tuple(mask[0].bool().tolist())]

    def perturb(original, **_):
        yield from (mask[None].long() for mask in masks)

    options = {"ridge": {"alpha": 1.0}, "lasso": {"alpha": 0.01, "tol": 1e-6}}.get(penalty, {})
    regression = SkLearnLinearModel(sklearn_module=f"linear_model.{sklearn}", **options)
    captum = Lime(model, regression, similarity, perturb)
    expected = torch.cat(
        [
            captum.attribute(inputs[n : n + 1], target=int(targets[n]), feature_mask=labels[:, None], n_samples=40)
            for n in range(3)
        ]
    )
    maps = lime(model, inputs, targets, penalty=penalty, **CHEAP)
    torch.testing.assert_close(maps.expand_as(expected).float(), expected.float(), rtol=1e-4, atol=1e-5)


@both
def test_all_images_and_all_networks_see_the_same_masks(method):
    inputs, targets = torch.ones(3, *SHAPE, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    recordings = [Recording(network()), Recording(Linear())]
    for model in recordings:
        method(model, inputs * (1 if model is recordings[0] else 5), targets, **CHEAP)
    first, second = (torch.cat(model.seen).view(-1, 3, *SHAPE) for model in recordings)
    assert torch.equal(first[:, :1].expand_as(first), first)
    assert torch.equal(5 * first, second)
    assert set(first.unique().tolist()) == {0, 1}
    assert torch.equal(first[0], inputs)
    assert len(first) == (40 if method is lime else 42)


@both
def test_masks_depend_on_the_number_of_superpixels_and_not_on_how_they_are_cut(method):
    inputs, targets = torch.ones(2, *SHAPE, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    labels = torch.arange(64).view(8, 8) % 8
    models = {name: Recording(network()) for name in ("grid", "one", "each")}
    method(models["grid"], inputs, targets, **CHEAP)
    method(models["one"], inputs, targets, superpixels=labels, **CHEAP)
    method(models["each"], inputs, targets, superpixels=torch.stack([labels, 100 - labels]), **CHEAP)
    grid, one, each = (torch.cat(model.seen).view(-1, 2, *SHAPE) for model in models.values())
    masks = grid[:, :, 0, ::4, ::2].flatten(2)
    assert torch.equal(one[:, :, 0, 0], masks)
    assert torch.equal(each[:, 0, 0, 0], masks[:, 0])
    assert torch.equal(each[:, 1, 0, 0].flip(1), masks[:, 1])


@both
@pytest.mark.parametrize("count", [1, 7, 64, 65])
def test_passes_are_full_and_no_larger_than_a_batch(method, count):
    model, (inputs, targets) = Recording(network()), images(count)
    maps = method(model, inputs, targets, num_superpixels=8, num_samples=100)
    rows = [len(x) for x in model.seen]
    assert rows[0] == count
    assert max(rows) <= max(count, perturbation.ROWS)
    assert set(rows[1:-1]) == {max(1, perturbation.ROWS // count) * count}
    assert sum(rows) == count * (100 if method is lime else 102)
    assert maps.shape == (count, 1, 8, 8)


@both
@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 8, 8)])
def test_masked_images_have_their_channels_last_in_memory(method, shape):
    inputs, targets = images(3, shape)
    model = Recording(nn.Sequential(nn.Conv2d(shape[0], 3, 3), nn.Flatten(), nn.Linear(108, CLASSES)).double())
    expected = method(model, inputs, targets, **CHEAP)
    assert model.shown[0].stride() == inputs.stride()
    assert all(x.stride() == (64 * shape[0], 1, 8 * shape[0], shape[0]) for x in model.shown[1:])
    close(method(model, inputs.to(memory_format=torch.channels_last), targets, **CHEAP), expected)


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


class Particular(nn.Module):
    """Takes images in one layout only: it says so, or reads another one wrongly."""

    def __init__(self, wrongly):
        super().__init__()
        self.wrongly = wrongly
        with forked(2):
            self.layer = nn.Linear(math.prod(SHAPE), CLASSES, dtype=torch.float64)

    def forward(self, x):
        flat = x.as_strided((len(x), x[0].numel()), (x[0].numel(), 1)) if self.wrongly else x.view(len(x), -1)
        return self.layer(flat).sin()


@both
@pytest.mark.parametrize("wrongly", [False, True])
def test_a_network_that_wants_one_layout_gets_it(method, wrongly):
    inputs, targets = images()
    right = nn.Sequential(nn.Flatten(), Particular(False).layer, Sine())
    close(method(Particular(wrongly), inputs, targets, **CHEAP), method(right, inputs, targets, **CHEAP))


@both
@pytest.mark.parametrize("superpixels", CUTS.values(), ids=CUTS)
def test_a_samples_map_does_not_depend_on_its_batch(method, superpixels):
    model, (inputs, targets) = network(), images()
    together = method(model, inputs, targets, superpixels=superpixels, **CHEAP)
    own = isinstance(superpixels, torch.Tensor) and superpixels.ndim == 3

    def alone(part, images=inputs):
        labels = superpixels[part] if own else superpixels
        return method(model, images[part], targets[part], superpixels=labels, **CHEAP)

    tails = torch.cat([alone(part) for part in (slice(0, 3), slice(3, 6), slice(6, 7))])
    torch.testing.assert_close(tails, together, rtol=1e-12, atol=1e-14)
    crowded = inputs.clone()
    crowded[1:] *= 1e3
    crowded = alone(slice(None), crowded)
    torch.testing.assert_close(crowded[0], together[0], rtol=1e-12, atol=1e-14)
    none = alone(slice(0, 0))
    assert none.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("penalty", ["ridge", "lasso"])
def test_a_penalised_map_does_not_depend_on_its_batch_either(penalty):
    model, (inputs, targets) = network(), images()
    crowded = inputs.clone()
    crowded[1:] *= 1e3
    settings = CHEAP | {"penalty": penalty}
    expected = lime(model, inputs[:1], targets[:1], **settings)
    for batch in (inputs, crowded):
        torch.testing.assert_close(lime(model, batch, targets, **settings)[:1], expected, rtol=1e-12, atol=1e-13)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_maps_have_the_dtype_of_the_model_and_the_same_bits_each_time(method, dtype):
    model, (inputs, targets) = network(dtype), images()
    maps = method(model, inputs, targets, **CHEAP)
    assert maps.dtype == dtype
    assert not maps.requires_grad
    assert torch.equal(method(model, inputs, targets, **CHEAP), maps)
    other = method(model, inputs, targets, **CHEAP, seed=1)
    assert not torch.equal(other, maps)
    exact = method(network(), inputs.to(dtype), targets, **CHEAP)
    torch.testing.assert_close(maps.double(), exact, rtol=0, atol=(1e-6 if dtype == torch.float32 else 0.1) + 1e-12)


@both
def test_the_map_is_constant_on_each_superpixel_and_large_where_the_network_looks(method):
    class Corner(nn.Module):
        def forward(self, x):
            return x[:, :1, :4, :4].square().sum((2, 3)).expand(-1, CLASSES)

    inputs, targets = images()
    maps = method(Corner(), inputs, targets, num_superpixels=4, num_samples=40)[:, 0]
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 4), slice(4, 8)):
            cell = maps[:, rows, columns].flatten(1)
            expected = inputs[:, 0, :4, :4].square().sum((1, 2)) if rows.start == columns.start == 0 else torch.zeros(7)
            close(cell, expected[:, None].expand(-1, 16).double())


@both
@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("num_samples", 0, "expected 1 or more, got 0"),
        ("num_superpixels", 0, "expected 1 or more, got 0"),
        ("superpixels", "quickshift", "'grid' or 'slic'"),
        ("superpixels", torch.zeros(8, 7, dtype=torch.int64), r"\(8, 8\) or \(7, 8, 8\), got \(8, 7\)"),
        ("baseline", torch.zeros(3, 8, 8), r"got \(3, 8, 8\)"),
        ("baseline", "black", "black"),
    ],
)
def test_a_wrong_setting_is_named(method, argument, value, words):
    with pytest.raises(ValueError, match=f"^`{argument}`.*{words}") as error:
        method(network(), *images(), **(CHEAP | {argument: value}))
    assert "\n" not in str(error.value)


@both
def test_a_model_that_returns_a_tuple_is_refused_and_left_as_it_was(method):
    class Pair(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x

    model = Pair().train()
    with pytest.raises(ValueError, match=r"`model`: expected logits as one tensor.*tuple"):
        method(model, *images(), **CHEAP)
    assert model.training


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_samples": 8}, "`num_samples`: expected 9 or more masks that tell 8 superpixels apart, got 8 "),
        ({"num_samples": 3, "num_superpixels": 1, "kernel_width": 1e-3}, "a wider `kernel_width`"),
        ({"penalty": "elastic"}, "`penalty`: expected one of none, ridge, lasso, got 'elastic'"),
        ({"alpha": 0.1}, "`alpha`: expected 0 or more, with `penalty` ridge or lasso, got 0.1 with none"),
        ({"alpha": -1, "penalty": "ridge"}, "`alpha`: expected 0 or more.*got -1"),
        ({"kernel_width": 0}, "`kernel_width`: expected more than 0, got 0"),
    ],
)
def test_a_wrong_setting_of_lime_is_named(settings, words):
    with pytest.raises(ValueError, match=f"{words}") as error:
        lime(network(), *images(), **(CHEAP | settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (lime, {"alpha": 0.1, "penalty": "lasso", "baseline": "superpixel", "superpixels": "slic"}),
        (lime, {"alpha": None, "baseline": 0.5}),
        (kernel_shap, {"baseline": "superpixel", "num_samples": 300}),
    ],
)
def test_a_spec_may_say_so(method, settings):
    assert find_mistake(method, settings) is None


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (lime, {"penalty": "elastic"}),
        (lime, {"alpha": -0.1}),
        (lime, {"kernel_width": 0}),
        (kernel_shap, {"superpixels": "quickshift"}),
        (kernel_shap, {"num_samples": 0}),
        (kernel_shap, {"baseline": "black"}),
    ],
)
def test_a_spec_may_not_say_so(method, settings):
    mistake = find_mistake(method, settings)
    assert mistake is not None
    assert mistake.setting in settings


def test_one_superpixel_takes_the_whole_change():
    model, (inputs, targets) = network(), images()
    change = (model(inputs) - model(torch.zeros_like(inputs))).detach().gather(1, targets[:, None])
    close(lime(model, inputs, targets, num_superpixels=1, num_samples=20)[:, 0, 0, :1], change)
