"""Objectives against Algorithm 1 re-derived slowly, and against what each option says."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from salcore.models import build
from salcore.objectives.guided import guided
from salcore.objectives.standard import standard
from salcore.seeds import forked, generator
from salcore.spec import GuidanceSpec, ModelSpec
from tests import objectives
from tests.oracles import guided_loss, masked_image, numeric_gradient

SHAPE, CLASSES, COUNT = (2, 5, 4), 3, 4


def network(name="small_cnn", shape=SHAPE, **settings):
    with forked(0):
        return build(ModelSpec(name=name, **settings), input_shape=shape, classes=CLASSES).double().train()


def batch(shape=SHAPE, count=COUNT):
    inputs = torch.randn(count, *shape, generator=generator(1), dtype=torch.float64)
    return inputs, torch.arange(count) % CLASSES


def loss_of(model, inputs, labels, seed=0, **options):
    return guided(model, inputs, labels, guidance=GuidanceSpec(**options), generator=generator(seed))


def slow_masked(model, inputs, labels, fraction=0.5, ranking="signed", of="logit", fill="uniform", seed=0):
    """The masked batch by Algorithm 1: numeric gradients, one image and one position at a time."""
    output = nn.Sequential(model, nn.LogSoftmax(1)) if of == "log_probability" else model
    gradient = numeric_gradient(output, inputs, labels).numpy()
    if fill == "uniform":
        draws = torch.rand(inputs.shape, generator=generator(seed), dtype=torch.float64).numpy()
    else:
        low, high = (inputs.amin((2, 3), keepdim=True), inputs.amax((2, 3), keepdim=True))
        draws = ((inputs[:, :, :1, :1] - low) / (high - low)).expand_as(inputs).numpy()
    count = int(fraction * SHAPE[1] * SHAPE[2])
    images = [
        masked_image(image, one, count, draw, ranking == "magnitude")
        for image, one, draw in zip(inputs.numpy(), gradient, draws, strict=True)
    ]
    return torch.from_numpy(np.stack(images))


@pytest.mark.parametrize("ranking", ["signed", "magnitude"])
@pytest.mark.parametrize("of", ["logit", "log_probability"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("fill", ["uniform", "background"])
def test_guided_loss_is_that_of_the_slow_algorithm(ranking, of, mode, fill):
    model, (inputs, labels) = network(), batch()
    masked = slow_masked(model, inputs, labels, ranking=ranking, of=of, fill=fill)
    with torch.no_grad():
        expected = guided_loss(model(inputs).numpy(), model(masked).numpy(), labels.numpy(), 0.7)
    loss = loss_of(model, inputs, labels, weight=0.7, ranking=ranking, of=of, mode=mode, fill=fill)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_the_options_are_told_apart_by_the_test_above():
    """Every choice masks other positions on this batch, so that no option can stand in for another."""
    model, (inputs, labels) = network(), batch()
    masked = [
        slow_masked(model, inputs, labels, ranking=ranking, of=of)
        for ranking in ("signed", "magnitude")
        for of in ("logit", "log_probability")
    ]
    for one in range(4):
        for other in range(one):
            assert not torch.equal(masked[one], masked[other])


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_flows_through_both_outputs_unless_detached(detach):
    model, (inputs, labels) = network(), batch()
    masked = slow_masked(model, inputs, labels)
    logits, masked_logits = model(inputs), model(masked)
    p, q = logits.softmax(1), masked_logits.softmax(1)
    target = p.detach() if detach else p
    expected = functional.cross_entropy(logits, labels) + 2 * (target * (target / q).log()).sum(1).mean()
    loss = loss_of(model, inputs, labels, weight=2.0, detach_target=detach)
    slow = torch.autograd.grad(expected, list(model.parameters()))
    fast = torch.autograd.grad(loss, list(model.parameters()))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_detaching_changes_the_gradient():
    model, (inputs, labels) = network(), batch()
    both, one = (
        torch.autograd.grad(loss_of(model, inputs, labels, detach_target=detach), list(model.parameters()))
        for detach in (False, True)
    )
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(both, one, strict=True))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_masking_nothing_leaves_the_divergence_of_two_passes_in_training_mode(mode):
    """Under dropout the two differ. The ranking in evaluation mode draws no dropout, so both modes give the same."""
    model, (inputs, labels) = network(dropout=0.5), batch()
    torch.manual_seed(0)
    first, second = model(inputs), model(inputs)
    divergence = (first.softmax(1) * (first.log_softmax(1) - second.log_softmax(1))).sum(1).mean()
    expected = functional.cross_entropy(first, labels) + 3 * divergence
    torch.manual_seed(0)
    loss = loss_of(model, inputs, labels, mask_fraction=0.0, weight=3.0, mode=mode)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert divergence > 1e-5


def test_without_weight_it_is_the_standard_objective():
    model, (inputs, labels) = network(), batch()
    torch.testing.assert_close(loss_of(model, inputs, labels, weight=0.0), standard(model, inputs, labels))


def test_standard_is_the_mean_negative_log_likelihood_of_logits():
    model, (inputs, labels) = network(), batch()
    probabilities = model(inputs).softmax(1)[torch.arange(COUNT), labels]
    torch.testing.assert_close(standard(model, inputs, labels), -probabilities.log().mean())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_sees_the_clean_and_the_masked_batch_once_each(mode):
    model, (inputs, labels) = network(norm="batch"), batch()
    loss_of(model, inputs, labels, mode=mode)
    assert [module.num_batches_tracked.item() for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == [
        2,
        2,
    ]


def test_ranking_in_evaluation_mode_uses_the_running_statistics():
    """The two modes rank otherwise where batch-norm's statistics and the batch's differ."""
    model, (inputs, labels) = network(norm="batch"), batch()
    with torch.no_grad():
        model.features.norm1.running_mean += torch.linspace(-3, 3, 16)
    losses = [loss_of(copy.deepcopy(model), inputs, labels, mode=mode).item() for mode in ("train", "eval")]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("name", objectives.PLAIN)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nothing_of_the_callers_is_changed(name, mode):
    model, (inputs, labels) = network(norm="batch", dropout=0.5), batch()
    model.features.norm2.eval()
    model.features.conv1.weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    copies = inputs.clone(), labels.clone()
    loss = objectives.loss(name, model, inputs, labels, guidance=GuidanceSpec(mode=mode), generator=generator(0))
    assert loss.shape == ()
    loss.backward()
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(inputs, copies[0])
    assert torch.equal(labels, copies[1])
    assert not inputs.requires_grad
    assert inputs.grad is None
    assert model.features.conv1.weight.grad is None
    assert model.features.conv2.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_networks_with_relus_in_place_can_be_guided(name, mode):
    """Compared with the same network whose ReLUs are not in place: an overwritten activation would show."""
    shape = (3, 32, 32)
    model, (inputs, labels) = network(name, shape), batch(shape, 2)
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    gradients = []
    for one in (model, plain):
        torch.manual_seed(0)
        loss = loss_of(one, inputs, labels, mode=mode)
        gradients.append(torch.autograd.grad(loss, list(one.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", objectives.PLAIN)
def test_bfloat16_autocast_gives_a_float32_loss_near_the_exact_one(name):
    model, (inputs, labels) = network(shape=(1, 8, 8)).float(), batch((1, 8, 8), 32)
    options = {"guidance": GuidanceSpec(mask_fraction=0.0, detach_target=True), "generator": generator(0)}
    exact = objectives.loss(name, model, inputs.float(), labels, **options)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objectives.loss(name, model, inputs.float(), labels, **options)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_autocast_with_masking_gives_every_weight_its_gradient(mode):
    model, (inputs, labels) = network(shape=(1, 8, 8)).float(), batch((1, 8, 8), 32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, inputs.float(), labels, mode=mode)
    loss.backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(("mode", "passes"), [("train", 7), ("eval", 8)])
def test_a_guided_step_costs_what_it_says(mode, passes):
    """In units of a forward pass, beside the 3 of a standard step; the first layer's input gradient is the rest."""
    with torch.device("meta"):  # operations are counted by their shapes
        model = network("resnet18", (3, 32, 32))
        inputs, labels = torch.zeros(8, 3, 32, 32, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)

    def work(objective, **options):
        with FlopCounterMode(display=False) as counter:
            objective(model, inputs, labels, **options).backward()
        return counter.get_total_flops()

    guidance = {"guidance": GuidanceSpec(mode=mode), "generator": generator(0)}
    assert work(guided, **guidance) / work(standard) == pytest.approx(passes / 3, rel=0.02)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("of", ["logit", "log_probability"])
def test_no_value_is_read_back_from_the_device(mode, of):
    """The meta device has no values: whatever would wait for a GPU's raises here."""
    with torch.device("meta"):
        model = network(norm="batch")
        inputs, labels = torch.zeros(4, *SHAPE, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    loss_of(model, inputs, labels, mode=mode, of=of).backward()


def test_draws_depend_on_the_generator_alone():
    model, (inputs, labels) = network(), batch()
    assert loss_of(model, inputs, labels, seed=1).item() == loss_of(model, inputs, labels, seed=1).item()
    assert loss_of(model, inputs, labels, seed=1).item() != loss_of(model, inputs, labels, seed=2).item()
    states = []
    for fraction in (0.1, 0.9):
        draws = generator(1)
        guided(model, inputs, labels, guidance=GuidanceSpec(mask_fraction=fraction), generator=draws)
        states.append(draws.get_state())
    assert torch.equal(*states), "the number of draws depends on what is masked"
