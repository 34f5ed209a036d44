"""Training: the same bits whatever comes between, and the same numbers as a plain loop written out."""

import io
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from salcore import seeds, training
from salcore.data.batches import epoch_batches
from salcore.errors import UserError
from salcore.models import build
from salcore.training import Diverged, evaluate, final_weights, fit, steps_per_epoch


def weights(state):
    return {name: value.clone() for name, value in final_weights(state).items()}


def trained(member, data, state=None):
    """Rows without their seconds, and the final weights."""
    rows, last = [], state
    for record in fit(member, data, state=state):
        rows.append(without_seconds(record))
        last = record.state
    return rows, weights(last)


def without_seconds(record):
    return {key: value for key, value in record.row().items() if key != "seconds"}


def same_bits(first, second):
    assert first.keys() == second.keys()
    return all(first[name].numpy().tobytes() == second[name].numpy().tobytes() for name in first)


def copied(state):
    """What a checkpoint holds, as it comes back from a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.optimizer=adamw", "training.schedule=cosine", "training.weight_decay=0.1"),
        ("training.optimizer=sgd", "training.schedule=step", "training.milestones=[1, 2]"),
        ("training.optimizer=adadelta", "training.objective=guided", "training.learning_rate=1"),
        ("training.patience=2", "training.precision=bfloat16", "training.augment.flip=true"),
    ],
    ids=lambda overrides: overrides[0] if overrides else "adam",
)
def test_stopped_after_any_epoch_and_resumed_it_ends_with_the_same_bits(small, overrides):
    _, data, members = small(*overrides)
    states = []
    rows, expected = [], None
    for record in fit(members[1], data):
        states.append(copied(record.state))
        rows.append(without_seconds(record))
        expected = weights(record.state)
    assert len(rows) == 3
    for done, state in enumerate(states, 1):
        random.seed(done)
        torch.manual_seed(done)
        later, resumed = trained(members[1], data, state)
        assert later == rows[done:]
        assert same_bits(resumed, expected)


def test_order_of_members_and_what_else_is_drawn_do_not_matter(small):
    _, data, members = small()
    expected = {member.index: trained(member, data) for member in members}
    assert not same_bits(expected[0][1], expected[1][1])
    for member in reversed(members):
        rows, last = [], None
        for record in fit(member, data):  # the caller draws between epochs
            random.random()
            np.random.rand(7)  # noqa: NPY002
            torch.rand(3)
            rows.append(without_seconds(record))
            last = weights(record.state)
        assert rows == expected[member.index][0]
        assert same_bits(last, expected[member.index][1])


def test_global_generators_and_settings_are_left_alone(small):
    _, data, members = small("training.epochs=1")
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002
    list(fit(members[0], data))
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002
    assert before == after


def batches_seen(monkeypatch, member, data):
    """Every training batch that the objective of a member gets."""
    seen = []

    def spy(model, batch, **settings):
        seen.append((batch.inputs.clone(), batch.labels.clone()))
        return standard(model, batch, **settings)

    standard = training.OBJECTIVES["standard"]
    with monkeypatch.context() as patch:
        patch.setitem(training.OBJECTIVES, "standard", spy)
        list(fit(member, data))
    return seen


def start_of(member, data):
    untrained = replace(member, training=member.training.model_copy(update={"epochs": 0}))
    return weights(next(fit(untrained, data)).state)


def test_where_only_the_order_varies_members_start_from_identical_weights(small, monkeypatch):
    _, data, members = small("ensemble.vary=[order]", "training.epochs=1")
    assert same_bits(start_of(members[0], data), start_of(members[1], data))
    first, second = (batches_seen(monkeypatch, member, data) for member in members)
    assert not torch.equal(first[0][0], second[0][0])


def test_where_only_the_start_varies_members_see_identical_batches(small, monkeypatch):
    _, data, members = small("ensemble.vary=[init]", "training.epochs=2")
    assert not same_bits(start_of(members[0], data), start_of(members[1], data))
    first, second = (batches_seen(monkeypatch, member, data) for member in members)
    assert len(first) == len(second) == 2 * steps_per_epoch(len(data.train), 32)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], first[len(first) // 2][0])  # another epoch, another order


def test_where_only_augmentation_varies_members_see_the_same_samples_changed_otherwise(small, monkeypatch):
    _, data, members = small("ensemble.vary=[augment]", "training.epochs=1")
    first, second = (batches_seen(monkeypatch, member, data) for member in members)
    assert all(torch.equal(b, d) for (_, b), (_, d) in zip(first, second, strict=True))
    assert all(not torch.equal(a, c) for (a, _), (c, _) in zip(first, second, strict=True))


def test_where_only_dropout_varies_starts_and_batches_are_the_same_and_results_are_not(small, monkeypatch):
    _, data, members = small("ensemble.vary=[model]", "training.epochs=1")
    assert same_bits(start_of(members[0], data), start_of(members[1], data))
    first, second = (batches_seen(monkeypatch, member, data) for member in members)
    assert all(torch.equal(a, c) for (a, _), (c, _) in zip(first, second, strict=True))
    assert not same_bits(trained(members[0], data)[1], trained(members[1], data)[1])


def test_a_loss_that_is_not_finite_ends_the_member_and_names_the_epoch(small, monkeypatch):
    _, data, members = small()
    steps = steps_per_epoch(len(data.train), 32)
    calls = []
    standard = training.OBJECTIVES["standard"]

    def spoiled(*arguments, **settings):
        calls.append(0)
        return standard(*arguments, **settings) * (math.nan if len(calls) == steps + 1 else 1)

    monkeypatch.setitem(training.OBJECTIVES, "standard", spoiled)
    course = fit(members[0], data)
    assert next(course).epoch == 1
    with pytest.raises(Diverged, match="nan in epoch 2"):
        next(course)


def test_weights_that_blow_up_in_the_last_step_are_not_a_trained_member(small):
    _, data, members = small(
        *("training.epochs=1", "training.batch_size=500", "training.optimizer=sgd", "training.learning_rate=1.0e+38"),
        *("training.schedule=constant", "training.momentum=0", "model.norm=none", "model.dropout=0"),
    )
    with pytest.raises(Diverged, match="epoch 1"):
        list(fit(members[0], data))


def test_patience_stops_and_keeps_the_weights_of_the_best_epoch(small, monkeypatch):
    _, data, members = small("training.epochs=9", "training.patience=2", "training.schedule=constant")
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0, 1.0])
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: (next(losses), 0.5))
    seen = {record.epoch: (copied(record.state)["model"], weights(record.state)) for record in fit(members[0], data)}
    assert list(seen) == [1, 2, 3, 4]  # 2.0 again is no lower loss
    assert same_bits(seen[4][1], seen[2][0])
    assert not same_bits(seen[4][1], seen[4][0])


def test_a_resumed_training_remembers_its_patience_and_its_best(small, monkeypatch):
    _, data, members = small("training.epochs=9", "training.patience=2", "training.schedule=constant")
    course = [3.0, 2.0, 2.5, 2.6]
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: (next(losses), 0.5))
    losses = iter(course)
    states = {record.epoch: copied(record.state) for record in fit(members[0], data)}
    for done in (1, 2, 3, 4):
        losses = iter(course[done:])
        rest = list(fit(members[0], data, state=copied(states[done])))
        assert [record.epoch for record in rest] == list(range(done + 1, 5))
        last = rest[-1].state if rest else states[4]
        assert same_bits(final_weights(last), states[2]["model"])


def test_without_patience_the_last_weights_count(small):
    _, data, members = small()
    *_, last = fit(members[0], data)
    assert same_bits(final_weights(last.state), last.state["model"])


def test_patience_wants_a_validation_part(small):
    _, data, members = small("training.patience=1", "data.validation_fraction=0")
    with pytest.raises(UserError) as refused:
        training.check(members[0], data)
    assert refused.value.key == "training.patience"


def test_no_epochs_is_the_network_as_it_was_initialised(small):
    spec, data, members = small("training.epochs=0")
    (record,) = fit(members[1], data)
    with seeds.forked(members[1].seeds["init"]):
        expected = build(spec.model, input_shape=data.shape, classes=10).state_dict()
    assert same_bits(weights(record.state), expected)
    assert record.epoch == 0
    assert math.isnan(record.train_loss)
    assert 1 < record.eval_loss < 5


def test_weights_of_the_user_are_taken_as_they_are(small, tmp_path):
    _, data, members = small("training.epochs=1")
    expected = trained(members[0], data)[1]
    torch.save(expected, tmp_path / "mine.pt")
    _, _, (member,) = small(f"ensemble.weights=[{tmp_path / 'mine.pt'}]", "ensemble.members=1")
    (record,) = fit(member, data)
    assert same_bits(weights(record.state), expected)
    assert record.epoch == 0
    assert record.eval_accuracy == trained(members[0], data)[0][-1]["eval_accuracy"]


# A plain training loop, written out: the same batches, update rules from their papers, rates from their formulas.

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def rate_one_cycle(step, total, most):
    """Smith & Topin with torch's constants: cosine from most / 25 up to most at 30 %, then down to most / 250,000."""
    peak, end = 0.3 * total - 1, total - 1
    if step <= peak:
        low, high, share = most / 25, most, step / peak
    else:
        low, high, share = most, most / 25 / 1e4, (step - peak) / (end - peak)
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


RATES = {
    "one_cycle": rate_one_cycle,
    "step": lambda step, total, most: most * 0.5 ** sum(step >= edge * total // 3 for edge in (1, 2)),
    "cosine": lambda step, total, most: most * (1 + math.cos(math.pi * step / total)) / 2,
    "constant": lambda step, total, most: most,
}


def momentum_one_cycle(step, total):
    """Falls from 0.95 to 0.85 while the rate rises, and back."""
    peak, end = 0.3 * total - 1, total - 1
    low, high, share = (0.95, 0.85, step / peak) if step <= peak else (0.85, 0.95, (step - peak) / (end - peak))
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


def updated(name, weight, gradient, memory, *, rate, decay, momentum, step):
    """One step of one weight tensor; `memory` holds what the rule remembers."""
    if name != "adamw":
        gradient = gradient + decay * weight
    if name == "sgd":
        memory["v"] = gradient if "v" not in memory else momentum * memory["v"] + gradient
        return weight - rate * memory["v"]
    if name == "adadelta":
        memory["s"] = 0.9 * memory.get("s", torch.zeros_like(weight)) + 0.1 * gradient**2
        change = ((memory.get("d", torch.zeros_like(weight)) + 1e-6) / (memory["s"] + 1e-6)).sqrt() * gradient
        memory["d"] = 0.9 * memory.get("d", torch.zeros_like(weight)) + 0.1 * change**2
        return weight - rate * change
    if name == "adamw":
        weight = weight * (1 - rate * decay)
    memory["m"] = momentum * memory.get("m", torch.zeros_like(weight)) + (1 - momentum) * gradient
    memory["v"] = BETA2 * memory.get("v", torch.zeros_like(weight)) + (1 - BETA2) * gradient**2
    mean = memory["m"] / (1 - momentum ** (step + 1))
    return weight - rate * mean / ((memory["v"] / (1 - BETA2 ** (step + 1))).sqrt() + EPSILON)


def plain_loop(member, data, spec):
    """Mean loss of every epoch, the rate it began with, and the final weights, in float64."""
    rule, total = member.training, member.training.epochs * steps_per_epoch(len(data.train), member.training.batch_size)
    with seeds.forked(member.seeds["init"]):
        model = build(spec.model, input_shape=data.shape, classes=10).double().train()
    memories = {name: {} for name, _ in model.named_parameters()}
    step, history = 0, []
    for epoch in range(1, rule.epochs + 1):
        order = seeds.generator(member.seeds["order"], epoch)
        began, losses, count = RATES[rule.schedule](step, total, rule.learning_rate), 0.0, 0
        for inputs, labels, *_ in epoch_batches(data.train, data, batch_size=rule.batch_size, order=order):
            model.zero_grad()
            scores = model(inputs.double())
            loss = -scores.log_softmax(1)[range(len(labels)), labels].mean()
            loss.backward()
            cycled = rule.schedule == "one_cycle"
            momentum = momentum_one_cycle(step, total) if cycled and rule.optimizer != "sgd" else BETA1
            for name, weight in model.named_parameters():
                weight.data = updated(
                    *(rule.optimizer, weight.detach(), weight.grad, memories[name]),
                    **{"rate": RATES[rule.schedule](step, total, rule.learning_rate), "decay": rule.weight_decay},
                    **{"momentum": momentum, "step": step},
                )
            losses, count, step = losses + float(loss.detach()) * len(labels), count + len(labels), step + 1
        history.append((losses / count, began))
    return history, model.state_dict()


@pytest.mark.parametrize("schedule", ["one_cycle", "step", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adadelta"])
def test_training_equals_a_plain_loop(small, optimizer, schedule):
    spec, data, members = small(
        *(f"training.optimizer={optimizer}", f"training.schedule={schedule}", "training.milestones=[1, 2]"),
        *("training.weight_decay=0.01", "training.augment.crop=0", "model.dropout=0"),
        "model.norm=none",  # no bias whose gradient is rounding alone, which Adam would blow up
        f"training.learning_rate={ {'sgd': 0.05, 'adadelta': 1.0}.get(optimizer, 0.01) }",
    )
    rows, found = trained(members[0], data)
    history, expected = plain_loop(members[0], data, spec)
    np.testing.assert_allclose([row["train_loss"] for row in rows], [loss for loss, _ in history], rtol=2e-4)
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [rate for _, rate in history], rtol=1e-6)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].double(), value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_a_schedule_ends_where_the_training_ends(small):
    _, data, members = small("training.schedule=cosine")
    *_, last = fit(members[0], data)
    assert last.state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-12)


def test_validation_is_in_eval_mode_and_leaves_the_network_as_it_was(small):
    spec, data, _ = small()
    torch.manual_seed(0)
    model = build(spec.model, input_shape=data.shape, classes=10).train()
    model(torch.randn(64, *data.shape))  # batch-norm statistics that differ from those of a batch
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss, accuracy = evaluate(model, data.validation, data, "cpu", 7)
    assert same_bits(before, model.state_dict())
    assert all(module.training for module in model.modules())
    model.eval()
    (inputs, labels, *_), *rest = epoch_batches(data.validation, data, batch_size=999, order=None)
    assert not rest
    with torch.no_grad():
        scores = model(inputs).double()
    assert loss == pytest.approx(float(-scores.log_softmax(1)[range(len(labels)), labels].mean()), rel=1e-5)
    assert accuracy == float((scores.argmax(1) == labels).double().mean())
    assert evaluate(model, data.validation, data, "cpu", 999)[1] == accuracy
    assert not model.training
    handed = []
    evaluate(model, data.validation, data, "cpu", 7, lambda: handed.append(1))
    assert len(handed) == -(-len(data.validation) // 7), "after every batch another training may go on"


def test_nothing_to_validate_on_is_not_a_number(small):
    _, data, members = small("data.validation_fraction=0", "training.epochs=1")
    (record,) = fit(members[0], data)
    assert math.isnan(record.eval_loss)
    assert math.isnan(record.eval_accuracy)
    assert math.isfinite(record.train_loss)


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_a_last_batch_of_one_sample_trains_with_batch_norm(small, rest):
    _, data, members = small(
        f"data.train_samples={64 + rest}", "data.validation_fraction=0", "training.epochs=2", "model.depth=4"
    )
    records = list(fit(members[0], data))
    assert len(records) == 2
    steps = records[-1].state["schedule"]["last_epoch"]
    assert steps == 2 * steps_per_epoch(64 + rest, 32) == {0: 4, 1: 4, 2: 6}[rest]


def test_bfloat16_trains_float32_weights_to_another_result(small):
    _, data, members = small()
    _, half, others = small("training.precision=bfloat16")
    rows, weights16 = trained(others[0], half)
    assert all(value.dtype == torch.float32 for value in weights16.values() if value.is_floating_point())
    rows32, weights32 = trained(members[0], data)
    assert not same_bits(weights16, weights32)
    assert rows[-1]["train_loss"] == pytest.approx(rows32[-1]["train_loss"], rel=0.2)


def test_training_learns(small):
    _, data, members = small(
        "data.train_samples=600", "training.epochs=6", "model.dropout=0", "training.augment.crop=0"
    )
    records = list(fit(members[0], data))
    assert records[-1].eval_accuracy > 0.8
    assert records[-1].train_loss < records[0].train_loss / 3


class Masked(nn.Module):
    """A network with a causal mask, as tutorials keep it: its buffer holds minus infinity."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3))

    def forward(self, inputs):
        return self.linear(inputs.flatten(1))


def test_a_mask_of_minus_infinity_is_no_broken_network(small, monkeypatch):
    _, data, members = small("training.epochs=2")
    monkeypatch.setattr(training, "build", lambda *_, classes, **__: Masked(classes))
    assert [record.epoch for record in fit(members[0], data)] == [1, 2]
    monkeypatch.setattr(training, "evaluate", lambda model, *_: (0.5, float(model.linear.bias.data.fill_(math.inf)[0])))
    with pytest.raises(Diverged, match="not finite after epoch 1"):
        list(fit(members[0], data))


class Rough(nn.Linear):
    """Logits of eight bits."""

    def forward(self, inputs):
        return super().forward(inputs.flatten(1)).bfloat16()


def test_logits_of_few_bits_are_validated_in_full_precision(small):
    _, data, _ = small()
    torch.manual_seed(0)
    model = Rough(64, 10)
    [(inputs, labels, *_)] = epoch_batches(data.validation, data, batch_size=len(data.validation), order=None)
    expected = nn.functional.cross_entropy(model(inputs).detach().double(), labels)
    assert evaluate(model, data.validation, data, "cpu", 100)[0] == pytest.approx(float(expected), rel=1e-5)


def test_training_samples_without_a_known_class_are_none(small):
    _, data, members = small()
    unknown = replace(data, train=replace(data.train, labels=np.full_like(data.train.labels, -1)))
    with pytest.raises(UserError, match="training samples whose class is known"):
        training.check(members[0], unknown)
