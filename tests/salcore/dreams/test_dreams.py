"""Dreams: the parameterisation and the views against slow re-derivations, and what averaging over networks means."""

import math
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from salcore.dreams import dream, fourier, mean_gradient, transforms
from salcore.models.small_cnn import small_cnn
from salcore.seeds import generator
from tests.oracles import enlarged_by_hand, numeric_gradient

DOUBLE = torch.zeros((), dtype=torch.float64)
GREY = {"shape": (1, 8, 8), "mean": [0.4], "std": [0.3]}
COLOUR = {"shape": (3, 8, 8), "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


def network(seed=0, *, channels=1, classes=3, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = small_cnn(input_shape=(channels, 8, 8), classes=classes, width=4, depth=2, norm="batch")
        made(torch.randn(32, channels, 8, 8))  # moves the running statistics away from 0 and 1
    return made.eval().to(dtype)


def linear(seed, channels=3, classes=2):
    made = nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, classes, dtype=torch.float64))
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.randn(value.shape, generator=generator(seed), dtype=torch.float64))
    return made


# The parameterisation.


def image_by_hand(spectrum, width):
    """One channel from its half spectrum (H, W // 2 + 1, 2): wave by wave, before colours and sigmoid."""
    height = len(spectrum)
    image = np.zeros((height, width))
    for v in range(height):
        for u in range(width // 2 + 1):
            fy, fx = min(v, height - v) / height, u / width
            scale = 1 / max(math.sqrt(fy**2 + fx**2), 1 / max(height, width))
            value = scale * complex(*spectrum[v, u])
            twice = 1 if u == 0 or 2 * u == width else 2  # the other half of the spectrum is the conjugate
            for y in range(height):
                for x in range(width):
                    angle = 2 * math.pi * (v * y / height + u * x / width)
                    image[y, x] += twice * (value * complex(math.cos(angle), math.sin(angle))).real
    return image / math.sqrt(height * width) / 4


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 6, 4), (3, 5, 7), (1, 4, 6), (2, 3, 3)])
def test_an_image_is_the_sum_of_its_waves(channels, height, width):
    spectrum = torch.randn(2, channels, height, width // 2 + 1, 2, generator=generator(1), dtype=torch.float64)
    expected = np.array([[image_by_hand(channel.numpy(), width) for channel in each] for each in spectrum])
    if channels == 3:
        s = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]])
        m = s / max(math.sqrt(sum(s[row, column] ** 2 for row in range(3))) for column in range(3))
        expected = np.array([[sum(m[c, k] * each[k] for k in range(3)) for c in range(3)] for each in expected])
    np.testing.assert_allclose(fourier.render(spectrum, width), 1 / (1 + np.exp(-expected)), rtol=1e-12)


def test_low_frequencies_weigh_more_and_the_mean_as_much_as_the_first_wave():
    scale = fourier.frequency_scale((8, 16), like=DOUBLE)
    assert scale.shape == (8, 9)
    assert scale[0, 0] == scale[0, 1] == 16
    torch.testing.assert_close(scale[0], 16 / torch.tensor([1, *range(1, 9)], dtype=torch.float64))
    torch.testing.assert_close(scale[:, 0], 8 / torch.tensor([0.5, 1, 2, 3, 4, 3, 2, 1], dtype=torch.float64))
    torch.testing.assert_close(scale[4, 8], torch.tensor(math.sqrt(2), dtype=torch.float64))


@pytest.mark.parametrize(("axis", "signs"), [(0, (1, 1, 1)), (1, (1, 0, -1)), (2, (1, -1, 1))])
def test_axes_of_colour_are_light_red_to_blue_and_green_to_magenta(axis, signs):
    spectrum = torch.zeros(1, 3, 4, 3, 2)
    spectrum[0, axis, 0, 0, 0] = 1.0
    np.testing.assert_array_equal(np.sign(fourier.render(spectrum, 4)[0, :, 0, 0].numpy().round(6) - 0.5), signs)


def test_the_longest_axis_of_colour_is_light():
    norms = torch.linalg.vector_norm(fourier.colour_matrix(like=DOUBLE), dim=0)
    assert float(norms[0]) == pytest.approx(1)
    assert (norms[1:] < 0.3).all()


def test_an_image_starts_near_grey():
    spectrum = fourier.start((3, 128, 128), generator(3))
    assert spectrum.shape == (3, 128, 65, 2)
    assert float(spectrum.std()) == pytest.approx(0.01, rel=0.02)
    assert abs(float(spectrum.mean())) < 2e-4
    image = fourier.render(spectrum[None], 128)
    assert 0.3 < image.min() < image.max() < 0.7


# The views.


def still(**changes):
    return transforms.View(**{"padding": 3, "first": (0, 0), "scale": 1.0, "degrees": 0, "second": (0, 0)} | changes)


def pictures(height, width, count=2):
    return torch.rand(count, 3, height, width, generator=generator(5), dtype=torch.float64)


def test_a_view_that_changes_nothing_is_the_image():
    images = pictures(9, 12)
    torch.testing.assert_close(transforms.look(images, still()), images, rtol=0, atol=1e-12)


def test_a_shift_moves_right_and_down_and_the_padding_comes_in():
    images = pictures(8, 8)
    seen = transforms.look(images, still(first=(2, 0), second=(0, 1)))
    torch.testing.assert_close(seen[:, :, 1:, 2:], images[:, :, :-1, :-2], rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[:, :, :, :2], torch.full((2, 3, 8, 2), 0.5, dtype=torch.float64))
    back = transforms.shift(transforms.shift(images, (2, 1)), (-2, -1))
    torch.testing.assert_close(back[:, :, :-1, :-2], images[:, :, :-1, :-2])
    assert not back[:, :, -1].any()
    assert not back[:, :, :, -2:].any()


@pytest.mark.parametrize(("degrees", "height", "width"), [(10, 20, 20), (-7, 15, 22), (3, 22, 15)])
def test_a_turn_is_scipys(degrees, height, width):
    image = pictures(height, width, 1)
    expected = ndimage.rotate(image[0, 0].numpy(), degrees, order=1, reshape=False, mode="constant")
    inside = (slice(5, -5), slice(5, -5))  # SciPy lets zeros in half a pixel earlier at the rim
    found = transforms.rotate(image, degrees)[0, 0].numpy()
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-9)


def test_enlarging_grows_the_frame_and_shrinking_leaves_a_rim_of_zeros():
    image = pictures(10, 20, 1)
    larger, smaller = transforms.scale(image, 1.1), transforms.scale(torch.ones_like(image), 0.9)
    np.testing.assert_allclose(larger[0, 0], enlarged_by_hand(image[0, 0].numpy(), 11, 22), atol=1e-12)
    assert smaller.shape == image.shape
    torch.testing.assert_close(smaller[..., :9, 1:19], torch.ones(1, 3, 9, 18, dtype=torch.float64))
    assert float(smaller.sum()) == pytest.approx(3 * 9 * 18)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (32, 20), (1, 5), (128, 128)])
def test_every_view_keeps_the_size_and_treats_all_images_alike(height, width):
    images = pictures(height, width)
    for step in range(20):
        view = transforms.draw((height, width), generator(0, step))
        seen = transforms.look(images, view)
        assert seen.shape == images.shape
        assert -1e-9 < seen.min() <= seen.max() < 1 + 1e-9
        torch.testing.assert_close(transforms.look(images[1:], view), seen[1:], rtol=0, atol=1e-12)


def test_draws_at_128_pixels_are_those_of_the_library():
    views = [transforms.draw((128, 128), generator(0, step)) for step in range(3000)]
    assert {view.padding for view in views} == {12}
    for place in (0, 1):
        assert {view.first[place] for view in views} == set(range(-3, 5))
        assert {view.second[place] for view in views} == set(range(-2, 2))
    assert sorted({view.scale for view in views}) == pytest.approx(np.arange(0.9, 1.11, 0.02))
    turns = Counter(view.degrees for view in views)
    assert set(turns) == set(range(-10, 11))
    assert turns[0] / len(views) == pytest.approx(6 / 26, abs=0.03)
    assert max(count for degrees, count in turns.items() if degrees) / len(views) < 0.06
    both = np.array([[view.first, view.second] for view in views]).sum(axis=1)
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=0.2)


def test_lengths_are_in_proportion_and_a_pixel_at_least():
    sizes = {8: (1, 1, 1), 32: (3, 2, 1), 64: (6, 4, 2), 256: (24, 14, 6)}
    for size, (padding, first, second) in sizes.items():
        views = [transforms.draw((size // 2, size), generator(1, step)) for step in range(400)]
        assert {view.padding for view in views} == {padding}
        assert np.ptp([view.first[0] for view in views]) == first
        assert np.ptp([view.second[1] for view in views]) == second


# Gradients of many networks.


def test_the_gradient_of_an_ensemble_is_the_mean_of_its_networks():
    networks, targets = [network(seed) for seed in range(3)], torch.tensor([2, 0])
    inputs = torch.randn(2, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    logits, slope = mean_gradient(networks, inputs, targets)
    expected = sum(numeric_gradient(each, inputs, targets) for each in networks) / 3
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        by_hand = [sum(float(each(inputs)[n, t]) for each in networks) / 3 for n, t in enumerate((2, 0))]
    assert logits.tolist() == pytest.approx(by_hand)


def test_an_ensemble_of_linear_networks_dreams_as_their_mean_does():
    networks, mean = [linear(seed) for seed in range(3)], linear(0)
    with torch.no_grad():
        for value, *each in zip(mean.parameters(), *(made.parameters() for made in networks), strict=True):
            value.copy_(torch.stack(each).mean(dim=0))
    together, alone = (dream(each, [1, 0], **COLOUR, steps=20) for each in (networks, [mean]))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    assert (dream(networks[:2], [1, 0], **COLOUR, steps=20) - alone).abs().max() > 0.01


def test_a_network_given_twice_counts_as_once():
    once, twice = ([network()] * number for number in (1, 2))
    assert torch.equal(dream(once, [0, 1], **GREY, steps=5), dream(twice, [0, 1], **GREY, steps=5))


def test_what_the_first_network_computed_is_gone_before_the_second_is_asked():
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear(0, channels=1)

        def forward(self, inputs):
            assert all(reference() is None for reference in seen)
            hidden = inputs.tanh()
            seen.append(weakref.ref(hidden))
            return self.inner(hidden * hidden)

    dream([Watching() for _ in range(3)], [0], **GREY, steps=2)
    assert len(seen) == 6


# Dreams.


def test_the_logit_rises_in_the_view_and_in_the_image():
    heard, made = [], [network(seed, channels=3) for seed in range(2)]
    images = dream(
        made, [0, 1, 2], **COLOUR, steps=60, on_step=lambda step, logits: heard.append((step, logits.numpy().copy()))
    )
    assert [step for step, _ in heard] == list(range(1, 61))
    assert (heard[-1][1] > heard[0][1]).all()
    start = dream(made, [0, 1, 2], **COLOUR, steps=1, learning_rate=1e-9)
    mean, std = (torch.tensor(COLOUR[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        before, after = (
            sum(each((x - mean) / std) for each in made)[torch.arange(3), torch.arange(3)] for x in (start, images)
        )
    assert (after > before).all()


def test_the_first_step_goes_up_the_gradient_of_a_linear_network():
    """Adam's first step is the learning rate times the sign of the gradient, coefficient by coefficient."""
    made = linear(1, channels=1)
    after = dream([made], [0], **GREY, steps=1, learning_rate=1e-4)
    first = fourier.start(GREY["shape"], generator(0, 0)).double()[None].requires_grad_()
    seen = transforms.look(fourier.render(first, 8), transforms.draw((8, 8), generator(0, 1, 1)))
    (slope,) = torch.autograd.grad(made((seen - 0.4) / 0.3)[0, 0], first)
    moved = fourier.render((first + 1e-4 * slope.sign()).detach(), 8)
    torch.testing.assert_close(after, moved, rtol=0, atol=1e-7)


def test_an_image_does_not_depend_on_what_else_is_dreamt():
    made = [network(seed) for seed in range(2)]
    together = dream(made, [2, 0, 2], **GREY, steps=30)
    torch.testing.assert_close(together[1:2], dream(made, [0], **GREY, steps=30), rtol=0, atol=1e-9)
    torch.testing.assert_close(together[0], together[2], rtol=0, atol=1e-9)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_a_dream_is_a_function_of_its_seed_and_moves_no_global_state():
    made, state = [network()], torch.get_rng_state()
    first, again, other = (dream(made, [1], **GREY, steps=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("target", [0, 7])
def test_networks_are_left_as_they_were_also_where_the_dream_fails(target):
    made = network().train()
    made.get_submodule("classifier").eval()
    next(iter(made.parameters())).requires_grad_(False)
    modes = [module.training for module in made.modules()]
    flags = [each.requires_grad for each in made.parameters()]
    values = {name: value.clone() for name, value in made.state_dict().items()}
    if target == 7:
        with pytest.raises(ValueError, match=r"`targets`: expected classes from 0 to 2, got 7 to 7"):
            dream([made], [target], **GREY, steps=2)
    else:
        torch.testing.assert_close(
            dream([made], [target], **GREY, steps=2), dream([network()], [target], **GREY, steps=2), rtol=0, atol=0
        )
    assert [module.training for module in made.modules()] == modes
    assert [each.requires_grad for each in made.parameters()] == flags
    assert all(each.grad is None for each in made.parameters())
    assert all(torch.equal(value, values[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    made = [network()]
    expected = dream(made, [1], **GREY, steps=3)
    with mode():
        found = dream(made, [1], **GREY, steps=3)
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_images_have_the_networks_dtype_float32_at_the_least(dtype, expected):
    images = dream([network(channels=3, dtype=dtype)], [0], **COLOUR, steps=2)
    assert images.dtype == expected
    assert images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": []}, "`networks`: expected at least one network, got none"),
        ({"targets": []}, r"`targets`: expected at least one class, counted from 0, got \[\]"),
        ({"targets": [1, -1]}, r"`targets`: .* got \[1, -1\]"),
        ({"targets": [0, 3]}, "`targets`: expected classes from 0 to 2, got 0 to 3"),
        ({"shape": (8, 8)}, r"`shape`: expected channels, height and width, got \(8, 8\)"),
        ({"shape": (1, 0, 8)}, r"`shape`: .* got \(1, 0, 8\)"),
        ({"mean": [0.1, 0.2]}, "`mean`: expected a number for each of 1 channels, got 2"),
        ({"std": []}, "`std`: expected a number for each of 1 channels, got 0"),
        ({"std": [0.0]}, r"`std`: expected positive numbers, got \[0.0\]"),
        ({"steps": 0}, "`steps`: expected 1 or more, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate`: expected a positive number, got 0.0"),
        ({"learning_rate": math.nan}, "`learning_rate`: .* got nan"),
        ({"seed": -1}, "`seed`: expected 0 or more, got -1"),
        ({"networks": [nn.Flatten(0)]}, "`model`: expected logits of shape"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(changes, message):
    asked = {"networks": [network()], "targets": [0], **GREY, "steps": 2} | changes
    with pytest.raises(ValueError, match=message) as caught:
        dream(asked.pop("networks"), asked.pop("targets"), **asked)
    assert "\n" not in str(caught.value)


def test_a_network_that_gives_no_finite_gradient_is_refused():
    made = linear(0, channels=1)
    with torch.no_grad():
        made[1].weight.fill_(math.nan)
    with pytest.raises(ValueError, match="`networks`: expected finite gradients, got NaN or infinity in step 1"):
        dream([made], [0], **GREY, steps=2)


def test_every_step_has_a_view_of_its_own(monkeypatch):
    seen = []
    look = transforms.look
    monkeypatch.setattr(transforms, "look", lambda images, view: seen.append(view) or look(images, view))
    dream([network(), network(1)], [0, 1], **GREY, steps=8)
    assert len(seen) == 8
    assert seen == [transforms.draw((8, 8), generator(0, 1, step)) for step in range(1, 9)]
    assert len({(view.scale, view.degrees) for view in seen}) > 4
