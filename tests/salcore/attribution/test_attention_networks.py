"""Attention seen without editing the network: it computes the same, and what cannot be seen right is refused."""

import contextlib

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from salcore.attribution.attention import attended
from salcore.attribution.attention_rollout import attention_rollout
from salcore.attribution.autograd import prepared, select
from salcore.attribution.generic_attention import generic_attention
from salcore.models import build
from salcore.models.small_vit import small_vit
from salcore.seeds import forked, generator
from salcore.spec import ModelSpec
from tests.vits import CLASSES, PATCH, STYLES, Vit, close, images, joined, split

METHODS = {"attention_rollout": attention_rollout, "generic_attention": generic_attention}
every_method = pytest.mark.parametrize("name", METHODS)


def watched(model, inputs, targets):
    """The weights that `attended` shows, and the logits that the network puts out while it is watched."""
    seen, logits = [], []
    handle = model.register_forward_hook(lambda module, given, output: logits.append(output.detach()))
    with prepared(model, inputs, targets) as (inputs, targets):
        attended(model, inputs, targets, lambda weights: seen.append(weights.detach().clone()))
    handle.remove()
    return seen, logits[0]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("class_token", [True, False])
def test_every_style_of_attention_gives_the_same_logits_weights_and_maps(style, class_token):
    reference, model = Vit("method", class_token), Vit(style, class_token)
    inputs, targets = images()
    seen, logits = watched(model, inputs, targets)
    with torch.enable_grad():  # without it torch takes a path of its own, which rounds otherwise
        close(logits, model.eval()(inputs).detach())
    for weights, expected in zip(seen, watched(reference, inputs, targets)[0], strict=True):
        close(weights, expected)
        close(weights.sum(-1), torch.ones(3, 2, weights.shape[2]).double())
    for method in METHODS.values():
        close(method(model, inputs, targets), method(reference, inputs, targets))


class Kinds(nn.MultiheadAttention):
    """Multi-head attention called in one of many ways, between patches and logits; what it tells is kept."""

    def __init__(self, call, **settings):
        super().__init__(6, 3, **settings)
        self.call = call
        with forked(2):
            self.patches, self.head = nn.Conv2d(2, 6, PATCH, PATCH), nn.Linear(6, CLASSES)
            for parameter in self.parameters():
                nn.init.normal_(parameter)
        self.double()

    def forward(self, x):
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)  # (T, N, D)
        output, self.told = self.call(super().forward, tokens)
        return self.head(output.sum(0))


FLOATS = torch.linspace(-2, 2, 36, dtype=torch.float64).reshape(6, 6)
CAUSAL = torch.ones(6, 6, dtype=torch.bool).triu(1)
PADDED = torch.tensor([[False] * 4 + [True] * 2] * 3)
KINDS = {
    "plain": (lambda mha, t: mha(t, t, t, need_weights=False), {}),
    "no bias": (lambda mha, t: mha(t, t, t, need_weights=False), {"bias": False}),
    "separate projections": (lambda mha, t: mha(t, t[..., :4], t[..., 1:], need_weights=False), {"kdim": 4, "vdim": 5}),
    "separate, no bias": (lambda mha, t: mha(t, t[..., :4], t, need_weights=False), {"kdim": 4, "bias": False}),
    "values of their own": (lambda mha, t: mha(t, t, t.sin(), need_weights=False), {}),
    "hidden pairs": (lambda mha, t: mha(t, t, t, need_weights=False, attn_mask=CAUSAL), {}),
    "causal": (lambda mha, t: mha(t, t, t, need_weights=False, attn_mask=CAUSAL, is_causal=True), {}),
    "added to scores": (lambda mha, t: mha(t, t, t, need_weights=False, attn_mask=FLOATS), {}),
    "hidden keys": (lambda mha, t: mha(t, t, t, key_padding_mask=PADDED, need_weights=False), {}),
    "mean told": (lambda mha, t: mha(t, t, t), {}),
    "all told": (lambda mha, t: mha(t, t, t, average_attn_weights=False), {"dropout": 0.5}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_multi_head_attention_computes_the_same_in_each_of_its_ways(kind):
    call, settings = KINDS[kind]
    model, (inputs, targets) = Kinds(call, **settings).eval(), images()
    seen, logits = watched(model, inputs, targets)
    told = model.told
    close(logits, model(inputs).detach())
    assert (told is None) == (model.told is None)
    if told is not None:
        close(told.detach(), model.told.detach())
    assert len(seen) == 1
    asked = {"need_weights": True, "average_attn_weights": False}
    model.call = lambda mha, t: call(lambda *parts, **options: mha(*parts, **(options | asked)), t)
    model(inputs)
    close(seen[0], model.told.detach())
    assert seen[0].shape == (3, 3, 6, 6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": ~torch.ones(7, 7, dtype=torch.bool).triu(2)},
        {"attn_mask": torch.randn(3, 1, 7, 7, generator=generator(4)).double(), "scale": 2.0},
    ],
    ids=["plain", "scale", "causal", "hidden", "added"],
)
def test_scaled_dot_product_attention_computes_the_same_in_each_of_its_ways(settings):
    def attend(mha, x):
        return mha.out_proj(joined(functional.scaled_dot_product_attention(*split(mha, x), **settings)))

    model, (inputs, targets) = Vit(attend).eval(), images()
    seen, logits = watched(model, inputs, targets)
    close(logits, model(inputs).detach())
    if "is_causal" in settings:
        assert not any(weights.triu(1).any() for weights in seen)


@contextlib.contextmanager
def count_fused_encoders(monkeypatch):
    """How often torch's encoder layer that runs as one operation, unseen by everything, was called."""
    counts, fused = [0], torch._transformer_encoder_layer_fwd

    def count(*arguments):
        counts[0] += 1
        return fused(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "_transformer_encoder_layer_fwd", count)
        yield counts


def test_torchs_fused_encoder_layer_is_not_taken_while_attention_is_watched(monkeypatch):
    with forked(1):
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
        model = nn.Sequential(nn.Conv2d(2, 8, 4, 4), nn.Flatten(2), Turn(), encoder, Mean(), nn.Linear(8, CLASSES))
    model, (inputs, targets) = model.double().eval(), images()
    with count_fused_encoders(monkeypatch) as counts, torch.no_grad():
        logits = model(inputs)
        assert counts == [3]
        seen = []
        close(attended(model, inputs, targets, seen.append), select(logits, targets))
        assert counts == [3]
    assert [tuple(weights.shape) for weights in seen] == [(3, 2, 6, 6)] * 3
    for method in METHODS.values():
        assert method(model, inputs, targets).flatten(1).amax(1).min() > 0


class Turn(nn.Module):
    def forward(self, x):
        return x.mT


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


# Torchvision's networks, and ours.


def with_random_head(model):
    """Torchvision starts a transformer's last layer at zero, where no logit depends on anything."""
    with forked(5):
        nn.init.normal_(model.heads.head.weight)
    return model


@pytest.mark.parametrize("size", [32, 64])
def test_torchvisions_vision_transformer_is_explained_without_being_edited(size):
    with forked(0):
        model = torchvision.models.VisionTransformer(size, 8, 2, 4, 16, 32, dropout=0.3, num_classes=CLASSES)
    model = with_random_head(model).double().eval()
    inputs, targets = images(3, (3, size, size))
    seen, logits = watched(model, inputs, targets)
    assert [tuple(weights.shape) for weights in seen] == [(3, 4, size**2 // 64 + 1, size**2 // 64 + 1)] * 2
    with torch.enable_grad():
        close(logits, model(inputs).detach())
    for method in METHODS.values():
        maps = method(model, inputs, targets)
        assert maps.shape == (3, 1, size, size)
        assert maps.flatten(1).amax(1).min() > 0


def test_vit_b_16_and_small_vit():
    with forked(0):
        large = with_random_head(torchvision.models.vit_b_16(weights=None, image_size=32, num_classes=CLASSES))
        small = small_vit(input_shape=(3, 32, 64), classes=CLASSES, depth=2)
    for model, shape, patches in ((large, (3, 32, 32), 4), (small, (3, 32, 64), 128)):
        inputs, targets = images(2, shape)
        seen, logits = watched(model, inputs, targets)
        assert {weights.shape[2:] for weights in seen} == {(patches + 1, patches + 1)}
        torch.testing.assert_close(logits, model.eval()(inputs.float()).detach(), rtol=1e-4, atol=1e-5)
        for method in METHODS.values():
            maps = method(model, inputs, targets)
            assert maps.shape == (2, 1, *shape[1:])
            assert maps.flatten(1).amax(1).min() > 0


# What cannot be explained is refused in one line that says what would work.


def refused(name, model, inputs, targets, words):
    with pytest.raises(ValueError, match=words) as error:
        METHODS[name](model, inputs, targets)
    message = str(error.value)
    assert message.startswith("`model`: expected ")
    assert "\n" not in message
    assert message.endswith("; gradient, integrated_gradients and gradcam work without attention")


@every_method
@pytest.mark.parametrize("network", ["small_cnn", "resnet18", "swin_t", "swin_v2_t"])
@pytest.mark.parametrize("size", [28, 64])
def test_torchvisions_other_networks_are_refused(name, network, size):
    """At 28 pixels every layer of Swin has one window of 7 x 7 tokens, mostly padding: only heads tell stages apart."""
    with forked(0):
        model = build(ModelSpec(name=network), input_shape=(3, size, size), classes=CLASSES)
    words = r"got \(.*windows" if network.startswith("swin") else "network without any"
    refused(name, model, *images(2, (3, size, size)), words)


def cross(mha, x):
    return mha(x, x[:, 1:], x[:, 1:], need_weights=False)[0]


def fused_cross(mha, x):
    q, k, v = split(mha, x)
    return mha.out_proj(joined(functional.scaled_dot_product_attention(q, k[:, :, 1:], v[:, :, 1:])))


def heads_in_the_batch(mha, x):
    q, k, v = (part.flatten(0, 1) for part in split(mha, x))
    weights = (q @ k.mT).softmax(-1)
    return mha.out_proj(joined((weights @ v).unflatten(0, (-1, 2))))


def half_the_tokens(mha, x):
    kept = mha(x[:, :4], x[:, :4], x[:, :4], need_weights=False)[0]
    return functional.pad(kept, (0, 0, 0, x.shape[1] - 4)) + mha(x, x, x)[0]


def scaled_with(**settings):
    return lambda mha, x: mha.out_proj(joined(functional.scaled_dot_product_attention(*split(mha, x), **settings)))


@every_method
@pytest.mark.parametrize(
    ("attend", "words"),
    [
        (cross, r"got \(3, 2, 7, 6\) \("),
        (fused_cross, r"got \(3, 2, 7, 6\)"),
        (heads_in_the_batch, r"got \(6, 7, 7\)"),
        (half_the_tokens, r"got \(4 tokens\) after 2 x 3 patches"),
        (scaled_with(dropout_p=0.1), "`dropout_p` = 0.1"),
        (scaled_with(enable_gqa=True), "`enable_gqa`"),
        (lambda mha, x: x, "network without any"),
    ],
    ids=["cross", "fused cross", "heads in the batch", "fewer tokens", "dropout", "shared keys", "none"],
)
def test_attention_that_is_not_between_the_same_tokens_is_refused(name, attend, words):
    refused(name, Vit(attend), *images(), words)


@every_method
@pytest.mark.parametrize(
    ("settings", "words"), [({"add_bias_kv": True}, "`bias_k`"), ({"add_zero_attn": True}, "`add_zero_attn`")]
)
def test_keys_that_no_token_stands_for_are_refused(name, settings, words):
    refused(name, Kinds(KINDS["plain"][0], **settings), *images(), words)


@every_method
def test_attention_that_drops_weights_in_evaluation_mode_is_refused(name):
    class Careless(nn.MultiheadAttention):
        def train(self, mode=True):
            return super().train(True)

    model = Vit()
    model.attention[0] = Careless(8, 2, dropout=0.2, batch_first=True).double()
    refused(name, model, *images(), "`dropout_p` = 0.2")


@every_method
def test_tokens_that_are_no_grid_of_the_image_are_refused(name):
    for class_token, tokens in ((True, 7), (False, 6)):
        model = Vit(class_token=class_token)
        model.patches = nn.Sequential(nn.AdaptiveAvgPool2d((8, 12)), model.patches)
        METHODS[name](model, *images(2, (2, 16, 24)))
        refused(name, model, *images(2, (2, 16, 16)), rf"16 x 16 image, got \({tokens} tokens\) after 2 x 3")


class Strips(nn.Module):
    """Attention over tokens from a convolution with patches of any shape."""

    def __init__(self, patch):
        super().__init__()
        with forked(0):
            self.patches = nn.Conv2d(3, 8, patch, stride=patch)
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


class SpatialSoftmax(nn.Module):
    """A network without attention, with a softmax over the columns of square maps."""

    def __init__(self):
        super().__init__()
        with forked(0):
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(1024, CLASSES)

    def forward(self, x):
        return self.head(self.conv(x).softmax(-1).flatten(1))


@pytest.mark.parametrize("name", ["attention_rollout", "generic_attention"])
@pytest.mark.parametrize("model", [Strips((2, 8)), SpatialSoftmax()], ids=["oblong patches", "a softmax of maps"])
def test_tokens_that_are_no_patches_of_the_image_are_refused(name, model):
    with pytest.raises(ValueError, match="a token for each patch"):
        METHODS[name](
            model,
            torch.randn(2, 3, 16, 16) if isinstance(model, SpatialSoftmax) else torch.randn(2, 3, 32, 32),
            torch.zeros(2).long(),
        )
    assert METHODS[name](Strips((4, 4)), torch.randn(2, 3, 32, 32), torch.zeros(2).long()).shape == (2, 1, 32, 32)
