"""Maps made of attention, against loops over heads, finite differences and closed forms; and the contract."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from salcore.attribution.attention_rollout import attention_rollout
from salcore.attribution.generic_attention import generic_attention
from tests.oracles import enlarged_by_hand, generic_by_hand, numeric_gradient, rollout_by_hand
from tests.vits import CLASSES, PATCH, SHAPE, Vit, close, images, written_out

METHODS = {"attention_rollout": attention_rollout, "generic_attention": generic_attention}
every_method = pytest.mark.parametrize("name", METHODS)


class Nudged(nn.Module):
    """One image's logits as a function of what is added to all weights, (1, layers x heads, T, T)."""

    def __init__(self, vit, image):
        super().__init__()
        self.vit, self.image, self.kept = vit, image, []
        vit.style = lambda mha, x: written_out(mha, x, self.nudged)

    def forward(self, nudges):
        self.kept, self.left = [], list(nudges.split(2, 1))
        return self.vit(self.image)

    def nudged(self, scores):
        self.kept.append(scores.softmax(-1).detach())
        return self.kept[-1] + self.left.pop(0)


def by_hand(model, inputs, targets, relevance_of):
    """A map from each sample's attention and its derivatives, found without autograd: one number of A at a time."""
    rows, columns = SHAPE[1] // PATCH, SHAPE[2] // PATCH
    maps = []
    for sample in range(len(inputs)):
        one = slice(sample, sample + 1)
        nudged = Nudged(model, inputs[one]).eval()
        tokens, depth = model.positions.shape[1], len(model.attention)
        slopes = numeric_gradient(nudged, torch.zeros(1, 2 * depth, tokens, tokens).double(), targets[one])
        layers = [weights[0].numpy() for weights in nudged.kept]
        relevance = relevance_of(layers, [slope[0].numpy() for slope in slopes.split(2, 1)])
        values = relevance[0, 1:] if model.class_token else relevance.mean(0)
        maps.append(enlarged_by_hand(values.reshape(rows, columns), *SHAPE[1:])[None])
    return torch.from_numpy(np.stack(maps))


def without_own(layers, slopes):
    return generic_by_hand(layers, slopes) - np.eye(layers[0].shape[-1])


@pytest.mark.parametrize("class_token", [True, False])
def test_both_methods_are_those_of_loops_and_finite_differences(class_token):
    model, (inputs, targets) = Vit("fused", class_token, depth=3), images(2)
    maps = {name: method(model, inputs, targets) for name, method in METHODS.items()}
    close(maps["attention_rollout"], by_hand(model, inputs, targets, lambda layers, _: rollout_by_hand(layers)))
    close(maps["generic_attention"], by_hand(model, inputs, targets, without_own), 1e-7)
    assert maps["generic_attention"].flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_rollout_of_uniform_attention_is_its_closed_form(depth):
    """B = (J + I) / 2 with J = 1 / T everywhere and J J = J, so R = (1 - 2^-L) J + 2^-L I."""
    model = Vit("fused", depth=depth)
    for attention in model.attention:
        nn.init.zeros_(attention.in_proj_weight)
    maps = attention_rollout(model, *images())
    close(maps, torch.full_like(maps, (1 - 0.5**depth) / 7))


class OneLayer(nn.Module):
    """Pixels are tokens, their mean the class token: f_k = sum over heads h and tokens j of A_h0j u_hk x_j."""

    def __init__(self, signs):
        super().__init__()
        self.u = nn.Parameter(torch.tensor(signs, dtype=torch.float64)[:, :, None].mT)  # (heads, 1, K)

    def weights(self, x):
        tokens = torch.cat([x.flatten(1).mean(1, keepdim=True), x.flatten(1)], 1)[:, None, :, None]  # (N, 1, T, 1)
        scale = torch.tensor([1.0, -0.5]).to(x)[:, None, None]
        return tokens, (tokens @ tokens.mT) * scale

    def forward(self, x):
        tokens, scores = self.weights(x)
        return (scores.softmax(-1) @ tokens @ self.u)[:, :, 0].sum(1)


def test_generic_attention_of_one_layer_is_its_closed_form():
    """d f_k / d A_h0j = u_hk x_j, so a pixel's value is the mean over heads of max(0, A_h0j u_hk x_j)."""
    model, (inputs, _) = OneLayer([[1.0, -2.0, 3.0], [0.5, 1.0, -1.0]]), images(3, (1, 4, 6))
    targets = torch.arange(3)
    tokens, scores = model.weights(inputs)
    terms = scores.softmax(-1)[:, :, 0] * tokens[..., 0] * model.u.detach()[:, 0, targets].T[:, :, None]
    expected = terms.clamp(min=0).mean(1)[:, 1:].reshape(3, 1, 4, 6)
    close(generic_attention(model, inputs, targets), expected)
    # For and against the class, cut apart head by head: together they are the mean of |A dA|.
    opposite = OneLayer([[-1.0, 2.0, -3.0], [-0.5, -1.0, 1.0]])
    both = generic_attention(model, inputs, targets) + generic_attention(opposite, inputs, targets)
    close(both, terms.abs().mean(1)[:, 1:].reshape(3, 1, 4, 6))


def test_the_logit_is_explained_and_not_the_softmax():
    """With one layer the map is linear in the logit, and another class's logit has no part in it."""
    model, (inputs, targets) = Vit(depth=1), images()
    maps = generic_attention(model, inputs, targets)
    with torch.no_grad():
        model.head.weight *= 2
    close(generic_attention(model, inputs, targets), 2 * maps)
    with torch.no_grad():
        model.head.weight[4] += 100
    close(generic_attention(model, inputs, targets), 2 * maps)
    assert ((generic_attention(model, inputs, targets + 1) - 2 * maps).flatten(1).abs().amax(1) > 1e-3).all()


def test_rollout_is_the_same_for_every_class():
    model, (inputs, targets) = Vit(), images()
    assert torch.equal(attention_rollout(model, inputs, targets), attention_rollout(model, inputs, targets + 1))


class Brightest(nn.Module):
    """Every token looks for bright patches, and the logits are what the class token has found."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()).double())

    def forward(self, x):
        means = functional.avg_pool2d(x, PATCH).flatten(1)
        tokens = torch.cat([means.mean(1, keepdim=True), means], 1)[:, None, :, None]
        query = self.factor * torch.ones_like(tokens)
        found = functional.scaled_dot_product_attention(query, 20 * tokens, tokens)
        return found[:, 0, 0].expand(-1, CLASSES)


@every_method
def test_the_map_lies_where_the_network_looks_and_follows_it(name):
    inputs, places = torch.zeros(15, 1, 3 * PATCH, 5 * PATCH).double(), [(r, c) for r in range(3) for c in range(5)]
    for image, (row, column) in zip(inputs[:, 0], places, strict=True):
        image[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 1
    maps = METHODS[name](Brightest(), inputs, torch.zeros(15).long())
    for values, image in zip(maps[:, 0], inputs[:, 0], strict=True):
        assert values[image == 1].max() > values[image == 0].max() + 1e-3


# The contract.


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_shape_dtype_and_sign(name, dtype, count):
    maps = METHODS[name](Vit().to(dtype), *images(count))
    assert maps.shape == (count, 1, *SHAPE[1:])
    assert maps.dtype == dtype
    assert not maps.requires_grad
    assert (maps >= 0).all()
    assert count == 0 or maps.flatten(1).amax(1).min() > 0


@every_method
def test_weights_in_single_precision_inside_a_double_network_do_not_change_the_dtype(name):
    def attend(mha, x):
        return written_out(mha, x, lambda scores: scores.softmax(-1, dtype=torch.float32).to(scores))

    inputs, targets = images()
    maps = METHODS[name](Vit(attend), inputs, targets)
    assert maps.dtype == torch.float64
    close(maps, METHODS[name](Vit(), inputs, targets), 1e-5)


@every_method
@pytest.mark.parametrize("style", ["module", "fused", "method"])
def test_a_samples_map_does_not_depend_on_its_batch(name, style):
    model, (inputs, targets) = Vit(style), images(7)
    together = METHODS[name](model, inputs, targets)
    parts = [METHODS[name](model, inputs[part], targets[part]) for part in (slice(0, 3), slice(3, 6), slice(6, 7))]
    torch.testing.assert_close(torch.cat(parts), together, rtol=1e-12, atol=1e-14)
    crowded = torch.cat([inputs[:1], 1e3 * inputs[1:]])
    torch.testing.assert_close(METHODS[name](model, crowded, targets)[0], together[0], rtol=1e-12, atol=1e-14)


@every_method
def test_the_same_call_gives_the_same_bits_whatever_the_mode_and_the_callers_gradients(name):
    model, (inputs, targets) = Vit(), images()
    expected = METHODS[name](model.eval(), inputs, targets)
    state = torch.get_rng_state()
    for context in (torch.no_grad, torch.inference_mode, contextlib.nullcontext):
        with context():
            assert torch.equal(METHODS[name](model.train(), inputs * 1, targets * 1).clone(), expected)
    assert torch.equal(state, torch.get_rng_state())


@every_method
def test_the_network_and_the_callers_tensors_are_left_as_they_were(name):
    model, (inputs, targets) = Vit(), images()
    model.attention[0].eval()
    model.head.weight.requires_grad_(False)
    inputs.requires_grad_()
    copy, state = inputs.detach().clone(), {key: value.clone() for key, value in model.state_dict().items()}

    def flags():
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        return (
            hooks,
            [module.training for module in model.modules()],
            [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        )

    before = flags()
    METHODS[name](model, inputs, targets)
    model.style = lambda mha, x: mha(x, x, x[:, :-1])[0]
    with pytest.raises((RuntimeError, AssertionError)):
        METHODS[name](model, inputs, targets)
    assert flags() == before
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(inputs, copy)
    assert inputs.grad is None
    assert torch.ones(1, 1, 2, 2).softmax(-1).requires_grad is False, "still watched"


@every_method
@pytest.mark.parametrize(
    ("turn", "words"),
    [(lambda y: (y, y), "tuple"), (lambda y: y[:, :, None], r"\(3, 5, 1\)"), (lambda y: y[:, 0], r"\(3,\)")],
)
def test_an_output_that_is_no_logits_is_refused(name, turn, words):
    model, inner = Vit(), Vit.forward
    model.forward = lambda x: turn(inner(model, x))
    with pytest.raises(ValueError, match=f"`model`.*{words}"):
        METHODS[name](model, *images())


@every_method
@pytest.mark.parametrize("targets", [torch.full((3,), CLASSES), torch.full((3,), -1), torch.zeros(2).long()])
def test_targets_that_are_no_classes_are_refused(name, targets):
    with pytest.raises(ValueError, match="`targets`"):
        METHODS[name](Vit(), images()[0], targets)


def test_logits_without_a_derivative_have_no_generic_attention():
    model, inner = Vit(), Vit.forward
    model.forward = lambda x: inner(model, x).detach()
    with pytest.raises(ValueError, match=r"`model`.*differentiated"):
        generic_attention(model, *images())
