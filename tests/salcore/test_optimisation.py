"""Optimizers by name: steps, states and checkpoints are those of torch's own, without its compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from salcore import optimisation
from salcore.spec import TrainingSpec

THEIRS = {
    "adam": lambda given: torch.optim.Adam(given, lr=0.01, weight_decay=0.1),
    "adamw": lambda given: torch.optim.AdamW(given, lr=0.01, weight_decay=0.1),
    "sgd": lambda given: torch.optim.SGD(given, lr=0.01, weight_decay=0.1, momentum=0.8),
    "adadelta": lambda given: torch.optim.Adadelta(given, lr=0.01, weight_decay=0.1),
}


def network():
    """A small network, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def ours(model, name):
    """The optimizer that a spec names."""
    training = TrainingSpec(optimizer=name, learning_rate=0.01, weight_decay=0.1, momentum=0.8)
    return optimisation.optimizer(model.parameters(), training)


def step(model, optimizer, number):
    """One step on numbers that are drawn for it."""
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", THEIRS)
def test_steps_are_those_of_torch(name):
    one, other = network(), network()
    optimizers = ours(one, name), THEIRS[name](other.parameters())
    for number in range(6):
        step(one, optimizers[0], number)
        step(other, optimizers[1], number)
    for mine, their, start in zip(one.parameters(), other.parameters(), network().parameters(), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-6)  # fused kernels round in another order
        assert not torch.equal(mine, start)
        assert mine.requires_grad
        assert mine.grad_fn is None, "a step is not part of a graph"


@pytest.mark.parametrize("name", THEIRS)
def test_a_checkpoint_goes_on_bit_for_bit(name):
    through, stopped = network(), network()
    optimizer = ours(through, name)
    for number in range(6):
        step(through, optimizer, number)
    before = ours(stopped, name)
    for number in range(3):
        step(stopped, before, number)
    after = ours(stopped, name)
    after.load_state_dict(before.state_dict())
    for number in range(3, 6):
        step(stopped, after, number)
    for one, other in zip(through.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(one, other)


def test_hooks_of_torch_are_called():
    """The methods that are unwrapped keep what torch itself hangs on them when an optimizer is made."""
    model, called = network(), []
    optimizer = ours(model, "adam")
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    step(model, optimizer, 0)
    assert called == ["before", "after"]


TRAIN = """
import sys, tempfile
import torch
from salcore.data import load
from salcore.device import pin
from salcore.member_files import train_member
from salcore.members import plan
from salcore.spec import from_dict
from salcore.storage import Store

pin(1)
spec = from_dict({
    "data": {"name": "digits", "train_samples": 64, "eval_samples": 16},
    "ensemble": {"members": 1},
    "training": {"epochs": 2, "optimizer": NAME, "schedule": SCHEDULE},
})
data = load(spec.data)
[member] = plan(spec, data.digest)
with tempfile.TemporaryDirectory() as folder:
    store = Store(folder)
    assert train_member(member, data, store).reason is None
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(
    ("name", "schedule"), [("adam", "one_cycle"), ("adamw", "cosine"), ("sgd", "step"), ("adadelta", "constant")]
)
def test_training_loads_no_compiler(name, schedule):
    """Its import would take every slot 1.6 s."""
    code = TRAIN.replace("NAME", repr(name)).replace("SCHEDULE", repr(schedule))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]


def rates(training, steps):
    """Learning rate and momentum of each step of an epoch."""
    optimizer = optimisation.optimizer(network().parameters(), training)
    schedule = optimisation.schedule(optimizer, training, steps)
    found = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group.get("momentum"), group.get("betas")))
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_one_cycle_leaves_sgd_the_momentum_that_was_asked_for(momentum):
    found = rates(TrainingSpec(epochs=1, optimizer="sgd", momentum=momentum), 10)
    assert {each[1] for each in found} == {momentum}
    assert len({each[0] for each in found}) == 10
    assert max(each[0] for each in found) == pytest.approx(0.01)


def test_one_cycle_cycles_the_betas_of_adam_as_torch_does():
    betas = [each[2][0] for each in rates(TrainingSpec(epochs=1), 10)]
    assert (min(betas), max(betas)) == (pytest.approx(0.85), pytest.approx(0.95))


def test_a_single_step_has_the_rate_that_was_asked_for():
    assert [each[0] for each in rates(TrainingSpec(epochs=1), 1)] == [0.01]
    assert max(each[0] for each in rates(TrainingSpec(epochs=1), 2)) > 0.001


def test_a_network_that_is_frozen_as_a_whole_is_told():
    with pytest.raises(ValueError, match="`model`: expected a parameter that can be trained"):
        ours(network().requires_grad_(False), "sgd")
