"""The small vision transformer: its parts as published, the sizes that it takes, and that it learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from salcore.errors import UserError
from salcore.models import build, builder, check
from salcore.models.small_vit import small_vit
from salcore.seeds import forked, generator
from salcore.spec import ModelSpec


def make(shape=(1, 28, 28), classes=10, **settings):
    with forked(0):
        return build(ModelSpec(name="small_vit", **settings), input_shape=shape, classes=classes)


def draw(*shape):
    return torch.randn(shape, generator=generator(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("shape", "patch", "tokens"), [((1, 28, 28), 4, 50), ((3, 32, 16), 8, 9), ((2, 5, 7), 1, 36), ((5, 12, 4), 4, 4)]
)
def test_every_shape_that_the_patch_divides_is_taken(shape, patch, tokens):
    check(ModelSpec(name="small_vit", patch=patch), shape, 7)
    network = make(shape, 7, patch=patch)
    assert network.positions.shape == (1, tokens, 64)
    for mode in (True, False):
        assert network.train(mode)(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize(
    ("shape", "patch", "words"),
    [
        ((1, 30, 30), 4, r"such as 4 \(its smallest\) or 32.*got '30 x 30'"),
        ((1, 28, 30), 4, r"such as 4 \(its smallest\) or 32.*got '28 x 30'"),
        ((3, 7, 7), 8, "8 or more, the smallest square that small_vit takes, got '7 x 7'"),
    ],
)
def test_a_size_that_the_patch_does_not_divide_is_refused_with_those_that_it_does(shape, patch, words):
    with pytest.raises(UserError, match=words) as error:
        check(ModelSpec(name="small_vit", patch=patch), shape, 10)
    assert error.value.key == "data.image_size"
    with pytest.raises(ValueError, match="`input_shape`: expected sides that are multiples of"):
        small_vit(input_shape=shape, classes=10, patch=patch)


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"heads": 3}, "model.heads", "a divisor of the width 64, got 3"),
        ({"width": 6}, "model.heads", "a divisor of the width 6, got 4"),
        ({"depth": 0}, "model.depth", "a whole number of 1 or more"),
        ({"patch": 0}, "model.patch", "a whole number of 1 or more"),
        ({"dropout": 1.0}, "model.dropout", "a number from 0 to below 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, key, words):
    with pytest.raises(UserError, match=words) as error:
        check(ModelSpec(name="small_vit", **settings), (1, 8, 8), 10)
    assert error.value.key == key


def test_the_logits_are_those_of_the_published_equations():
    """One block, patch by patch and head by head: z = z + MSA(LN z), z = z + MLP(LN z), logits = W LN z_class + b."""
    network = make((2, 4, 6), 3, depth=1, width=6, heads=2, patch=2).double().eval()
    image, block = draw(1, 2, 4, 6), network.blocks[0]
    patches = [image[0, :, r : r + 2, c : c + 2].flatten() for r in (0, 2) for c in (0, 2, 4)]
    weight = network.patches.weight.flatten(1)
    tokens = torch.stack([network.class_token[0, 0]] + [weight @ patch + network.patches.bias for patch in patches])
    tokens = tokens + network.positions[0]

    given, attention = block.norm1(tokens), block.attention
    q, k, v = functional.linear(given, attention.in_proj_weight, attention.in_proj_bias).chunk(3, 1)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        heads.append((q[:, part] @ k[:, part].T / 3**0.5).softmax(1) @ v[:, part])
    tokens = tokens + attention.out_proj(torch.cat(heads, 1))
    tokens = tokens + block.layers[2](functional.gelu(block.layers[0](block.norm2(tokens))))
    expected = network.head.weight @ network.norm(tokens)[0] + network.head.bias
    torch.testing.assert_close(network(image)[0], expected, rtol=1e-12, atol=1e-12)


def test_it_has_the_parts_that_it_is_asked_for():
    network = make(width=12, depth=3, heads=2, expansion=5, dropout=0.25)
    attentions = [module for module in network.modules() if isinstance(module, nn.MultiheadAttention)]
    assert [(attention.embed_dim, attention.num_heads) for attention in attentions] == [(12, 2)] * 3
    assert [block.layers[0].out_features for block in network.blocks] == [60] * 3
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.25}
    inputs = torch.rand(3, 1, 28, 28)
    assert torch.equal(network.eval()(inputs), network(inputs))
    assert not torch.equal(network.train()(inputs), network(inputs))


def test_an_untrained_network_has_a_gradient_to_explain():
    inputs = torch.rand(2, 1, 28, 28, requires_grad=True)
    make().eval()(inputs)[:, 0].sum().backward()
    assert inputs.grad.flatten(1).abs().amax(1).min() > 1e-4


def test_where_a_patch_lies_matters():
    """Without positions the class token would take the patches in any order."""
    network, image = make((1, 8, 8)).double().eval(), draw(1, 1, 8, 8)
    moved = torch.cat([image[..., 4:], image[..., :4]], 3)
    difference = (network(image) - network(moved)).abs().max()
    with torch.no_grad():
        network.positions.zero_()
    assert (network(image) - network(moved)).abs().max() < 1e-12
    assert difference > 1e-4


def test_it_learns_which_side_is_bright():
    network, noise = make((1, 8, 8), 2, width=16, depth=1, heads=2), generator(3)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(40):
        labels = torch.randint(2, (32,), generator=noise)
        images = 0.3 * torch.randn(32, 1, 8, 8, generator=noise)
        for image, label in zip(images[:, 0], labels, strict=True):
            image[:, 4 * label : 4 * label + 4] += 1
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_the_name_stands_for_it():
    assert builder("small_vit") is small_vit
