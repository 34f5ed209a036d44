"""The laws of attribution on series (N, F, T) and embedded texts (N, T, E), padded ones among them."""

import pytest
import torch
from torch import nn

from salcore.attribution import COMPLETE, FOR_IMAGES, METHODS, check_settings
from salcore.errors import UserError
from salcore.evaluated import evaluated
from salcore.models import BY_KIND, build
from salcore.padding import bound
from salcore.seeds import forked
from salcore.spec import ModelSpec
from tests.needed import needed
from tests.oracles import numeric_gradient

GENERAL = [name for name in METHODS if name not in FOR_IMAGES]
NEEDING_RULES = ("deeplift", "deepshap")
WITHOUT_RULES = ("input_cell_lstm", "transformer")
NEEDING_FILTERS = ("input_space_saliency",)  # convolutions whose filters are parameters: none of the networks has any
CHEAP = {
    "smoothgrad": {"num_samples": 3},
    "integrated_gradients": {"num_steps": 4},
    "deepshap": {"num_baselines": 2},
    "gradient_shap": {"num_samples": 3},
}
NETWORKS = [name for kind in ("series", "text") for name in BY_KIND[kind]]
PAIRS = [
    (m, n)
    for m in GENERAL
    for n in NETWORKS
    if not (m in NEEDING_RULES and n in WITHOUT_RULES) and m not in NEEDING_FILTERS
]
COMPLETE_PAIRS = [(method, network) for method, network in PAIRS if method in ("integrated_gradients", *NEEDING_RULES)]
LENGTHS = (8, 3, 1, 8, 6)

every_pair = pytest.mark.parametrize(("method", "name"), PAIRS)


def network(name, dtype=torch.float64):
    small = {
        "transformer": {"layers": 2, "feed_forward": 8, "heads": 2},
        "tcn": {"top_channels": 8},
        "bilstm": {"hidden": 4},
    }
    with forked(0):
        spec = ModelSpec(name=name, **small.get(name, {}))
        return build(spec, input_shape=shape(name), classes=3).to(dtype)


def shape(name):
    return (8, 6) if name in BY_KIND["text"] else (6, 8)


def batch(name, dtype=torch.float64):
    valid = torch.arange(8) < torch.tensor(LENGTHS)[:, None]
    inputs = torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(1), dtype=dtype) * valid[..., None]
    return (inputs if name in BY_KIND["text"] else inputs.mT.contiguous()), torch.arange(5) % 3, valid


def attribute(method, model, inputs, targets, **settings):
    return METHODS[method](model, inputs, targets, **(CHEAP.get(method, {}) | settings))


@every_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_have_the_shape_of_the_inputs_and_the_type_of_the_model(method, name, dtype):
    inputs, targets, valid = batch(name, torch.float32)
    maps = attribute(method, bound(network(name, dtype), valid), inputs, targets)
    assert maps.shape == inputs.shape
    assert maps.dtype == dtype
    assert maps.isfinite().all()
    assert maps.min() < 0 < maps.max()
    assert maps.flatten(1).abs().amax(1).min() > 0


@every_pair
def test_padding_gets_nothing(method, name):
    inputs, targets, valid = batch(name)
    maps = attribute(method, bound(network(name), valid), inputs, targets)
    steps = (maps if name in BY_KIND["text"] else maps.mT).abs().sum(2)
    assert not steps[~valid].any()


@every_pair
def test_a_sequences_map_does_not_depend_on_its_batch(method, name):
    model, (inputs, targets, valid) = network(name), batch(name)
    together = attribute(method, bound(model, valid), inputs, targets)
    for part in (slice(0, 2), slice(2, 5), slice(2, 3)):
        alone = attribute(method, bound(model, valid[part]), inputs[part], targets[part])
        torch.testing.assert_close(alone, together[part], rtol=1e-11, atol=1e-14)
    crowded, longer = inputs.clone(), valid.clone()
    crowded[1:] *= 30
    longer[1:] = True
    huge = attribute(method, bound(model, longer), crowded, targets)
    torch.testing.assert_close(huge[0], together[0], rtol=1e-11, atol=1e-14)


@every_pair
def test_the_same_call_gives_the_same_bits_and_leaves_all_as_it_was(method, name):
    model, (inputs, targets, valid) = network(name, torch.float32).train(), batch(name, torch.float32)
    copy, weights = inputs.clone(), {key: value.clone() for key, value in model.state_dict().items()}
    state, enabled = torch.get_rng_state(), torch.backends.cudnn.enabled
    first = attribute(method, bound(model, valid), inputs, targets)
    assert torch.equal(first, attribute(method, bound(model, valid), inputs, targets))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.cudnn.enabled == enabled
    assert torch.equal(inputs, copy)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_that_of_finite_differences(name):
    model, (inputs, targets, valid) = network(name).eval(), batch(name)
    inputs, targets, valid = inputs[1:2], targets[1:2], valid[1:2]
    expected = numeric_gradient(bound(model, valid), inputs, targets)
    torch.testing.assert_close(
        METHODS["gradient"](bound(model, valid), inputs, targets), expected, rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize(("method", "name"), COMPLETE_PAIRS)
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_maps_account_for_the_change_of_the_logit(method, name, start):
    """DeepLIFT to the last digits; a quadrature as far as its steps see the bends of ReLU and of maxima."""
    model, (inputs, targets, valid) = network(name), batch(name)
    settings = {
        "integrated_gradients": {"baseline": start, "num_steps": 64, "rule": "midpoint"},
        "deeplift": {"baseline": start},
        "deepshap": {"baselines": start, "num_baselines": 3},
    }[method]
    model = bound(model, valid)
    left = COMPLETE[method](model, inputs, targets, METHODS[method](model, inputs, targets, **settings), **settings)
    smooth = name in ("lstm", "input_cell_lstm")
    assert left.abs().max() < (1e-12 if method in NEEDING_RULES else 1e-4 if smooth else 3e-2)


@pytest.mark.parametrize("name", WITHOUT_RULES)
@pytest.mark.parametrize("method", NEEDING_RULES)
def test_networks_with_softmax_are_refused_by_name(method, name):
    inputs, targets, valid = batch(name)
    with pytest.raises(ValueError, match=r"no rule for (softmax|attention); use integrated_gradients"):
        attribute(method, bound(network(name), valid), inputs, targets)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", NEEDING_FILTERS)
def test_networks_without_filters_are_refused_by_name(method, name):
    inputs, targets, valid = batch(name)
    settings = needed(method, nn.Conv1d(1, 4, 1))
    with pytest.raises(ValueError, match=r"^`model`: expected convolutions .* got ") as error:
        attribute(method, bound(network(name), valid), inputs, targets, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", NEEDING_FILTERS)
def test_series_are_explained_by_their_filters(method):
    with forked(0):
        layers = nn.Conv1d(6, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()
        model = nn.Sequential(*layers, nn.Linear(4, 3)).double()
    inputs, targets, _ = batch("tcn")
    maps = attribute(method, model, inputs, targets, **needed(method, model))
    assert maps.shape == inputs.shape
    assert maps.min() < 0 < maps.max()


@pytest.mark.parametrize("method", sorted(FOR_IMAGES))
@pytest.mark.parametrize("name", ["tcn", "bilstm", "transformer"])
def test_methods_for_images_say_so_and_what_would_work(method, name):
    inputs, targets, _ = batch(name)
    with pytest.raises(ValueError, match=r"`inputs`: expected images \(N, C, H, W\).*integrated_gradients") as error:
        attribute(method, network(name), inputs, targets)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="expected images"):
        METHODS["smoothgrad"](network(name), inputs, targets, of=method)


def test_a_blur_is_for_images():
    inputs, targets, _ = batch("lstm")
    with pytest.raises(ValueError, match=r"'blurred' expects images"):
        METHODS["integrated_gradients"](network("lstm"), inputs, targets, baseline="blurred")


def test_the_mean_of_a_series_is_each_features_own():
    """Integrated gradients of a linear model are w (x - b), exactly."""
    inputs = torch.randn(3, 6, 8, dtype=torch.float64)
    with forked(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double()
    maps = METHODS["integrated_gradients"](model, inputs, torch.zeros(3).long(), baseline="mean", num_steps=1)
    expected = model[1].weight[0].view(6, 8) * (inputs - inputs.mean(2, keepdim=True))
    torch.testing.assert_close(maps, expected.detach())


@pytest.mark.parametrize(
    ("name", "settings", "kind", "words"),
    [
        ("gradcam", {}, "series", "methods for series: gradient, input_x_gradient"),
        ("smoothgrad", {"of": "lime"}, "text", "methods for text: gradient.*got 'lime'"),
        ("integrated_gradients", {"baseline": "blurred"}, "series", "`baseline` of integrated_gradients"),
        ("smoothgrad", {"of": "deepshap", "baselines": "mean"}, "text", "`baselines` of deepshap to be one for text"),
    ],
)
def test_settings_are_held_against_the_kind_of_data(name, settings, kind, words):
    check_settings(name, settings)
    with pytest.raises(UserError, match=words) as error:
        check_settings(name, settings, kind)
    assert error.value.key == "attribution.methods"


@pytest.mark.parametrize("kind", ["series", "text"])
def test_the_other_methods_suit_every_kind(kind):
    for name in GENERAL:
        check_settings(name, {}, kind)
    check_settings("integrated_gradients", {"baseline": 0.5}, kind)


def test_recurrent_networks_run_without_cudnn_and_it_is_put_back():
    """cuDNN's recurrent layers have no backward pass in evaluation mode; others keep it."""
    seen = []
    with evaluated(nn.Sequential(nn.Linear(2, 2))):
        seen.append(torch.backends.cudnn.enabled)

    def fail():
        with evaluated(nn.Sequential(nn.GRU(2, 2))):
            seen.append(torch.backends.cudnn.enabled)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [*seen, torch.backends.cudnn.enabled] == [True, False, True]


def test_squared_smoothgrad_is_the_mean_of_squares():
    inputs, targets, valid = batch("lstm")
    model = bound(network("lstm"), valid)
    gradient = METHODS["gradient"](model, inputs, targets)
    squares = METHODS["smoothgrad"](model, inputs, targets, squared=True, noise_level=0.0, num_samples=2)
    torch.testing.assert_close(squares, gradient.square())
    seen = []

    def watched(*arguments, **settings):
        seen.append(METHODS["gradient"](*arguments, **settings))
        return seen[-1]

    maps = METHODS["smoothgrad"](model, inputs, targets, of=watched, squared=True, num_samples=3)
    torch.testing.assert_close(maps, torch.stack(seen).square().mean(0))
    assert maps.min() >= 0
