"""What every method in METHODS promises, proved for each: a new line in METHODS is tested from its first day."""

import pytest
import torch
from torch import nn

from salcore.attribution import METHODS, check_settings, inner_seed, non_negative
from salcore.errors import UserError
from salcore.models import build
from salcore.seeds import forked
from salcore.settings import settings_of
from salcore.spec import ModelSpec
from tests.needed import needed
from tests.oracles import numeric_gradient

CHANNELS, SIDE, CLASSES = 2, 8, 5
LOOKING_AT_ATTENTION = ("attention_rollout", "generic_attention")
OF_THE_LOSS = ("input_space_saliency",)  # what it explains is made of the loss, not of a logit
BLACK_BOX = ("kernel_shap", "lime", "attention_rollout")  # they need no gradient
CHEAP = {
    "smoothgrad": {"num_samples": 3},
    "integrated_gradients": {"num_steps": 4},
    "deepshap": {"num_baselines": 2},
    "gradient_shap": {"num_samples": 3},
    "kernel_shap": {"num_superpixels": 4},
    "lime": {"num_superpixels": 4, "num_samples": 16},
}
every_method = pytest.mark.parametrize("name", METHODS)
signed_method = pytest.mark.parametrize("name", [name for name in METHODS if not non_negative(name, {})])


def network(name, dtype=torch.float64, **settings):
    """Small, with all that behaves otherwise in training: batch-norm with real statistics, and dropout.

    Methods that look at attention get a transformer, which has dropout alone.
    """
    cnn = ModelSpec(name="small_cnn", **({"width": 6, "norm": "batch", "dropout": 0.5} | settings))
    spec = ModelSpec(name="small_vit", width=8, depth=2, dropout=0.5) if name in LOOKING_AT_ATTENTION else cnn
    with forked(0):
        model = build(spec, input_shape=(CHANNELS, SIDE, SIDE), classes=CLASSES)
        with torch.no_grad():
            model.train()(torch.randn(64, CHANNELS, SIDE, SIDE) * 2 + 1)
    return model.to(dtype)


def batch(count=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, CHANNELS, SIDE, SIDE, generator=generator, dtype=dtype)
    return inputs, torch.arange(count) % CLASSES


def attribute(name, model, inputs, targets, **settings):
    return METHODS[name](model, inputs, targets, **(CHEAP.get(name, {}) | needed(name, model) | settings))


def fingerprint(model):
    """Everything of a model that an attribution may not change."""
    hooks = [
        (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for module in model.modules()
    ]
    return (
        hooks,
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def assert_same(before, after):
    for one, other in zip(before[:3], after[:3], strict=True):
        assert one == other
    for one, other in zip(before[3], after[3], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert before[4].keys() == after[4].keys()
    assert all(torch.equal(before[4][name], after[4][name]) for name in before[4])


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_follow_the_model(name, dtype):
    inputs, targets = batch(dtype=torch.float32)
    maps = attribute(name, network(name, dtype), inputs, targets)
    assert maps.shape in [(7, CHANNELS, SIDE, SIDE), (7, 1, SIDE, SIDE)]
    assert maps.dtype == dtype
    assert not maps.requires_grad
    assert maps.isfinite().all()
    assert maps.flatten(1).abs().amax(1).min() > 0


@signed_method
def test_maps_are_signed(name):
    maps = attribute(name, network(name), *batch(16))
    assert maps.min() < 0 < maps.max()


@pytest.mark.parametrize("name", LOOKING_AT_ATTENTION)
def test_maps_that_are_never_negative_are_said_to_be(name):
    assert non_negative(name, {})
    assert non_negative("smoothgrad", {"of": name})
    assert non_negative("smoothgrad", {"squared": True})
    assert not non_negative("smoothgrad", {"squared": False})
    assert attribute(name, network(name), *batch(16)).min() >= 0


@every_method
def test_a_samples_map_does_not_depend_on_its_batch(name):
    model, (inputs, targets) = network(name), batch()
    together = attribute(name, model, inputs, targets)
    tails = [attribute(name, model, inputs[part], targets[part]) for part in (slice(0, 3), slice(3, 6), slice(6, 7))]
    torch.testing.assert_close(torch.cat(tails), together, rtol=1e-12, atol=1e-14)
    turned = attribute(name, model, inputs.flip(0), targets.flip(0)).flip(0)
    torch.testing.assert_close(turned, together, rtol=1e-12, atol=1e-14)


@every_method
def test_a_sample_beside_huge_neighbours_keeps_its_map(name):
    model, (inputs, targets) = network(name), batch()
    crowded = inputs.clone()
    crowded[1:] *= 1e3
    torch.testing.assert_close(
        attribute(name, model, crowded, targets)[0], attribute(name, model, inputs, targets)[0], rtol=1e-12, atol=1e-14
    )


@every_method
def test_the_same_call_gives_the_same_bits_and_touches_no_global_generator(name):
    model, (inputs, targets) = network(name, torch.float32), batch(dtype=torch.float32)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = attribute(name, model, inputs, targets)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, attribute(name, model, inputs, targets))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "attention_rollout"])
def test_each_target_has_its_own_map(name):
    model, (inputs, targets) = network(name), batch()
    other = attribute(name, model, inputs, (targets + 1) % CLASSES)
    assert ((attribute(name, model, inputs, targets) - other).flatten(1).abs().amax(1) > 1e-6).all()


def test_rollout_is_the_same_for_all_targets():
    model, (inputs, targets) = network("attention_rollout"), batch()
    one, other = (attribute("attention_rollout", model, inputs, each) for each in (targets, (targets + 1) % CLASSES))
    assert torch.equal(one, other)


@every_method
def test_the_mode_is_evaluation_whatever_the_model_is_in(name):
    model, (inputs, targets) = network(name), batch()
    evaluated = attribute(name, model.eval(), inputs, targets)
    assert torch.equal(attribute(name, model.train(), inputs, targets), evaluated)


@pytest.mark.parametrize("name", [each for each in METHODS if each not in OF_THE_LOSS and not non_negative(each, {})])
def test_the_logit_is_explained_and_not_the_softmax(name):
    """Doubling all logits doubles the map of a logit exactly, and that of a softmax not."""

    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    model, (inputs, targets) = network(name), batch()
    layer = {"layer": "features.relu2"} if name == "gradcam" else {}
    doubled = {"layer": "inner.features.relu2"} if name == "gradcam" else {}
    torch.testing.assert_close(
        attribute(name, Doubled(model), inputs, targets, **doubled),
        2 * attribute(name, model, inputs, targets, **layer),
        rtol=1e-12,
        atol=1e-14,
    )


def mixed_modes(model):
    """Modes and flags that a careless restore would level: a frozen part in evaluation, the rest in training."""
    model.train()
    first, *_, last = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm))
    first.eval()
    first.weight.requires_grad_(False)
    last.weight.grad = torch.ones_like(last.weight)
    last.register_forward_hook(lambda module, arguments, output: None)
    return model


@every_method
def test_the_model_and_the_callers_tensors_are_left_as_they_were(name):
    model, (inputs, targets) = mixed_modes(network(name)), batch()
    inputs.requires_grad_()
    copies, before = (inputs.detach().clone(), targets.clone()), fingerprint(model)
    attribute(name, model, inputs, targets)
    assert_same(before, fingerprint(model))
    assert torch.equal(inputs, copies[0])
    assert torch.equal(targets, copies[1])
    assert inputs.grad is None
    assert inputs.requires_grad


class Stubborn(nn.Sequential):
    """A user's model whose `train` keeps its norms in evaluation mode, as fine-tuning code does."""

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.training = False
        return self


@every_method
def test_modes_are_put_back_one_by_one_past_a_models_own_train(name):
    model = Stubborn(network(name))
    model[0].train()
    before = fingerprint(model)
    attribute(name, model, *batch())
    assert_same(before, fingerprint(model))


class Failing(nn.Module):
    """Fails in the forward or the backward pass, on demand."""

    def __init__(self, inner, where):
        super().__init__()
        self.inner, self.where = inner, where

    def forward(self, x):
        output = self.inner(x)
        if self.where == "forward":
            raise RuntimeError("broke")
        if output.requires_grad:
            output.register_hook(self.fail)
        return output

    def fail(self, gradient):
        raise RuntimeError("broke")


FAILURES = [(name, where) for where in ("forward", "backward") for name in METHODS]


@pytest.mark.parametrize(
    ("name", "where"), [each for each in FAILURES if each[1] == "forward" or each[0] not in BLACK_BOX]
)
def test_the_model_is_put_back_after_a_failure_too(name, where):
    inputs, targets = batch()
    model = Failing(mixed_modes(network(name)), where)
    before = fingerprint(model)
    settings = {"layer": "inner.features.relu2"} if name == "gradcam" else {}
    with pytest.raises(RuntimeError, match="broke"):
        attribute(name, model, inputs, targets, **settings)
    assert_same(before, fingerprint(model))


@every_method
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_the_caller_records_no_gradients(name, context):
    model, (inputs, targets) = network(name), batch()
    expected = attribute(name, model, inputs, targets)
    with context():
        maps = attribute(name, model, inputs * 1, targets * 1)
    torch.testing.assert_close(maps.clone(), expected, rtol=0, atol=0)


@every_method
def test_a_model_that_works_in_place_on_its_input_gives_the_same_and_writes_to_nothing(name):
    plain, in_place = (nn.Sequential(nn.ReLU(inplace=inplace), network(name)) for inplace in (False, True))
    inputs, targets = batch()
    copy = inputs.clone()
    torch.testing.assert_close(
        attribute(name, in_place, inputs, targets), attribute(name, plain, inputs, targets), rtol=0, atol=0
    )
    assert torch.equal(inputs, copy)


class Returning(nn.Module):
    """A convolution whose output is turned into something."""

    def __init__(self, turn):
        super().__init__()
        self.layer, self.turn = nn.Conv2d(CHANNELS, CLASSES, 3), turn

    def forward(self, x):
        return self.turn(self.layer(x))


@every_method
@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda y: (y.mean((2, 3)), y), "tuple"),
        (lambda y: y, r"\(7, 5, 6, 6\)"),
        (lambda y: y.mean((0, 2, 3)), r"\(5,\)"),
    ],
)
def test_an_output_that_is_no_logits_is_refused(name, turn, words):
    model = Returning(turn)
    before = fingerprint(model)
    with pytest.raises(ValueError, match=f"`model`.*{words}"):
        attribute(name, model, *batch())
    assert_same(before, fingerprint(model))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BLACK_BOX])
def test_logits_without_a_gradient_are_refused(name):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network(name)

        def forward(self, x):
            return self.inner(x).detach()

    settings = {"layer": "inner.features.relu2"} if name == "gradcam" else {}
    with pytest.raises(ValueError, match=r"`model`.*(differentiated|that it does not depend on)"):
        attribute(name, Detached(), *batch(), **settings)


@every_method
@pytest.mark.parametrize(
    "targets",
    [
        torch.full((7,), CLASSES),
        torch.full((7,), -1),
        torch.zeros(6, dtype=torch.int64),
        torch.zeros(7),
        torch.zeros(7, 1).long(),
    ],
    ids=["too high", "negative", "too few", "floating", "a column"],
)
def test_targets_that_are_no_classes_are_refused(name, targets):
    model = mixed_modes(network(name))
    before = fingerprint(model)
    with pytest.raises(ValueError, match="`targets`"):
        attribute(name, model, batch()[0], targets)
    assert_same(before, fingerprint(model))


@every_method
def test_defaults_pass_their_own_check(name):
    check_settings(name, {})


@pytest.mark.parametrize("name", [name for name in METHODS if name != "smoothgrad"])
def test_smoothgrad_goes_around_every_method_and_without_noise_is_that_method(name):
    model, (inputs, targets) = network(name), batch(3)
    drawn = {"seed": 4} if "seed" in settings_of(METHODS[name]) else {}
    settings = CHEAP.get(name, {}) | needed(name, model) | drawn
    smooth = {"of": {"name": name, **settings}, "noise_level": 0.0, "num_samples": 2}
    own = {"seed": inner_seed(0, settings)} if "seed" in settings else {}
    expected = METHODS[name](model, inputs, targets, **settings | own)
    torch.testing.assert_close(METHODS["smoothgrad"](model, inputs, targets, **smooth), expected)


@pytest.mark.parametrize("of", ["smoothgrad", "gradients", {"num_samples": 3}])
def test_smoothgrad_names_what_it_cannot_go_around(of):
    with pytest.raises(ValueError, match=r"`of`: expected one of gradient, "):
        METHODS["smoothgrad"](network("gradient"), *batch(), of=of)


def test_sums_do_not_stall_in_half_precision():
    """SmoothGrad of a linear network is its gradient, however many draws are summed."""
    with forked(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).bfloat16()
    inputs, targets = torch.ones(1, 3, 2, 2, dtype=torch.bfloat16), torch.zeros(1).long()
    weight = model[1].weight.detach()[:1].view(1, 3, 2, 2)
    maps = METHODS["smoothgrad"](model, inputs, targets, num_samples=512)
    torch.testing.assert_close(maps, weight, rtol=1e-2, atol=0)
    maps = METHODS["integrated_gradients"](model, inputs, targets, num_steps=512)
    torch.testing.assert_close(maps, weight, rtol=1e-2, atol=0)


@every_method
def test_the_callers_default_type_and_the_type_of_the_pixels_change_nothing(name):
    model, (inputs, targets) = network(name, torch.float32), batch(3)
    pixels = (inputs * 40 + 100).clamp(0, 255).to(torch.uint8)
    expected = attribute(name, model, pixels.float(), targets)
    torch.set_default_dtype(torch.float64)
    try:
        maps = attribute(name, model, pixels, targets)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(maps, expected)


@every_method
@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("inputs", lambda x, y: (x.numpy(), y)),
        ("targets", lambda x, y: (x, y.tolist())),
        ("targets", lambda x, y: (x, y > 1)),
    ],
    ids=["an array", "a list", "truth values"],
)
def test_what_is_no_tensor_of_the_kind_is_named(name, argument, change):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        attribute(name, network(name), *change(*batch()))


def test_a_model_made_in_inference_mode_is_left_as_it_was_where_torch_refuses_it():
    with torch.inference_mode():
        model = network("gradient")
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        attribute("gradient", model, *batch())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_laws_can_fail():
    """A method in training mode, and one that mixes samples, are told apart from a right one."""
    model, (inputs, targets) = network("gradient").train(), batch()

    def wrong(inputs):
        x = inputs.clone().requires_grad_()
        return torch.autograd.grad(model(x).softmax(1).gather(1, targets[: len(x), None]).sum(), x)[0]

    right = METHODS["gradient"](model, inputs, targets)
    assert not torch.allclose(wrong(inputs), right, rtol=1e-3)
    assert not torch.allclose(wrong(inputs[:3]), wrong(inputs)[:3], rtol=1e-3)


def test_the_gradient_is_that_of_finite_differences():
    model, (inputs, targets) = network("gradient", activation=False, pooling="average").eval(), batch(2)
    expected = numeric_gradient(model, inputs, targets)
    torch.testing.assert_close(METHODS["gradient"](model, inputs, targets), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("gradients", {}, "nearest: gradient"),
        ("gradient", {"steps": 3}, "`steps` of gradient to be one of no settings"),
        ("integrated_gradients", {"num_step": 3}, "nearest: num_steps"),
        ("integrated_gradients", {"num_steps": 0}, "a whole number of 1 or more"),
        ("integrated_gradients", {"num_steps": 2.5}, "a whole number of 1 or more"),
        ("integrated_gradients", {"rule": "trapezoid"}, "'gauss_legendre' or 'midpoint'"),
        (
            "integrated_gradients",
            {"baseline": "zeros"},
            "a number or 'zero' or 'mean' or 'blurred' or 'uniform' or null",
        ),
        ("smoothgrad", {"of": "smoothgrad"}, "`of`"),
        ("smoothgrad", {"of": "integrated_gradient"}, "nearest: integrated_gradients"),
        ("smoothgrad", {"num_samples": 0}, "a whole number of 1 or more"),
        ("smoothgrad", {"of": {"name": "lime", "num_samples": 0}}, "`num_samples` of lime"),
        ("smoothgrad", {"of": {"num_samples": 2}}, "`of`"),
        ("smoothgrad", {"noise_level": -0.1}, "a number of 0 or more"),
        ("smoothgrad", {"squared": 1}, "true or false"),
        ("smoothgrad", {"num_steps": 3}, "`num_steps` of gradient"),
        ("smoothgrad", {"of": "integrated_gradients", "num_steps": "3"}, "`num_steps` of integrated_gradients"),
        ("gradcam", {"layer": 3}, "a text or null"),
        ("gradcam", {"relu": "yes"}, "true or false"),
    ],
)
def test_settings_of_a_spec_are_checked(name, settings, words):
    with pytest.raises(UserError, match=words) as error:
        check_settings(name, settings)
    assert error.value.key == "attribution.methods"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("smoothgrad", {"of": "integrated_gradients", "num_samples": 16, "num_steps": 4}),
        ("smoothgrad", {"of": {"name": "lime", "num_samples": 99}, "num_samples": 2, "penalty": "ridge"}),
        ("smoothgrad", {"of": "gradcam", "layer": "features", "noise_level": 1}),
        ("integrated_gradients", {"baseline": None, "rule": "midpoint"}),
        ("integrated_gradients", {"baseline": 0.5}),
        ("gradcam", {"layer": "layer2", "relu": True}),
    ],
)
def test_right_settings_pass(name, settings):
    check_settings(name, settings)
