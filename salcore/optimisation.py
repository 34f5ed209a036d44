"""Optimizers and schedules by the names a spec uses. Every schedule advances once per step."""

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer, lr_scheduler

if TYPE_CHECKING:
    from salcore.spec import TrainingSpec


def _eager(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    """The optimizer without the wrappers that tell torch.compile how to take it, whose import costs a process 1.6 s."""
    own = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    return type(kind.__name__, (kind,), {**own, "step": torch.no_grad()(own["step"])})


_WRAPPED = "step", "add_param_group", "state_dict", "load_state_dict"
Adam, AdamW, SGD, Adadelta = map(_eager, (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adadelta))


def optimizer(parameters: Iterable[torch.nn.Parameter], training: "TrainingSpec") -> Optimizer:
    """The optimizer that `training.optimizer` names, over the parameters that want a gradient.

    Raises ValueError if there is none.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not wanted:
        raise ValueError("`model`: expected a parameter that can be trained, got a network that is frozen as a whole")
    rate, decay = training.learning_rate, training.weight_decay
    match training.optimizer:
        case "adam":
            return Adam(wanted, lr=rate, weight_decay=decay, fused=True)
        case "adamw":
            return AdamW(wanted, lr=rate, weight_decay=decay, fused=True)
        case "sgd":
            return SGD(wanted, lr=rate, weight_decay=decay, momentum=training.momentum, fused=True)
        case "adadelta":
            return Adadelta(wanted, lr=rate, weight_decay=decay)


def schedule(optimizer: Optimizer, training: "TrainingSpec", steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    """The course of the learning rate over `training.epochs` epochs.

    `one_cycle` is Super-convergence (Smith & Topin, 2017) as torch has it, but for SGD's momentum, which stays what the
    spec says; a single step has no course, and the rate itself. `step` multiplies the rate by `training.decay` after
    each epoch of `training.milestones`; `cosine` falls to zero over the whole training.
    """
    steps = training.epochs * steps_per_epoch
    match training.schedule:
        case "one_cycle" if steps > 1:
            betas = training.optimizer in ("adam", "adamw")
            return lr_scheduler.OneCycleLR(optimizer, training.learning_rate, steps, cycle_momentum=betas)
        case "step":
            milestones = [epoch * steps_per_epoch for epoch in training.milestones]
            return lr_scheduler.MultiStepLR(optimizer, milestones, training.decay)
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, steps)
        case "constant" | "one_cycle":
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)
